"""A launched worker as its supervisor holds it: a control socket, a log pipe, a page of counters, a pidfd.

Everything that comes through them is hostile: messages are decoded strictly, lines are cut and cleaned, both are read
at a bounded rate, and a worker that sends faster than that waits (or loses its lines) without our spending more time on
it.
"""

from __future__ import annotations

import abc
import asyncio
import math
import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.confine.limits import worker_limits
from virtiofs_sandbox.confine.plan import MountChange
from virtiofs_sandbox.confine.rules import worker_rules
from virtiofs_sandbox.ipc.config import Filters, LiveSettings, WorkerConfig, encode_config, encode_settings
from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.memfds import ARENA_BYTES, STATISTICS_BYTES, fixed_memory, sealed_document
from virtiofs_sandbox.ipc.messages import Kind, Message, MessageError
from virtiofs_sandbox.ipc.stats import Statistics, read_oldest_start, read_statistics
from virtiofs_sandbox.ipc.transport import ChannelClosedError, ControlChannel, UnreadError
from virtiofs_sandbox.launcher import HandOver, Jail
from virtiofs_sandbox.launcher.launch import bury_group, end_group
from virtiofs_sandbox.policies.bounding import bounded
from virtiofs_sandbox.policies.share import Access, LogLevel, Rates, Share, Tier
from virtiofs_sandbox.supervisor.clients import Client
from virtiofs_sandbox.supervisor.loglines import Dropped, LineRate, LogLine, LogLines

_MESSAGES_PER_SECOND = 64
_LOG_BYTES_PER_SECOND = 256 * 1024
_READ_BYTES = 4096
_BURY_SECONDS = 0.02
# A hostile worker brings about a megabyte a minute into the log, and no more.
_LINE_RATE = LineRate(per_second=10, burst=200)
# Somebody who asked for every request wants to see every request.
_DEBUG_LINE_RATE = LineRate(per_second=2000, burst=2000)


@dataclass(frozen=True)
class Terms:
    """What a worker is launched by: the share, the plan that was prepared for it, its *part* of a group's budget, and
    *among* how many workers of the share its limits on requests are divided.

    With a group and no part yet the whole budget is the bound.
    """

    share: Share
    plan: LaunchPlan
    part: Rates | None = None
    among: int = 1

    @property
    def bounded(self) -> Share:
        """The share with the limits that its worker is told."""
        return bounded(self.share, self.part, self.among)


class JailLauncher(Protocol):
    """Builds jails, and changes their mounts; the launcher package's Launcher is one. Raises LaunchError."""

    async def launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail: ...
    async def adjust(self, jail: Jail, changes: tuple[MountChange, ...]) -> None: ...


class WorkerHandler(Protocol):
    """Who is told what a worker does. *ended* is the last call."""

    def received(self, message: Message) -> None: ...
    def violated(self, reason: str) -> None: ...
    def logged(self, line: LogLine | Dropped) -> None: ...
    def ended(self, ending: Ending) -> None: ...


class Worker(abc.ABC):
    """Owner of one running jail's descriptors, all closed once its first process is reaped.

    *follows*: it takes over settings while it runs.
    """

    follows = True

    def __init__(self, jail: Jail, launcher: JailLauncher, log: OwnedFd, lines: LogLines) -> None:
        self.pid = jail.pid
        self.unheld = jail.unheld
        self._jail = jail
        self._launcher = launcher
        self._pidfd = OwnedFd(jail.pidfd)
        self._log = log
        self._lines = lines
        self._loop = asyncio.get_running_loop()
        self._handler: WorkerHandler | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._second = -math.inf
        self._log_bytes_left = 0

    def watch(self, handler: WorkerHandler) -> None:
        """Starts telling *handler*."""
        self._handler = handler
        self._loop.add_reader(self._pidfd.fileno(), self._exited)
        self._resume()

    @property
    def start_unread(self) -> bool:
        """The worker ended without having received the connection that was sent with START, as the kernel says."""
        return False

    @property
    def all_read(self) -> bool:
        """Whether it has received everything that it was sent."""
        return True

    @abc.abstractmethod
    def send(self, message: Message, client: Client | None = None) -> None:
        """Raises ChannelClosedError when the worker is gone, BlockingIOError when it does not read."""

    @abc.abstractmethod
    def send_settings(self, message: Message, settings: LiveSettings) -> None:
        """Raises as `send` does, and ConfigError for settings that are too long."""

    @abc.abstractmethod
    def mute(self) -> None:
        """Reads no more messages: nothing that this worker says counts any longer."""

    @abc.abstractmethod
    def statistics(self) -> Statistics | None:
        """What it claims of itself, if it counts."""

    @abc.abstractmethod
    def oldest_start(self) -> int:
        """When the oldest request in flight began, as it claims: CLOCK_MONOTONIC in nanoseconds, 0 without one."""

    async def adjust(self, changes: tuple[MountChange, ...]) -> None:
        """Changes the mounts of the jail. Raises LaunchError."""
        await self._launcher.adjust(self._jail, changes)

    def kill(self) -> None:
        """SIGKILL to the first process, and so to everything in its pid namespace."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd.fileno(), number)
        except ProcessLookupError:
            # It ended by itself; the pidfd says so next.
            return

    def _refresh(self) -> bool:
        """A new second has new limits."""
        now = self._loop.time()
        if now - self._second < 1.0:
            return False
        self._second = now
        self._log_bytes_left = _LOG_BYTES_PER_SECOND
        return True

    def _resume(self) -> None:
        """Reads every source, up to the limits."""
        self._refill = None
        self._loop.add_reader(self._log.fileno(), self._log_ready)

    def _pause(self, source: int) -> None:
        self._loop.remove_reader(source)
        if self._refill is None:
            self._refill = self._loop.call_at(self._second + 1.0, self._resume)

    def _log_ready(self) -> None:
        self._refresh()
        if self._log_bytes_left <= 0:
            self._pause(self._log.fileno())
            return
        if not self._read_log():
            # Readable and yet nothing: the last writer is gone.
            self._loop.remove_reader(self._log.fileno())

    def _read_log(self) -> bool:
        """Passes on what one read gives; False when there is nothing, now or ever."""
        try:
            data = os.read(self._log.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        self._log_bytes_left -= len(data)
        for line in self._lines.feed(data, self._loop.time()):
            self._told().logged(line)
        return bool(data)

    def _exited(self) -> None:
        result = os.waitid(os.P_PIDFD, self._pidfd.fileno(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return
        self._loop.remove_reader(self._pidfd.fileno())
        if self._jail.tier is Tier.BARE:
            # No pid namespace ends the others with it. Its number is its own until it is reaped.
            end_group(self.pid)
            self._bury(result)
        else:
            os.waitid(os.P_PIDFD, self._pidfd.fileno(), os.WEXITED)
            self._report_end(result)

    def _bury(self, result: os.waitid_result) -> None:
        """Waits, without blocking, until nobody is left of a group."""
        if bury_group(self.pid):
            self._report_end(result)
        else:
            self._loop.call_later(_BURY_SECONDS, self._bury, result)

    def _report_end(self, result: os.waitid_result) -> None:
        handler = self._told()
        self._refresh()
        # Its last messages and lines tell why it ended, so they come before the end itself.
        self._read_last_messages()
        while self._log_bytes_left > 0 and self._read_log():
            pass
        for line in self._lines.finish():
            handler.logged(line)
        if self._refill is not None:
            self._refill.cancel()
        for source in self._sources():
            self._loop.remove_reader(source.fileno())
            source.close()
        handler.ended(self._ending(result))

    def _read_last_messages(self) -> None:
        return

    def _sources(self) -> tuple[OwnedFd | ControlChannel, ...]:
        """What is read of it."""
        return self._pidfd, self._log

    def _ending(self, result: os.waitid_result) -> Ending:
        return Ending.of(result)

    def _told(self) -> WorkerHandler:
        if self._handler is None:
            raise RuntimeError("nobody watches this worker")
        return self._handler


class OwnWorker(Worker):
    """Our own: it speaks by a control socket, and has a page of counters."""

    def __init__(
        self,
        jail: Jail,
        launcher: JailLauncher,
        channel: ControlChannel,
        log: OwnedFd,
        page: OwnedFd,
        *,
        log_level: LogLevel,
    ) -> None:
        super().__init__(jail, launcher, log, LogLines(line_rate(log_level), asyncio.get_running_loop().time()))
        self._channel = channel
        self._page = page
        self._muted = False
        self._last_sent: Kind | None = None
        self._left_unread = False
        self._messages_left = 0

    @property
    def start_unread(self) -> bool:
        return self._left_unread and self._last_sent is Kind.START

    @property
    def all_read(self) -> bool:
        return self._channel.all_read

    def send(self, message: Message, client: Client | None = None) -> None:
        self._channel.send(message, () if client is None else (client.fileno(),))
        self._last_sent = message.kind

    def send_settings(self, message: Message, settings: LiveSettings) -> None:
        with sealed_document("virtiofs-settings", encode_settings(settings)) as document:
            self._channel.send(message, (document.fileno(),))
        self._last_sent = message.kind
        self._lines.rate = line_rate(LogLevel(settings.log_level))

    def mute(self) -> None:
        self._loop.remove_reader(self._channel.fileno())
        self._muted = True

    def statistics(self) -> Statistics | None:
        return read_statistics(self._page.fileno())

    def oldest_start(self) -> int:
        return read_oldest_start(self._page.fileno())

    def _refresh(self) -> bool:
        begins = super()._refresh()
        if begins:
            self._messages_left = _MESSAGES_PER_SECOND
        return begins

    def _resume(self) -> None:
        super()._resume()
        if not self._muted:
            self._loop.add_reader(self._channel.fileno(), self._message_ready)

    def _message_ready(self) -> None:
        self._refresh()
        if self._messages_left <= 0:
            self._pause(self._channel.fileno())
            return
        self._messages_left -= 1
        self._read_message()

    def _read_message(self) -> bool:
        """Passes one message on; False when there is none."""
        handler = self._told()
        try:
            received = self._channel.receive()
        except ChannelClosedError:
            # The keeper's end follows; a worker that only closed its socket is found by its deadlines.
            self._loop.remove_reader(self._channel.fileno())
            return False
        except UnreadError:
            self._left_unread = True
            return True
        except MessageError as error:
            handler.violated(str(error))
            return False
        if received is None:
            return False
        handler.received(received.message)
        return True

    def _read_last_messages(self) -> None:
        self._left_unread |= self._muted and self._channel.left_unread()
        while self._messages_left > 0 and not self._muted and self._read_message():
            self._messages_left -= 1

    def _sources(self) -> tuple[OwnedFd | ControlChannel, ...]:
        return (*super()._sources(), self._channel)

    def _report_end(self, result: os.waitid_result) -> None:
        super()._report_end(result)
        # Its handler has looked at it for the last time.
        self._page.close()


def line_rate(level: LogLevel) -> LineRate:
    return _DEBUG_LINE_RATE if level is LogLevel.DEBUG else _LINE_RATE


async def launch_worker(terms: Terms, generation: int, launcher: JailLauncher) -> Worker:
    """Makes what crosses the boundary, launches, and keeps this side's ends. Raises LaunchError or OSError."""
    share, plan = terms.bounded, terms.plan
    config = encode_config(
        WorkerConfig(
            version=2,
            share=share.name,
            generation=generation,
            tag=share.tag,
            readonly=share.access is Access.READ_ONLY,
            cache=share.cache.value,
            writeback=share.writeback,
            xattr=share.xattr,
            timeout_ms=None if share.timeout is None else round(share.timeout * 1000),
            ids=plan.ids,
            unmapped=share.identity.unmapped.value,
            attributes=plan.attributes,
            tree=bool(share.children),
            rules=worker_rules(share),
            filters=_filters(plan),
            limits=worker_limits(share.limits),
            queues=share.queues,
            log_level=share.log_level.value,
        )
    )
    with ExitStack() as ours, ExitStack() as theirs:
        page = ours.enter_context(fixed_memory("virtiofs-statistics", STATISTICS_BYTES))
        document = theirs.enter_context(sealed_document("virtiofs-config", config))
        arena = theirs.enter_context(fixed_memory("virtiofs-arena", ARENA_BYTES))
        channel, far_end = ControlChannel.pair()
        ours.callback(channel.close)
        theirs.enter_context(far_end)
        log_read, log_write = map(OwnedFd, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        ours.enter_context(log_read)
        theirs.enter_context(log_write)
        numbers = (owner.fileno() for owner in (far_end, document, page, arena, log_write))
        jail = await launcher.launch(plan, HandOver(*numbers))
        ours.pop_all()
    return OwnWorker(jail, launcher, channel, log_read, page, log_level=share.log_level)


def _filters(plan: LaunchPlan) -> Filters | None:
    programs = plan.filters
    return Filters.of_programs(programs.keeper, programs.control, programs.queue) if programs else None


def start_message(generation: int, client: Client) -> Message:
    return Message(Kind.START, generation, a=client.peer.pid, b=client.peer.uid & 0xFFFFFFFF)


def settings_message(generation: int, serial: int) -> Message:
    return Message(Kind.SETTINGS, generation, a=serial)


def stop_message(generation: int, grace: float) -> Message:
    """*grace* in seconds."""
    return Message(Kind.STOP, generation, a=round(grace * 1000))
