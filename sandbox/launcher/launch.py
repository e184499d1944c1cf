"""One launch, seen from the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass

import msgspec
from virtiofs_sandbox.confine import LaunchPlan, Tier
from virtiofs_sandbox.confine.plan import MountChange
from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.launcher.adjusting import Adjustment, Place
from virtiofs_sandbox.launcher.errors import LaunchError, adjustment_failure, check_changes, failure, unanswered
from virtiofs_sandbox.launcher.reports import ADJUST, ALIVE, ANSWER, GO, LAUNCH, RECORD, REQUEST, Stage
from virtiofs_sandbox.launcher.zygote import Zygote

# A launch takes milliseconds; one that takes this long waits for something that will not come.
TIMEOUT_SECONDS = 10.0
# In the place of a descriptor number.
NOTHING = -1


@dataclass(frozen=True)
class HandOver:
    """The worker's ends, by descriptor number (ipc/README.md lists them). The caller keeps owning and closes them.

    Another program than our own worker gets the log and nothing else; the others are NOTHING then.
    """

    control: int
    config: int
    stats: int
    arena: int
    log: int

    @classmethod
    def of_log(cls, log: int) -> HandOver:
        return cls(NOTHING, NOTHING, NOTHING, NOTHING, log)


@dataclass(frozen=True)
class Jail:
    """A running jail: its keeper, a child of this process. The caller owns *pidfd*, waits by P_PIDFD and closes it.

    Without a pid namespace (BARE) others may outlive the keeper: end_group() and bury_group() go with the wait then.
    *place* is where its mounts can be adjusted, None where they cannot. *unheld* are the patterns, of those the plan
    holds by mounts, that nothing was mounted for, since there was nothing at their path. *asking* is where another
    program than our worker waits for its client (syscalls/notifying.py); its owner closes it.
    """

    pid: int
    pidfd: int
    tier: Tier
    place: Place | None = None
    unheld: tuple[bytes, ...] = ()
    asking: OwnedFd | None = None


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
                    if jail.asking is not None:
                        jail.asking.close()
                raise

    async def adjust(self, jail: Jail, changes: tuple[MountChange, ...]) -> None:
        """Makes *changes* to the mounts of a running jail, in order. Raises LaunchError; those before it stay made."""
        place = check_changes(jail.tier, jail.place, changes)
        async with self._turn:
            number = self._send(ADJUST, Adjustment(place, changes), ())
            stage, call, errno, failed = await self._answer(number)
        if call:
            raise adjustment_failure(changes, failed, stage, call, errno)

    async def _launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                pid = await self._fork(plan, hand_over, theirs.fileno())
            pidfd = os.pidfd_open(pid)
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    place = _place(plan, pid)
                    unheld, asking = await _follow(plan, ours)
            except TimeoutError as error:
                _end(pidfd)
                raise LaunchError("launch", "receive(report)", 0, "the jail did not get ready in 10 s") from error
            except LaunchError:
                _end(pidfd)
                raise
            except OSError as error:
                _end(pidfd)
                raise failure(plan, Stage.PARENT, "send(go)", error.errno or 0) from error
        paths = tuple(plan.rule_mounts[index].path for index in unheld)
        return Jail(pid, pidfd, plan.tier, place, paths, asking)

    async def _fork(self, plan: LaunchPlan, hand_over: HandOver, report: int) -> int:
        """Asks for the jail; returns the keeper's pid, by now our child."""
        own = (hand_over.control, hand_over.config, hand_over.stats, hand_over.arena)
        descriptors = (hand_over.log, report, *(number for number in own if number != NOTHING))
        # What only this side reads stays here.
        asked = dataclasses.replace(plan, warnings=(), rules=(), groups=(), filters=None)
        number = self._send(LAUNCH, asked, descriptors)
        stage, call, errno, pid = await self._answer(number)
        if call:
            raise failure(plan, stage, call, errno)
        return pid

    def _send(self, kind: int, body: object, descriptors: tuple[int, ...]) -> int:
        """Sends one request; returns its number, which the answer carries."""
        number = next(self._numbers)
        message = REQUEST.pack(number, kind) + msgspec.msgpack.encode(body)
        try:
            socket.send_fds(self._zygote.socket, [message], descriptors)
        except OSError as error:
            raise unanswered("send(request)", error.errno or 0) from error
        return number

    async def _answer(self, number: int) -> tuple[int, int, int, int]:
        """Waits for the answer to request *number*: stage, call, errno, and a pid or place."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while True:
                    answer = await loop.sock_recv(self._zygote.socket, ANSWER.size)
                    if len(answer) != ANSWER.size:
                        raise unanswered("receive(answer)", 0)
                    answered, stage, call, errno, last = ANSWER.unpack(answer)
                    # An older number belongs to a request that was given up.
                    if answered == number:
                        return stage, call, errno, last
        except TimeoutError as error:
            raise unanswered("receive(answer)", 0) from error
        except OSError as error:
            raise unanswered("receive(answer)", error.errno or 0) from error


def end_group(pid: int) -> None:
    """Kills what a keeper left behind in a jail without a pid namespace, where all processes are its group.

    To be called before the keeper *pid* is reaped, so that the number is nobody else's; bury_group() follows.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def bury_group(pid: int) -> bool:
    """Reaps what is dead of a group that was ended, keeper included; True once nobody is left of it."""
    try:
        while os.waitid(os.P_PGID, pid, os.WEXITED | os.WNOHANG) is not None:
            continue
    except ChildProcessError:
        return True
    return False


def _place(plan: LaunchPlan, pid: int) -> Place | None:
    """Where the jail's mounts are, looked up before its keeper goes on, while nobody else's code has run in it."""
    if not plan.attached:
        return None
    user, mount = (os.stat(f"/proc/{pid}/ns/{name}").st_ino for name in ("user", "mnt"))
    return Place(pid, user, mount, plan.become, plan.early_mounts, plan.idmapped, bool(plan.children))


async def _follow(plan: LaunchPlan, report: socket.socket) -> tuple[list[int], OwnedFd | None]:
    """Takes the keeper through its stages; returns when the socket closed after the last one, which exec does.

    The result are the places of rules that found nothing to be mounted over, and where another program than our worker
    will wait for its client.
    """
    report.send(GO)
    last = Stage.NAMESPACES
    unheld = []
    with ExitStack() as failing:
        asking = None
        while True:
            record, descriptor = await _record(report, 1 if plan.program else 0)
            if descriptor is not None:
                asking = failing.enter_context(descriptor)
            if not record:
                break
            stage, call, errno = RECORD.unpack(record)
            if call:
                raise failure(plan, stage, call, errno)
            if errno:
                unheld.append(errno - 1)
                continue
            last = Stage(stage)
            if last is Stage.PARENT:
                report.send(ALIVE)
        if last is not Stage.SECCOMP:
            raise failure(plan, Stage(last + 1), "unknown call", 0)
        failing.pop_all()
        return unheld, asking


async def _record(report: socket.socket, descriptors: int) -> tuple[bytes, OwnedFd | None]:
    """The next report, and what came with it, of at most so many *descriptors*."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            record, numbers, _, _ = socket.recv_fds(report, RECORD.size, descriptors, socket.MSG_CMSG_CLOEXEC)
            return record, OwnedFd(numbers[0]) if numbers else None
        readable = loop.create_future()
        loop.add_reader(report.fileno(), _resolve, readable)
        try:
            await readable
        finally:
            loop.remove_reader(report.fileno())


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _end(pidfd: int) -> None:
    """Kills a jail that nobody will get, reaps it and closes the descriptor."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
