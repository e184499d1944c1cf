"""What one share is: the input of everything else."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

MAX_TAG_BYTES = 36
MAX_QUEUES = 8


class ShareError(Exception):
    """This cannot be shared; str() is one sentence that names the value and what is accepted."""


class Access(enum.Enum):
    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


class CacheMode(enum.Enum):
    NEVER = "never"
    AUTO = "auto"
    METADATA = "metadata"
    ALWAYS = "always"


class LogLevel(enum.Enum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"

    @property
    def rank(self) -> int:
        """0 for what matters most; a level shows every rank up to its own."""
        return list(LogLevel).index(self)


@dataclass(frozen=True)
class Share:
    """One directory under one tag.

    *name* stands in log lines; *tag* is what the guest mounts by, 1 to 36 bytes of UTF-8 (virtio 1.3, section 5.11.4);
    *queues* is the number of request queues offered, 1 to 8.
    """

    name: str
    source: Path
    tag: str
    access: Access = Access.READ_WRITE
    cache: CacheMode = CacheMode.AUTO
    writeback: bool = False
    xattr: bool = False
    queues: int = 4
    log_level: LogLevel = LogLevel.INFO

    def __post_init__(self) -> None:
        check_tag(self.tag)
        if not self.name or not self.name.isprintable():
            raise ShareError(f"share name {self.name!r}: printable characters are accepted, at least one")
        if not 1 <= self.queues <= MAX_QUEUES:
            raise ShareError(f"{self.queues} queues: 1 to {MAX_QUEUES} are accepted")


def check_tag(tag: str) -> str:
    """Returns *tag*; ShareError when no guest could mount by it."""
    if not tag.isprintable():
        raise ShareError(f"tag {tag!r}: printable characters are accepted")
    if not 1 <= len(tag.encode()) <= MAX_TAG_BYTES:
        raise ShareError(f"tag {tag!r} has {len(tag.encode())} bytes: 1 to {MAX_TAG_BYTES} are accepted")
    return tag


def resolve_source(directory: Path) -> Path:
    """The absolute path of *directory* without symbolic links; ShareError when it is none or cannot be entered."""
    try:
        resolved = directory.resolve(strict=True)
        if not resolved.is_dir():
            raise ShareError(f"share directory {directory}: it is no directory; share the directory that holds it")
    except OSError as error:
        hint = "create it first" if isinstance(error, FileNotFoundError) else "see its path and permissions"
        raise ShareError(f"share directory {directory}: {error.strerror}; {hint}") from error
    except RuntimeError as error:
        raise ShareError(f"share directory {directory}: symbolic links lead in a circle") from error
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise ShareError(f"share directory {directory}: no permission to list it; run as somebody who may")
    return resolved
