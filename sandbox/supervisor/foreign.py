"""A stock virtiofsd as its supervisor holds it: no control socket, no counters, but one call that waits for us.

virtiofsd accepts one connection from a socket that it is given. In its jail that accept(2) waits for our answer
(seccomp_unotify(2)): that it waits is READY, and the answer, the client's connection as its result, is START. Not one
byte of the connection passes through here. What is left to know comes from outside: its log, and how it ends.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass

from virtiofs_sandbox.ipc.config import LiveSettings
from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.ipc.exits import Ending, ExitCode
from virtiofs_sandbox.ipc.messages import PROTOCOL_VERSION, Kind, Message
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.ipc.transport import ChannelClosedError, ControlChannel
from virtiofs_sandbox.launcher import HandOver, Jail
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.clients import Client
from virtiofs_sandbox.supervisor.loglines import LogLine, LogLines, parse_line, printable
from virtiofs_sandbox.supervisor.worker import JailLauncher, Terms, Worker, WorkerHandler, line_rate
from virtiofs_sandbox.syscalls import notifying
from virtiofs_sandbox.syscalls.base import SyscallError
from virtiofs_sandbox.syscalls.notifying import WaitingCall

# accept(2) says who connected: somebody without a name, of whom it has the family.
_FAMILY = struct.pack("=H", socket.AF_UNIX)
_ADDRESS_BYTES = struct.pack("=I", len(_FAMILY))
# As env_logger writes it: [2026-01-31T12:00:00Z INFO  virtiofsd] text.
_LINE = re.compile(rb"\[\S{1,40} (ERROR|WARN|INFO|DEBUG|TRACE) +([^\]]{0,100})\] ?(.*)", re.DOTALL)
_LEVELS = {b"ERROR": LogLevel.ERROR, b"WARN": LogLevel.WARNING, b"INFO": LogLevel.INFO}


@dataclass(frozen=True)
class ForeignEnding(Ending):
    """The end of a stock virtiofsd, which has few ways to say why. *asked*: it was told to stop."""

    asked: bool = False

    @property
    def code(self) -> ExitCode | None:
        if self.status == 0:
            return ExitCode.CLIENT_LEFT
        return ExitCode.STOPPED if self.asked and self.status is not None else None

    def __str__(self) -> str:
        if self.signal_number == signal.SIGSYS:
            return "killed by seccomp: a system call outside its own filter, or a deadly one"
        if self.status == 0:
            return "its connection has ended; if by an error of the protocol, its log says so"
        if self.code is ExitCode.STOPPED or self.status is None:
            return super().__str__()
        return f"exit status {self.status}; its log says why"


class ForeignWorker(Worker):
    """Owner of one running jail's descriptors, as the base, and of the one by which its accept(2) is answered."""

    follows = False

    def __init__(
        self, jail: Jail, launcher: JailLauncher, log: OwnedFd, *, generation: int, log_level: LogLevel
    ) -> None:
        now = asyncio.get_running_loop().time()
        super().__init__(jail, launcher, log, LogLines(line_rate(log_level), now, parse_foreign))
        if jail.asking is None:
            raise RuntimeError("a jail without a descriptor to answer by")
        self._asking = jail.asking
        self._generation = generation
        self._call: WaitingCall | None = None
        self._asked_to_stop = False

    def watch(self, handler: WorkerHandler) -> None:
        super().watch(handler)
        self._loop.add_reader(self._asking.fileno(), self._waits)

    def send(self, message: Message, client: Client | None = None) -> None:
        """START and STOP alone; SETTINGS there are none."""
        if message.kind is Kind.START and client is not None:
            self._answer(client)
        elif message.kind is Kind.STOP:
            self._asked_to_stop = True
            self._signal(signal.SIGTERM)
        else:
            raise ChannelClosedError

    def send_settings(self, message: Message, settings: LiveSettings) -> None:
        raise ChannelClosedError

    def mute(self) -> None:
        """It says nothing that counts, once it has got its client."""
        self._stop_asking()

    def statistics(self) -> Statistics | None:
        return None

    def oldest_start(self) -> int:
        return 0

    def _waits(self) -> None:
        """It accepts: from now on it can be answered. Nobody in the jail has met a guest or a monitor yet."""
        try:
            self._call = notifying.take(self._asking.fileno())
        except SyscallError:
            # A signal took it out of the call just now: it calls again, or dies, which the pidfd tells.
            return
        self._loop.remove_reader(self._asking.fileno())
        if self._call is not None:
            self._told().received(Message(Kind.READY, self._generation, a=PROTOCOL_VERSION))

    def _answer(self, client: Client) -> None:
        """Its accept(2) returns *client*; no later one is ever answered. Raises ChannelClosedError."""
        if self._call is None or self._asking.closed:
            raise ChannelClosedError
        try:
            # To the first process, which is not reaped before us: its number is nobody else's.
            for address, content in zip(self._call.arguments[1:3], (_FAMILY, _ADDRESS_BYTES), strict=True):
                if address:
                    notifying.write_memory(self.pid, address, content)
            notifying.answer_with_descriptor(self._asking.fileno(), self._call, client.fileno())
        except SyscallError as error:
            reason = f"{error.call}: {error.strerror}"
            self._told().logged(LogLine(LogLevel.ERROR, f"the client cannot be handed over: {reason}"))
            raise ChannelClosedError from error
        finally:
            self._stop_asking()

    def _stop_asking(self) -> None:
        """From now on accept(2) fails in the jail, with ENOSYS."""
        if not self._asking.closed:
            self._loop.remove_reader(self._asking.fileno())
            self._asking.close()

    def _sources(self) -> tuple[OwnedFd | ControlChannel, ...]:
        return (*super()._sources(), *(() if self._asking.closed else (self._asking,)))

    def _ending(self, result: os.waitid_result) -> Ending:
        ending = Ending.of(result)
        return ForeignEnding(ending.status, ending.signal_number, self._asked_to_stop)


def parse_foreign(raw: bytes) -> LogLine:
    """One line of virtiofsd's. Whatever has another form (a panic, a loader's complaint) counts as a warning."""
    match = _LINE.fullmatch(raw)
    if match is None:
        return parse_line(raw)
    level = _LEVELS.get(match[1], LogLevel.DEBUG)
    of = b"" if match[2].strip() == b"virtiofsd" else match[2].strip() + b": "
    return LogLine(level, printable(of + match[3]))


async def launch_foreign(terms: Terms, generation: int, launcher: JailLauncher) -> Worker:
    """Launches the program of the plan and keeps this side's ends. Raises LaunchError or OSError."""
    with ExitStack() as ours:
        log_read, log_write = map(OwnedFd, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        ours.enter_context(log_read)
        with log_write:
            jail = await launcher.launch(terms.plan, HandOver.of_log(log_write.fileno()))
        ours.pop_all()
    return ForeignWorker(jail, launcher, log_read, generation=generation, log_level=terms.share.log_level)
