"""The way of the log to a reader that may be slow, gone or stuck: nothing here waits for it.

What it does not take at once is kept, in order and within a bound, and tried again; beyond the bound lines are lost,
and their number is told once it takes lines again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterator

_BYTES = 256 << 10
_RETRY_SECONDS = 0.2


class Stream:
    """An inherited descriptor, written to without waiting, and without changing it for those that share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mode = 0
        self._own: int | None = None
        with contextlib.suppress(OSError):
            self._mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(self._mode) or stat.S_ISCHR(self._mode):
            # O_NONBLOCK belongs to the open file, which is somebody else's as well; opened anew it is ours alone.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with contextlib.suppress(OSError):
                self._own = os.open(f"/proc/self/fd/{descriptor}", flags)

    def send(self, data: bytes) -> int:
        """Returns how many bytes were taken. Raises BlockingIOError when none are now, another OSError when nobody is
        there.
        """
        if self._own is not None:
            return os.write(self._own, data)
        if stat.S_ISSOCK(self._mode):
            with _borrowed(self._descriptor) as connection:
                return connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if stat.S_ISREG(self._mode):
            return os.write(self._descriptor, data)
        return self._send_when_ready(data)

    def close(self) -> None:
        if self._own is not None:
            os.close(self._own)
            self._own = None

    def _send_when_ready(self, data: bytes) -> int:
        """For what could not be opened anew. A pipe that is ready takes PIPE_BUF bytes, pipe(7)."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self._descriptor, data[: select.PIPE_BUF])


class Outlet:
    """*send* takes bytes, returns how many, and raises BlockingIOError while it takes none. What it refuses otherwise
    goes to *instead*, which gets what was put beside it. *lost* makes both forms of the line that tells how many lines
    were lost.
    """

    def __init__(
        self,
        send: Callable[[bytes], int],
        *,
        lost: Callable[[int], tuple[bytes, bytes]],
        instead: Callable[[bytes], None] | None = None,
        most: int = _BYTES,
    ) -> None:
        self._send = send
        self._lost_line = lost
        self._instead = instead
        self._most = most
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._lost = 0
        self._retry: asyncio.TimerHandle | None = None

    def put(self, item: bytes, otherwise: bytes = b"") -> None:
        """Passes *item* on, now or soon."""
        if self._size + len(item) > self._most:
            self.flush()
        if self._size + len(item) > self._most:
            self._lost += 1
            return
        self._append(item, otherwise)
        self.flush()

    def flush(self) -> None:
        """Passes on what is taken now."""
        while self._waiting:
            item, otherwise = self._waiting[0]
            try:
                taken = self._send(item)
            except BlockingIOError:
                self._try_again_later()
                return
            except OSError:
                taken = len(item)
                if self._instead is not None:
                    self._instead(otherwise)
            self._size -= taken
            if taken < len(item):
                self._waiting[0] = item[taken:], otherwise
                continue
            self._waiting.popleft()
            if self._lost and not self._waiting:
                lost, self._lost = self._lost, 0
                self._append(*self._lost_line(lost))

    def close(self) -> None:
        """What is not taken by now is lost."""
        self.flush()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _append(self, item: bytes, otherwise: bytes) -> None:
        self._waiting.append((item, otherwise))
        self._size += len(item)

    def _try_again_later(self) -> None:
        if self._retry is not None:
            return
        # Without a loop the next line tries again.
        with contextlib.suppress(RuntimeError):
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._flush_again)

    def _flush_again(self) -> None:
        self._retry = None
        self.flush()


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    connection = socket.socket(fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()
