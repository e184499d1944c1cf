"""A connected monitor, as far as the supervisor may know it: who it is and whether it is still there.

Not one byte of the connection is ever read here (I1). Who connected is what the kernel says, and whether the peer has
hung up is asked by a poll for no event at all, which still reports hang-ups.
"""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    """The process that called connect(2). *pid* is 0 when it lives in a pid namespace that we cannot see."""

    pid: int
    uid: int

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid})"


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end, as the kernel says."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


class Client:
    """One accepted connection and the duty to close it. *arrived* is on the event loop's clock, in seconds."""

    def __init__(self, connection: socket.socket, arrived: float) -> None:
        self._connection = connection
        self.arrived = arrived
        self.peer = peer_of(connection)

    def fileno(self) -> int:
        return self._connection.fileno()

    def hung_up(self) -> bool:
        """True once the monitor has closed its end, even with bytes of it unread. Closed here counts as well."""
        if self._connection.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._connection, 0)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._connection.close()
