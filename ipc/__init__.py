"""Messages between supervisor and worker, and the passing of descriptors (README.md has the formats)."""
