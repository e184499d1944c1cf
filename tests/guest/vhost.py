"""vhost-user messages as bytes: 12 bytes of header, a payload, descriptors beside them (QEMU's vhost-user.rst)."""

from __future__ import annotations

import enum
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct("<III")
VERSION = 1
REPLY = 1 << 2
NEED_REPLY = 1 << 3
MAX_DESCRIPTORS = 32


class Request(enum.IntEnum):
    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    RESET_DEVICE = 34
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class Feature(enum.IntFlag):
    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    PROTOCOL_FEATURES = 1 << 30
    VERSION_1 = 1 << 32


class ProtocolFeature(enum.IntFlag):
    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    REPLY_ACK = 1 << 3
    BACKEND_REQ = 1 << 5
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    RESET_DEVICE = 1 << 13
    CONFIGURE_MEM_SLOTS = 1 << 15
    DEVICE_STATE = 1 << 19


@dataclass(frozen=True)
class Message:
    request: int
    flags: int
    payload: bytes


class DisconnectedError(ConnectionError):
    """The other side closed the connection: what a refused message or a dead worker looks like."""


class Channel:
    """The front end's end of a vhost-user connection. Every receive is bounded by *seconds*."""

    def __init__(self, line: socket.socket, seconds: float = 10) -> None:
        self.line = line
        self.line.settimeout(seconds)

    @classmethod
    def connect(cls, path: Path, seconds: float = 10) -> Channel:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(seconds)
        line.connect(str(path))
        return cls(line, seconds)

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = VERSION) -> None:
        """Raises DisconnectedError."""
        self.send_bytes(HEADER.pack(request, flags, len(payload)) + payload, fds)

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes that need not be a message."""
        try:
            sent = socket.send_fds(self.line, [data], fds) if fds else 0
            self.line.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise DisconnectedError(str(error)) from error

    def receive(self) -> Message:
        """Raises DisconnectedError, TimeoutError."""
        request, flags, size = HEADER.unpack(self._exactly(HEADER.size))
        return Message(request, flags, self._exactly(size))

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = VERSION) -> bytes:
        """Send a request that has a reply of its own and return the reply's payload."""
        self.send(request, payload, fds, flags)
        reply = self.receive()
        if reply.request != request or not reply.flags & REPLY:
            raise AssertionError(f"reply to {request!r} was {reply!r}")
        return reply.payload

    def ask_u64(self, request: int, payload: bytes = b"") -> int:
        (value,) = struct.unpack("<Q", self.ask(request, payload))
        return int(value)

    def acked(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send with need_reply and return the acknowledgement: 0 is success."""
        (value,) = struct.unpack("<Q", self.ask(request, payload, fds, VERSION | NEED_REPLY))
        return int(value)

    def is_closed(self) -> bool:
        """Wait for the other side to close; replies still on their way are dropped. False when it did not in time."""
        try:
            while self.line.recv(4096):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self.line.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self.line.recv(size - len(data))
            except ConnectionResetError as error:
                raise DisconnectedError(str(error)) from error
            if not part:
                raise DisconnectedError("end of file on the vhost-user connection")
            data += part
        return data
