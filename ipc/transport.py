"""The control socket: one message per datagram, descriptors beside it, never blocking.

The receiver decides how many descriptors it is willing to be given. The supervisor takes none, so the kernel throws
away whatever a hostile worker attaches before it could occupy a slot in the supervisor's table.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import termios
from collections.abc import Sequence
from dataclasses import dataclass

from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.ipc.messages import SIZE, Direction, Message, MessageError, decode, encode

_FD_BYTES = array.array("i").itemsize


class ChannelClosedError(Exception):
    """The other end is gone."""


class UnreadError(Exception):
    """The other end is gone, and had not read everything. Its own last messages may follow."""


@dataclass(frozen=True)
class Received:
    message: Message
    descriptors: tuple[OwnedFd, ...]


class ControlChannel:
    """One end of a control socket. *incoming* is the direction of what this end receives."""

    def __init__(self, end: socket.socket, incoming: Direction) -> None:
        end.setblocking(False)
        self._socket = end
        self._incoming = incoming

    @classmethod
    def pair(cls) -> tuple[ControlChannel, OwnedFd]:
        """The supervisor's end, and the descriptor of the worker's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours, Direction.TO_SUPERVISOR), OwnedFd(theirs.detach())

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def all_read(self) -> bool:
        """Whether the other end has received everything that was sent."""
        return fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)) == bytes(4)

    def left_unread(self) -> bool:
        """What UnreadError says, for who receives no more."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Sends at once or not at all: BlockingIOError when the queue is full, ChannelClosedError when nobody is there.

        The caller keeps its own copies of *descriptors*.
        """
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())] if descriptors else []
        )
        try:
            self._socket.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError from error

    def receive(self, max_descriptors: int = 0) -> Received | None:
        """The next message, or None when there is none yet.

        Raises ChannelClosedError at the end, UnreadError once before that where it applies, and MessageError for
        anything out of order; descriptors that came with a refused message are closed.
        """
        space = socket.CMSG_SPACE(max_descriptors * _FD_BYTES) if max_descriptors else 0
        try:
            datagram, ancillary, flags, _ = self._socket.recvmsg(SIZE + 1, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            # unix_release_sock(): what the other end had not received went with it.
            raise UnreadError from error
        owned = _adopt(ancillary)
        try:
            if flags & socket.MSG_CTRUNC:
                raise MessageError(f"more descriptors than the {max_descriptors} that are taken")
            if not datagram and not owned:
                raise ChannelClosedError
            message = decode(datagram, len(owned), self._incoming)
        except (MessageError, ChannelClosedError):
            for descriptor in owned:
                descriptor.close()
            raise
        return Received(message, owned)


def _adopt(ancillary: list[tuple[int, int, bytes]]) -> tuple[OwnedFd, ...]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            # A cut-off control message may end in half a number.
            numbers.frombytes(data[: len(data) - len(data) % _FD_BYTES])
    return tuple(OwnedFd(number) for number in numbers)
