"""What one share is: the input of everything else."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


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
