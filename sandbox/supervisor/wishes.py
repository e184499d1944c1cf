"""What is asked of a supervisor by signals and requests, as something to wait for: reload, stop, stop at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Wishes:
    """What is asked of the process, by signals and by requests, as something to wait for.

    SIGHUP is a reload where there is something to reload, and else stops like SIGTERM and SIGINT, unless nohup(1)
    switched it off.
    """

    def __init__(self, *, reloads: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._stops: asyncio.Queue[str] = asyncio.Queue()
        self._reload = asyncio.Event()
        self._reloads = reloads

    def __enter__(self) -> Wishes:
        for number in _STOP_SIGNALS if self._reloads else (*_STOP_SIGNALS, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self.ask_to_stop, number.name)
        if self._reloads:
            self._loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (*_STOP_SIGNALS, signal.SIGHUP):
            self._loop.remove_signal_handler(number)

    def ask_to_stop(self, reason: str) -> None:
        self._stops.put_nowait(reason)

    async def stop(self) -> str:
        """The reason."""
        return await self._stops.get()

    async def reload(self) -> None:
        """Several that came since the last one are one."""
        await self._reload.wait()
        self._reload.clear()


class _Stoppable(Protocol):
    async def stop(self, grace: float) -> bool: ...
    def kill(self, reason: str) -> None: ...


async def reload_until(
    stop: asyncio.Future[Any], wishes: Wishes, reload: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Does *reload* whenever it is wished; returns when *stop* is done, whatever is under way."""
    while not stop.done():
        if await done_before(wishes.reload(), stop):
            await done_before(reload(), stop)


async def done_before(work: Coroutine[Any, Any, object], stop: asyncio.Future[Any]) -> bool:
    """Whether *work* is done; False when *stop* came first. Raises what *work* raises."""
    task = asyncio.ensure_future(work)
    waiting: set[asyncio.Future[Any]] = {task, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return False
    task.result()
    return not stop.done()


async def stop_all(shares: _Stoppable, wishes: Wishes, grace: float) -> bool:
    """Stops *shares* within *grace*, which a second wish to stop cuts short. Returns what their `stop` does."""
    stopping = asyncio.ensure_future(shares.stop(grace))
    second = asyncio.ensure_future(wishes.stop())
    waiting: set[asyncio.Future[Any]] = {stopping, second}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        shares.kill("a second signal")
    second.cancel()
    return await stopping
