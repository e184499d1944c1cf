"""Files of /proc, /sys and /etc that may be missing, masked or forbidden."""

from __future__ import annotations

from pathlib import Path


def text(path: Path) -> str | None:
    """The content of *path* without the spaces around it; None if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> int | None:
    content = text(path)
    return int(content) if content is not None and content.lstrip("-").isdigit() else None


def status() -> dict[str, str]:
    """/proc/self/status by field name; empty if it cannot be read."""
    lines = (text(Path("/proc/self/status")) or "").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
