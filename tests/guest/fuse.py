"""FUSE requests and replies as bytes (linux/fuse.h, protocol 7.38): the client's side, for exact requests."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
ENTRY = struct.Struct("<QQQQII")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ROOT = 1
MAJOR, MINOR = 7, 38


class Opcode(enum.IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


# Answered by nothing at all: their descriptors come back with length 0.
SILENT = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


class SetAttr(enum.IntFlag):
    """What a SETATTR changes: FATTR_*."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6


@dataclass(frozen=True)
class Reply:
    """*length* is what the device says it wrote; *error* is positive errno or 0; *body* follows the header."""

    length: int
    error: int
    unique: int
    body: bytes


@dataclass(frozen=True)
class Attr:
    inode: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int

    @classmethod
    def parse(cls, data: bytes) -> Attr:
        fields = ATTR.unpack_from(data)
        return cls(inode=fields[0], size=fields[1], mode=fields[9], nlink=fields[10], uid=fields[11], gid=fields[12])


@dataclass(frozen=True)
class Entry:
    node: int
    generation: int
    attr: Attr

    @classmethod
    def parse(cls, body: bytes) -> Entry:
        node, generation, *_ = ENTRY.unpack_from(body)
        return cls(node, generation, Attr.parse(body[ENTRY.size :]))


@dataclass(frozen=True)
class InitReply:
    major: int
    minor: int
    max_readahead: int
    flags: int
    max_write: int
    max_pages: int

    @classmethod
    def parse(cls, body: bytes) -> InitReply:
        major, minor, readahead, flags, _, _, max_write, _, max_pages, _, flags2 = struct.unpack_from(
            "<IIIIHHIIHHI", body
        )
        return cls(major, minor, readahead, flags | flags2 << 32, max_write, max_pages)


@dataclass(frozen=True)
class DirectoryEntry:
    inode: int
    offset: int
    kind: int
    name: bytes


def header(
    opcode: int, unique: int, node: int, length: int, *, uid: int = 0, gid: int = 0, pid: int = 1, extensions: int = 0
) -> bytes:
    return IN_HEADER.pack(length, opcode, unique, node, uid, gid, pid, extensions, 0)


def init(minor: int = MINOR, flags: int = 0, readahead: int = 1 << 17) -> bytes:
    flags2 = flags >> 32
    if flags2:
        flags |= 1 << 30  # FUSE_INIT_EXT: the second word counts
    return struct.pack("<IIIII11I", MAJOR, minor, readahead, flags & 0xFFFF_FFFF, flags2, *[0] * 11)


def name(text: bytes) -> bytes:
    return text + b"\0"


def read(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


def write(handle: int, offset: int, data: bytes) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data


def open_flags(flags: int) -> bytes:
    return struct.pack("<II", flags, 0)


def create(text: bytes, flags: int, mode: int = 0o644) -> bytes:
    return struct.pack("<IIII", flags, mode, 0, 0) + name(text)


def release(handle: int) -> bytes:
    return struct.pack("<QIIQ", handle, 0, 0, 0)


def getattr_of(handle: int | None = None) -> bytes:
    return struct.pack("<IIQ", 0 if handle is None else 1, 0, handle or 0)


def mkdir(text: bytes, mode: int = 0o755) -> bytes:
    return struct.pack("<II", mode, 0) + name(text)


def rename(old: bytes, to: int, new: bytes) -> bytes:
    return struct.pack("<Q", to) + name(old) + name(new)


def rename2(old: bytes, to: int, new: bytes, flags: int = 0) -> bytes:
    return struct.pack("<QII", to, flags, 0) + name(old) + name(new)


def symlink(text: bytes, target: bytes) -> bytes:
    return name(text) + name(target)


def mknod(text: bytes, mode: int, device: int = 0) -> bytes:
    return struct.pack("<IIII", mode, device, 0, 0) + name(text)


def link(node: int, text: bytes) -> bytes:
    return struct.pack("<Q", node) + name(text)


def setattr_of(
    valid: SetAttr, *, handle: int = 0, size: int = 0, mode: int = 0, uid: int = 0, gid: int = 0, time: int = 0
) -> bytes:
    """struct fuse_setattr_in; *time* in seconds is both access and modification time."""
    return struct.pack("<IIQQQQQQIIIIIIII", valid, 0, handle, size, 0, time, time, 0, 0, 0, 0, mode, 0, uid, gid, 0)


def setxattr(text: bytes, value: bytes) -> bytes:
    return struct.pack("<II", len(value), 0) + name(text) + value


def getxattr(text: bytes, size: int = 64) -> bytes:
    return struct.pack("<II", size, 0) + name(text)


def fallocate(handle: int, offset: int, length: int, mode: int = 0) -> bytes:
    return struct.pack("<QQQII", handle, offset, length, mode, 0)


def copy_file_range(source: int, node: int, handle: int, length: int) -> bytes:
    """From the start of *source* to the start of *handle*, which is of *node*."""
    return struct.pack("<7Q", source, 0, node, handle, 0, length, 0)


def lseek(handle: int, offset: int, whence: int) -> bytes:
    return struct.pack("<QQII", handle, offset, whence, 0)


def flush(handle: int) -> bytes:
    return struct.pack("<QIIQ", handle, 0, 0, 0)


def fsync(handle: int) -> bytes:
    return struct.pack("<QII", handle, 0, 0)


def forget(count: int) -> bytes:
    return struct.pack("<Q", count)


def parse_handle(body: bytes) -> int:
    """The fh of an open_out."""
    (handle,) = struct.unpack_from("<Q", body)
    return int(handle)


def parse_directory(body: bytes) -> Iterator[DirectoryEntry]:
    """The records of a READDIR reply."""
    at = 0
    while at + 24 <= len(body):
        inode, offset, length, kind = struct.unpack_from("<QQII", body, at)
        yield DirectoryEntry(inode, offset, kind, body[at + 24 : at + 24 + length])
        at += -(-(24 + length) // 8) * 8
