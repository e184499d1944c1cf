"""The requests that a worker knows, by number, and the class that limits and figures put each in."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CLASSES = ("read", "write", "metadata")

# As in include/uapi/linux/fuse.h, without FUSE_.
NAMES: Mapping[int, str] = MappingProxyType(
    {
        1: "LOOKUP",
        2: "FORGET",
        3: "GETATTR",
        4: "SETATTR",
        5: "READLINK",
        6: "SYMLINK",
        8: "MKNOD",
        9: "MKDIR",
        10: "UNLINK",
        11: "RMDIR",
        12: "RENAME",
        13: "LINK",
        14: "OPEN",
        15: "READ",
        16: "WRITE",
        17: "STATFS",
        18: "RELEASE",
        20: "FSYNC",
        21: "SETXATTR",
        22: "GETXATTR",
        23: "LISTXATTR",
        24: "REMOVEXATTR",
        25: "FLUSH",
        26: "INIT",
        27: "OPENDIR",
        28: "READDIR",
        29: "RELEASEDIR",
        30: "FSYNCDIR",
        34: "ACCESS",
        35: "CREATE",
        36: "INTERRUPT",
        38: "DESTROY",
        42: "BATCH_FORGET",
        43: "FALLOCATE",
        44: "READDIRPLUS",
        45: "RENAME2",
        46: "LSEEK",
        47: "COPY_FILE_RANGE",
        50: "SYNCFS",
    }
)
_CLASS = {"READ": "read", "WRITE": "write", "COPY_FILE_RANGE": "write", "FALLOCATE": "write"}


def name(opcode: int) -> str:
    """Of an opcode that is no request here, OTHER: the number is a guest's, and of them there are many."""
    return NAMES.get(opcode, "OTHER")


def class_of(opcode: int) -> str:
    """All that moves no file data is metadata."""
    return _CLASS.get(name(opcode), "metadata")
