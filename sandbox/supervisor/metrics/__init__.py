"""Metrics for Prometheus: what is told, how it is written, who is answered (docs/metrics.md)."""
