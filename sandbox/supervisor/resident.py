"""The resident process: from a plan and a zygote to a share in service, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import HostLacks, Sink, Stopped, Stopping
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.service import Service
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Worker, launch_worker
from virtiofs_sandbox.supervisor.zygotes import Launching, Z, Zygotes

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _StopSignals:
    """SIGTERM, SIGINT and SIGHUP as something to wait for; a SIGHUP that nohup(1) switched off stays off."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def __enter__(self) -> _StopSignals:
        for number in _STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, self._received.put_nowait, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _STOP_SIGNALS:
            self._loop.remove_signal_handler(number)

    async def next(self) -> signal.Signals:
        return await self._received.get()


async def run_share(
    share: Share,
    plan: LaunchPlan,
    launching: Launching[Z],
    *,
    listen: Callable[[], Listener],
    sink: Sink,
    timing: Timing,
) -> bool:
    """Serves *share* until a signal. False when something was left behind.

    *listen* is called once a worker is warm. Raises StartError, ListenError.
    """
    for warning in plan.warnings:
        sink(HostLacks(share.name, warning))
    zygotes = Zygotes(share.name, launching, sink)
    denials = Denials(sink)

    async def launch(generation: int) -> Worker:
        worker = await launch_worker(share, plan, generation, zygotes)
        denials.launched(share.name, generation, worker.pid)
        return worker

    service = Service(share.name, launch, denials.show, timing)
    with denials, _StopSignals() as signals:
        wait = asyncio.ensure_future(signals.next())
        clean = True
        try:
            if await _started(service, wait):
                service.listen(listen())
                await wait
            sink(Stopping(share.name, wait.result().name, timing.stop_grace))
        finally:
            wait.cancel()
            clean = await _stop(service, signals, timing.stop_grace)
            zygotes.close()
    sink(Stopped(share.name))
    return clean


async def _started(service: Service, stop: asyncio.Future[signal.Signals]) -> bool:
    """Whether a worker is warm; False when *stop* came first."""
    start = asyncio.ensure_future(service.start())
    waiting: set[asyncio.Future[Any]] = {start, stop}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if not start.done():
        start.cancel()
        return False
    start.result()
    return not stop.done()


async def _stop(service: Service, signals: _StopSignals, grace: float) -> bool:
    stopping = asyncio.ensure_future(service.stop(grace))
    second = asyncio.ensure_future(signals.next())
    waiting: set[asyncio.Future[Any]] = {stopping, second}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if second.done():
        service.kill("a second signal")
    second.cancel()
    return await stopping
