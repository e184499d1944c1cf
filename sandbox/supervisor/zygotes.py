"""There is always a zygote: one that dies is reported and replaced. Jails that run do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.confine.plan import MountChange
from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.launcher import HandOver, Jail, LaunchError
from virtiofs_sandbox.supervisor.events import Sink, ZygoteDied, ZygoteReplaced
from virtiofs_sandbox.supervisor.worker import JailLauncher

# Replaced at once, but not more often than this; beyond it the next launch replaces it, at the pace launches back off.
_REPLACEMENT_SECONDS = 5.0


class ZygoteProcess(Protocol):
    """The launcher package's Zygote is one."""

    pid: int

    def kill(self) -> None: ...
    def close(self) -> None: ...


Z = TypeVar("Z", bound=ZygoteProcess)
R = TypeVar("R")


@dataclass(frozen=True)
class Launching(Generic[Z]):
    """How jails come about. *zygote* runs already: it had to be forked before there was an event loop. *fork* makes
    another one (and raises LaunchError), *launcher_for* the launcher that works through one.
    """

    zygote: Z
    fork: Callable[[], Z]
    launcher_for: Callable[[Z], JailLauncher]


class Zygotes(Generic[Z]):
    """Launches through the present zygote, one at a time, and replaces it when it is gone."""

    def __init__(self, share: str, launching: Launching[Z], sink: Sink) -> None:
        self._share = share
        self._launching = launching
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._zygote: Z | None = None
        self._launcher: JailLauncher | None = None
        self._pidfd: OwnedFd | None = None
        self._replaced = -math.inf
        self._in_flight = False
        self._take(launching.zygote)

    @property
    def pid(self) -> int | None:
        """The present zygote's."""
        return self._zygote.pid if self._zygote else None

    async def launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        """Raises LaunchError. One that is given up was too slow, by the zygote's fault."""
        return await self._through_zygote(lambda launcher: launcher.launch(plan, hand_over), hangs_if_given_up=True)

    async def adjust(self, jail: Jail, changes: tuple[MountChange, ...]) -> None:
        """Changes the mounts of a running jail. Raises LaunchError. Given up when the jail is at its end."""
        await self._through_zygote(lambda launcher: launcher.adjust(jail, changes), hangs_if_given_up=False)

    async def _through_zygote(self, request: Callable[[JailLauncher], Awaitable[R]], *, hangs_if_given_up: bool) -> R:
        async with self._turn:
            self._bury()
            launcher = self._launcher or self._replace()
            self._in_flight = True
            try:
                return await request(launcher)
            except (LaunchError, asyncio.CancelledError) as error:
                hangs = error.call == "receive(answer)" if isinstance(error, LaunchError) else hangs_if_given_up
                if self._zygote is not None and hangs:
                    self._zygote.kill()
                raise
            finally:
                self._in_flight = False
                self._renew()

    def close(self) -> None:
        self._unwatch()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _take(self, zygote: Z) -> JailLauncher:
        self._zygote = zygote
        self._launcher = self._launching.launcher_for(zygote)
        self._pidfd = OwnedFd(os.pidfd_open(zygote.pid))
        self._loop.add_reader(self._pidfd.fileno(), self._ended)
        return self._launcher

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd.fileno())
            self._pidfd.close()
            self._pidfd = None

    def _result(self) -> os.waitid_result | None:
        """Its end, if it came; the process stays to be reaped by its owner."""
        if self._pidfd is None:
            return None
        return os.waitid(os.P_PIDFD, self._pidfd.fileno(), os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _ended(self) -> None:
        if not self._in_flight:
            self._renew()
        elif self._zygote is not None and self._pidfd is not None:
            # The launch fails as soon as nothing of the zygote is left, and then does the rest.
            self._loop.remove_reader(self._pidfd.fileno())
            self._zygote.kill()

    def _renew(self) -> None:
        """Replaces the zygote if it is dead. If that fails, the next launch tries again and reports it."""
        if self._bury() and self._loop.time() - self._replaced >= _REPLACEMENT_SECONDS:
            with contextlib.suppress(LaunchError):
                self._replace()

    def _bury(self) -> bool:
        """Reports and reaps the zygote if it is dead; returns whether it was."""
        result = self._result()
        if self._zygote is None or result is None:
            return False
        zygote, self._zygote, self._launcher = self._zygote, None, None
        self._unwatch()
        zygote.close()
        self._sink(ZygoteDied(self._share, zygote.pid, Ending.of(result)))
        return True

    def _replace(self) -> JailLauncher:
        self._replaced = self._loop.time()
        zygote = self._launching.fork()
        self._sink(ZygoteReplaced(self._share, zygote.pid))
        return self._take(zygote)
