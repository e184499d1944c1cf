"""One launch, seen from the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from dataclasses import dataclass

import msgspec
from virtiofs_sandbox.confine import LaunchPlan, Tier
from virtiofs_sandbox.confine.plan import MountChange
from virtiofs_sandbox.launcher.errors import LaunchError, failure
from virtiofs_sandbox.launcher.reports import ALIVE, ANSWER, GO, RECORD, REQUEST_NUMBER, Stage
from virtiofs_sandbox.launcher.zygote import Zygote

# A launch takes milliseconds; one that takes this long waits for something that will not come.
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class HandOver:
    """The worker's ends, by descriptor number (ipc/README.md lists them). The caller keeps owning and closes them."""

    control: int
    config: int
    stats: int
    arena: int
    log: int


@dataclass(frozen=True)
class Jail:
    """A running jail: its keeper, a child of this process. The caller owns *pidfd*, waits by P_PIDFD and closes it."""

    pid: int
    pidfd: int
    tier: Tier


class Launcher:
    """Launches jails through one zygote, one at a time. A new zygote gets a new launcher."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._turn = asyncio.Lock()
        self._numbers = itertools.count(1)

    async def launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        """Builds the jail and returns when its binary was executed. Raises LaunchError; nothing is left behind then.

        A cancelled launch is carried to its end first, and its jail killed and reaped.
        """
        async with self._turn:
            launching = asyncio.ensure_future(self._launch(plan, hand_over))
            try:
                return await asyncio.shield(launching)
            except asyncio.CancelledError:
                with contextlib.suppress(LaunchError):
                    jail = await launching
                    _end(jail.pidfd)
                raise

    async def adjust(self, jail: Jail, changes: tuple[MountChange, ...]) -> None:
        """Makes *changes* to the mounts of a running jail, in order. Raises LaunchError; those before it stay made."""
        raise LaunchError("changing mounts", "adjust", 0, "a new jail is needed")

    async def _launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                number = self._request(plan, hand_over, theirs.fileno())
            pidfd = os.pidfd_open(pid := await self._answer(plan, number))
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    await _follow(plan, ours)
            except TimeoutError as error:
                _end(pidfd)
                raise LaunchError("launch", "receive(report)", 0, "the jail did not get ready in 10 s") from error
            except LaunchError:
                _end(pidfd)
                raise
            except OSError as error:
                _end(pidfd)
                raise failure(plan, Stage.PARENT, "send(go)", error.errno or 0) from error
        return Jail(pid, pidfd, plan.tier)

    def _request(self, plan: LaunchPlan, hand_over: HandOver, report: int) -> int:
        """Sends one request; returns its number, which the answer carries."""
        number = next(self._numbers)
        message = REQUEST_NUMBER.pack(number) + msgspec.msgpack.encode(plan)
        descriptors = (
            hand_over.log,
            hand_over.control,
            hand_over.config,
            hand_over.stats,
            hand_over.arena,
            report,
        )
        try:
            socket.send_fds(self._zygote.socket, [message], descriptors)
        except OSError as error:
            raise failure(plan, Stage.REQUEST, "send(request)", error.errno or 0) from error
        return number

    async def _answer(self, plan: LaunchPlan, number: int) -> int:
        """Waits for the answer to request *number*; returns the keeper's pid, by now our child."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while True:
                    answer = await loop.sock_recv(self._zygote.socket, ANSWER.size)
                    if len(answer) != ANSWER.size:
                        raise failure(plan, Stage.REQUEST, "receive(answer)", 0)
                    answered, stage, call, errno, pid = ANSWER.unpack(answer)
                    # An older number belongs to a launch that was given up.
                    if answered == number:
                        break
        except TimeoutError as error:
            raise failure(plan, Stage.REQUEST, "receive(answer)", 0) from error
        except OSError as error:
            raise failure(plan, Stage.REQUEST, "receive(answer)", error.errno or 0) from error
        if call:
            raise failure(plan, stage, call, errno)
        return int(pid)


async def _follow(plan: LaunchPlan, report: socket.socket) -> None:
    """Takes the keeper through its stages; returns when the socket closed after the last one, which exec does."""
    loop = asyncio.get_running_loop()
    report.send(GO)
    last = Stage.NAMESPACES
    while record := await loop.sock_recv(report, RECORD.size):
        stage, call, errno = RECORD.unpack(record)
        if call:
            raise failure(plan, stage, call, errno)
        last = Stage(stage)
        if last is Stage.PARENT:
            report.send(ALIVE)
    if last is not Stage.SECCOMP:
        raise failure(plan, Stage(last + 1), "unknown call", 0)


def _end(pidfd: int) -> None:
    """Kills a jail that nobody will get, reaps it and closes the descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
