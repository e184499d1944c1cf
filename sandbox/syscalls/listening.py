"""Which socket files somebody listens on, asked of the kernel without connecting to any. sock_diag(7)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x301
_LISTENING = 1 << 10
_UDIAG_SHOW_VFS = 2
_UNIX_DIAG_VFS = 1
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBHIIIII")
_MESSAGE_BYTES = 16
_ATTRIBUTE = struct.Struct("=HH")
_PLACE = struct.Struct("=II")
_INODE_MASK = 0xFFFFFFFF


def listened_on(path: str) -> bool:
    """Whether a socket of this network namespace listens at the file *path*. Raises OSError where none can say."""
    state = os.lstat(path)
    wanted = (state.st_ino & _INODE_MASK, os.major(state.st_dev) << 20 | os.minor(state.st_dev))
    return wanted in set(_places())


def _places() -> Iterator[tuple[int, int]]:
    """(inode, device) of every listening socket's file, as the kernel numbers them itself."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diagnosis:
        question = _QUESTION.pack(socket.AF_UNIX, 0, 0, _LISTENING, 0, _UDIAG_SHOW_VFS, 0, 0)
        diagnosis.settimeout(2)
        header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
        diagnosis.send(header + question)
        while True:
            answer = diagnosis.recv(1 << 20)
            at = 0
            while at < len(answer):
                length, kind, _, _, _ = _HEADER.unpack_from(answer, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (number,) = struct.unpack_from("=i", answer, at + _HEADER.size)
                    raise OSError(-number, f"sock_diag: {os.strerror(-number)}")
                yield from _place(answer[at + _HEADER.size + _MESSAGE_BYTES : at + length])
                at += _aligned(length)


def _place(attributes: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, at)
        if kind == _UNIX_DIAG_VFS:
            yield _PLACE.unpack_from(attributes, at + _ATTRIBUTE.size)
        at += max(_aligned(length), _ATTRIBUTE.size)


def _aligned(length: int) -> int:
    return length + 3 & ~3
