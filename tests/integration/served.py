"""A share in service inside the test's own event loop, with workers that do what the test says and short periods."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from virtiofs_sandbox.ipc.config import Rules
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.backoff import BackoffLimits
from virtiofs_sandbox.supervisor.events import Event
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile
from virtiofs_sandbox.supervisor.service import Service
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Terms, Worker, launch_worker
from virtiofs_sandbox.supervisor.zygotes import Launching, Zygotes

from tests.fakes.launching import PLAN, Adjust, Script, anything, fake_launching, well_behaved
from tests.fakes.worker import Behaviour

QUICK = Timing(
    ready=2.0,
    patience=0.3,
    leave=0.6,
    stop_grace=0.5,
    stop_margin=0.3,
    give_up=2.0,
    accept_pause=0.1,
    settings=1.5,
    watch=0.1,
    backoff=BackoffLimits(first=0.1, longest=0.4, healthy=60.0),
)
E = TypeVar("E", bound=Event)


@dataclass
class Monitor:
    """A connected client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def greeting(self) -> int:
        """The number of the launch that serves us; 0 when the connection was closed instead."""
        line = await asyncio.wait_for(self.reader.readline(), 5)
        return int(line.split()[1]) if line else 0

    async def welcome(self) -> tuple[int, Rules]:
        """As `greeting`, with the rules that its worker went by when we came."""
        _, generation, rules = (await asyncio.wait_for(self.reader.readline(), 5)).decode().split(maxsplit=2)
        return int(generation), msgspec.json.decode(rules, type=Rules)

    async def rules(self) -> Rules:
        """What its worker goes by now."""
        self.say("rules")
        return msgspec.json.decode(await asyncio.wait_for(self.reader.readline(), 5), type=Rules)

    async def read_limit(self) -> int:
        """Bytes a second that its worker lets through now; 0: no limit."""
        self.say("limits")
        return int(await asyncio.wait_for(self.reader.readline(), 5))

    def say(self, line: str) -> None:
        self.writer.write(f"{line}\n".encode())

    async def closed(self) -> bool:
        """Waits until the other end closes the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionResetError:
            return True

    def leave(self) -> None:
        self.writer.close()


@dataclass
class Served:
    service: Service
    zygotes: Zygotes[Any]
    socket: Path
    pids: list[int]
    events: list[Event] = field(default_factory=list)
    monitors: list[Monitor] = field(default_factory=list)

    async def connect(self) -> Monitor:
        monitor = Monitor(*await asyncio.open_unix_connection(self.socket))
        self.monitors.append(monitor)
        return monitor

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def take_over(self, **fields: Any) -> Share:
        """Reloads: the share is as before but for *fields*."""
        self.take_over_words(**fields)
        return self.service.terms.share

    def take_over_words(self, **fields: Any) -> tuple[str, ...]:
        """Likewise; returns what of it waits."""
        return self.service.take_over(Terms(dataclasses.replace(self.service.terms.share, **fields), PLAN))

    async def seen(self, kind: type[E], count: int = 1) -> E:
        """Waits for the *count*th event of this kind."""
        await self.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


def doing(*settings: str) -> Script:
    """The first worker does these on its SETTINGS, all later ones behave."""
    return lambda number: Behaviour(settings=settings) if number == 1 else Behaviour()


@contextlib.asynccontextmanager
async def served(
    directory: Path,
    script: Script = well_behaved,
    timing: Timing = QUICK,
    *,
    terms: Terms | None = None,
    adjust: Adjust = anything,
    spares: Spares | None = None,
    launching: Launching[Any] | None = None,
) -> AsyncIterator[Served]:
    """In service when entered, stopped when left; *launching* builds other jails than fake ones."""
    terms = terms or Terms(Share(name="data", source=directory, tag="data"), PLAN)
    events: list[Event] = []
    pids: list[int] = []
    zygotes = Zygotes("data", launching or fake_launching(script, pids, adjust), events.append)

    async def launch(generation: int, terms: Terms) -> Worker:
        return await launch_worker(terms, generation, zygotes)

    service = Service(terms, launch, events.append, timing, spares=spares)
    place = directory / "s"
    harness = Served(service, zygotes, place, pids, events)
    try:
        await service.start()
        service.listen(Listener.bind(SocketFile(place)))
        yield harness
    finally:
        for monitor in harness.monitors:
            monitor.leave()
        await service.stop(timing.stop_grace)
        zygotes.close()
