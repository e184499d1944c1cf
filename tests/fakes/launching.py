"""Jails without walls: a forked child on the documented descriptors, which dies with its parent."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, Self

import prctl
from virtiofs_sandbox.confine import LaunchPlan, Tier
from virtiofs_sandbox.confine.plan import MountChange
from virtiofs_sandbox.launcher import HandOver, Jail, LaunchError
from virtiofs_sandbox.supervisor.zygotes import Launching

from tests.fakes.worker import Behaviour, play

PLAN = LaunchPlan(
    share="data",
    source=b"/nowhere",
    worker=b"/nowhere",
    tier=Tier.FULL,
    ids="caller",
    warnings=(),
    uid_map=b"",
    gid_map=b"",
    deny_setgroups=False,
    share_attributes=0,
    nofile=(0, 0),
    capabilities=0,
    last_capability=0,
    securebits=0,
    landlock=None,
    seccomp=b"",
    seccomp_flags=0,
    seccomp_unlogged=b"",
    exec_key=0,
    filters=None,
    attributes="path",
    end_with_supervisor=True,
)
Script = Callable[[int], Behaviour]
"""From the number of the launch, counted from 1, to what that worker does."""


def well_behaved(_: int) -> Behaviour:
    return Behaviour()


class FakeZygote:
    """A process that can die; nothing is forked from it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.closed = False

    @classmethod
    def start(cls) -> Self:
        pid = os.fork()
        if pid == 0:
            _quiet_child()
            os.closerange(3, 1024)
            while True:
                signal.pause()
        return cls(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.kill()
            os.waitpid(self.pid, 0)


Adjust = Callable[[MountChange], None]
"""Told of every change to the mounts of a jail; raises LaunchError for those that cannot be made."""


def anything(_: MountChange) -> None:
    return


class FakeLauncher:
    """Launches by fork; *pids* gets the workers' pids in the order of launch."""

    def __init__(self, zygote: FakeZygote, script: Script, pids: list[int], adjust: Adjust) -> None:
        self._zygote = zygote
        self._script = script
        self._pids = pids
        self._adjust = adjust

    async def adjust(self, _: Jail, changes: tuple[MountChange, ...]) -> None:
        for change in changes:
            await asyncio.sleep(0.005)
            self._adjust(change)

    async def launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        ended = os.waitid(os.P_PID, self._zygote.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            raise LaunchError("request", "send(request)", errno.EPIPE, "see why the zygote died")
        behaviour = self._script(len(self._pids) + 1)
        if behaviour.fail_launch:
            self._pids.append(0)
            raise LaunchError("share", "open_tree", errno.ENOENT, "create the directory")
        if behaviour.hang_launch:
            self._pids.append(0)
            await asyncio.sleep(1000)
        pid = os.fork()
        if pid == 0:
            _become_worker(hand_over, behaviour)
        self._pids.append(pid)
        return Jail(pid, os.pidfd_open(pid), plan.tier, unheld=behaviour.unheld)


def fake_launching(
    script: Script = well_behaved, pids: list[int] | None = None, adjust: Adjust = anything
) -> Launching[FakeZygote]:
    launched = [] if pids is None else pids
    return Launching(
        FakeZygote.start(), FakeZygote.start, lambda zygote: FakeLauncher(zygote, script, launched, adjust)
    )


def _quiet_child() -> None:
    """Lets go of what was inherited: the parent's wake-up descriptor, its handlers, its session."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL if number is signal.SIGTERM else signal.SIG_IGN)
    prctl.set_pdeathsig(signal.SIGKILL)


def _become_worker(hand_over: HandOver, behaviour: Behaviour) -> NoReturn:
    try:
        _quiet_child()
        high = [os.dup(number) for number in (hand_over.control, hand_over.config, hand_over.stats, hand_over.log)]
        # Out of the way of the numbers that they are moved to.
        high = [os.dup2(number, 500 + index) for index, number in enumerate(high)]
        for number, target in zip(high, (3, 4, 5, 2), strict=True):
            os.dup2(number, target)
        os.closerange(6, 1024)
        play(behaviour)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        raise
    finally:
        os._exit(17)
