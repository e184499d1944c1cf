"""Peers of a listening socket, a few at a time: nobody who connects can hold up anything else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from virtiofs_sandbox.supervisor.listener import Listener

_AT_ONCE = 8
_PAUSE = 1.0
_LAST_SECONDS = 0.2


class Conversations:
    """Takes over *listener*, and talks to whoever connects until closed. To be made inside the event loop."""

    def __init__(
        self,
        listener: Listener,
        talk: Callable[[socket.socket], Coroutine[Any, Any, None]],
        failed: Callable[[str], None],
    ) -> None:
        """*talk* closes its connection, and sees to it that it ends; *failed* gets sentences."""
        self._listener = listener
        self._talk = talk
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._accept_again()

    async def close(self, seconds: float) -> None:
        """Accepts no more; what is under way is cut short after *seconds*, and the file of the socket is gone."""
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        tasks = tuple(self._tasks)
        if tasks:
            # An answer that is made has time to be sent.
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept_again(self) -> None:
        self._pause = None
        if not self._closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()
        except OSError as error:
            self._failed(f"cannot accept: {error.strerror}")
            self._loop.remove_reader(self._listener.fileno())
            self._pause = self._loop.call_later(_PAUSE, self._accept_again)
            return
        if connection is None:
            return
        connection.setblocking(False)
        task = asyncio.ensure_future(self._talk(connection))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if len(self._tasks) >= _AT_ONCE:
            # The others wait in the backlog.
            self._loop.remove_reader(self._listener.fileno())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(f"fault in the supervisor: {error!r}")
        if self._pause is None:
            self._accept_again()
