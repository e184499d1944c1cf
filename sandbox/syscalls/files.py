"""Looking at files: statx(2), name_to_handle_at(2), and the call on extended attributes that needs no open file."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from virtiofs_sandbox.syscalls.base import checked, declare_number
from virtiofs_sandbox.syscalls.mounts import AT_FDCWD, AT_SYMLINK_NOFOLLOW

STATX_BASIC_STATS = 0x07FF
STATX_BTIME = 0x0800
STATX_MNT_ID = 0x1000
_HANDLE_BYTES = 128


class _Timestamp(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_uint32), ("spare", ctypes.c_int32)]


class _Statx(ctypes.Structure):
    """struct statx up to stx_mnt_id; the kernel writes 256 bytes."""

    _fields_ = [
        ("mask", ctypes.c_uint32),
        ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64),
        ("numbers", ctypes.c_uint32 * 4),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64),
        ("atime", _Timestamp),
        ("btime", _Timestamp),
        ("ctime", _Timestamp),
        ("mtime", _Timestamp),
        ("devices", ctypes.c_uint32 * 4),
        ("mnt_id", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 104),
    ]


class _FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint32), ("type", ctypes.c_int32), ("handle", ctypes.c_uint8 * _HANDLE_BYTES)]


class _XattrArgs(ctypes.Structure):
    _fields_ = [("value", ctypes.c_uint64), ("size", ctypes.c_uint32), ("flags", ctypes.c_uint32)]


_statx = declare_number(332, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Statx))
_name_to_handle_at = declare_number(
    303, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_FileHandle), ctypes.POINTER(ctypes.c_int), ctypes.c_int
)
_getxattrat = declare_number(
    464, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.POINTER(_XattrArgs), ctypes.c_size_t
)


@dataclass(frozen=True)
class Facts:
    """What statx(2) says beyond stat(2). *birth_ns* and *mount* are None where the kernel or file system has none."""

    birth_ns: int | None
    mount: int | None


def facts(path: bytes) -> Facts:
    """Birth time and mount id of *path*, not following a link. Raises SyscallError."""
    buffer = _Statx()
    mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID
    checked(_statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, mask, ctypes.byref(buffer)), "statx", path)
    birth = buffer.btime.sec * 1_000_000_000 + buffer.btime.nsec if buffer.mask & STATX_BTIME else None
    return Facts(birth, buffer.mnt_id if buffer.mask & STATX_MNT_ID else None)


def file_handle(path: bytes) -> bytes:
    """The file system's own handle of *path*. Raises SyscallError(EOPNOTSUPP) where it has none."""
    handle = _FileHandle(_HANDLE_BYTES)
    mount = ctypes.c_int()
    found = _name_to_handle_at(AT_FDCWD, path, ctypes.byref(handle), ctypes.byref(mount), 0)
    checked(found, "name_to_handle_at", path)
    return bytes(handle.handle[: handle.bytes])


def attribute_size(path: bytes, name: bytes) -> int:
    """The size of extended attribute *name* of *path*, which is neither opened nor followed. Raises SyscallError."""
    arguments = _XattrArgs()
    reference = ctypes.byref(arguments)
    size = _getxattrat(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, name, reference, ctypes.sizeof(arguments))
    return checked(size, "getxattrat", path)
