"""One name of a supervisor's shares: the share in service under it, or why there is none and when it is tried again."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.ipc.requests import Standing
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.answers import absent
from virtiofs_sandbox.supervisor.backoff import Backoff
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events import ShareFailed, ShareStarting, SocketKept, Stopped, Withdrawn
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.reloader import Changed
from virtiofs_sandbox.supervisor.service import StartError

STARTED = Changed(("started",), (), ())
"""What a share that was not in service has to say once it is."""


class Situation(enum.Enum):
    STARTING = "its first worker is being launched"
    IN_SERVICE = "connections are accepted"
    FAILED = "it could not be started, and will be tried again"
    LEAVING = "no connections are accepted, and a client is still there"
    STOPPED = "it was stopped or removed, and nobody is there"


@dataclass(frozen=True)
class Ground:
    """What a share needs of its surroundings. *plan* settles its launch, as the host is now, and raises one of
    Common.refusals; *listen* makes the socket of a policy, in place of a listener where there is one, and raises
    ListenError.
    """

    plan: Callable[[Share], LaunchPlan]
    listen: Callable[[Policy, Listener | None], Listener]


class Berth:
    """To be made inside the event loop; in the end `stop`. *vacant* is told when nobody is there any more."""

    def __init__(self, policy: Policy, common: Common, ground: Ground, *, vacant: Callable[[Berth], None]) -> None:
        self.policy = policy
        self.situation = Situation.STARTING
        self.reason: str | None = None
        self.active: ActiveShare | None = None
        self._common = common
        self._ground = ground
        self._vacant = vacant
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._since = time.time()
        self._backoff = Backoff(common.timing.retry)
        self._told: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._work: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def name(self) -> str:
        return self.policy.name

    async def follow(self, policy: Policy, *, now: bool) -> Changed | str:
        """Goes by *policy* from now on: as far as it can while clients stay, or *now*. What is not in service is tried.

        Returns what changed, STARTED, or why nothing did.
        """
        async with self._turn:
            if self.active is None:
                reason = await self._start_by(policy)
                return STARTED if reason is None else reason
            outcome = await self.active.reloader.reload(
                lambda: (policy.share, self._ground.plan(policy.share)), now=now
            )
            if isinstance(outcome, str) or self.active is None:
                return outcome if isinstance(outcome, str) else "it has ended meanwhile"
            before, self.policy = self.policy, policy
            return self._change_socket(self.active, before, outcome)

    async def restart(self, *, now: bool) -> tuple[Peer, ...]:
        """New workers; a share that is not in service is tried. Returns who keeps an old one until it leaves."""
        async with self._turn:
            if self.active is None:
                await self._start_by(self.policy)
                return ()
            self.active.service.renew(now=now)
            return () if now else self.active.service.clients

    async def leave(self, reason: str, *, now: bool) -> tuple[Peer, ...]:
        """Goes out of service because of *reason*: accepts nobody, and ends when its clients have left, or *now*.

        Returns who is still there.
        """
        self._cancel_timer()
        await self._cancel_work()
        async with self._turn:
            if self.active is None:
                self._enter(Situation.STOPPED, reason)
                self._vacant(self)
                return ()
            if self.situation is not Situation.LEAVING:
                self.active.service.withdraw()
                self._common.sink(Withdrawn(self.name, reason, () if now else self.active.service.clients))
            self._enter(Situation.LEAVING, reason)
            if now or not self.active.service.clients:
                await self._end(self._common.timing.stop_grace)
                return ()
            self._watch = self._begin(self._end_when_vacated())
            return self.active.service.clients

    def close(self) -> None:
        """Nobody starts here any more, whoever waits for that."""
        self._closing = True
        self._cancel_timer()

    async def stop(self, grace: float) -> bool:
        """For good. False when something was left behind."""
        self.close()
        await self._cancel_work()
        return True if self.active is None else await self._end(grace)

    def kill(self, reason: str) -> None:
        """Cuts a `stop` under way short."""
        if self.active is not None:
            self.active.kill(reason)

    def standing(self) -> Standing:
        """How it stands."""
        if self.active is not None:
            return msgspec.structs.replace(self.active.answers.standing(), reason=self.reason)
        state = self.situation.name.lower()
        return absent(self.name, state, self.reason, self._since, tag=self.policy.share.tag, policy=self.policy.file)

    # Getting into service.

    async def _retry(self) -> None:
        async with self._turn:
            if self.active is None and not self._closing:
                await self._try()

    async def _start_by(self, policy: Policy) -> str | None:
        if self._closing:
            return "stopped meanwhile"
        self._backoff = Backoff(self._common.timing.retry)
        self.policy = policy
        self._told = None
        await self._in_background(self._try())
        return None if self.active is not None else self.reason or "stopped meanwhile"

    async def _try(self) -> None:
        self._cancel_timer()
        self._enter(Situation.STARTING, None)
        self._common.sink(ShareStarting(self.name, self.policy.share))
        expected: tuple[type[Exception], ...] = (StartError, ListenError, *self._common.refusals)
        try:
            self.active = await self._started()
        except expected as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - a fault in here must not end the other shares
            self._fail(f"fault in the supervisor: {error!r}")
        else:
            self._enter(Situation.IN_SERVICE, None)
            self._told = None

    async def _started(self) -> ActiveShare:
        policy = self.policy
        active = ActiveShare(policy.share, self._ground.plan(policy.share), self._common, policy=policy.file)
        try:
            await active.start()
            active.listen(self._ground.listen(policy, None))
        except BaseException:
            await active.stop(0.0)
            raise
        return active

    def _fail(self, reason: str) -> None:
        self._enter(Situation.FAILED, reason)
        delay = max(self._backoff.failed(self._loop.time()), self._common.timing.retry.first)
        self._common.sink(ShareFailed(self.name, reason, delay, repeated=reason == self._told))
        self._told = reason
        if not self._closing:
            self._timer = self._loop.call_later(delay, lambda: self._begin(self._retry()))

    # Changing and leaving.

    def _change_socket(self, active: ActiveShare, before: Policy, outcome: Changed) -> Changed:
        """A share that was leaving comes back by this."""
        leaving = self.situation is Situation.LEAVING
        if before.socket == self.policy.socket and not leaving:
            return outcome
        try:
            listener = self._ground.listen(self.policy, active.service.listener)
        except ListenError as error:
            self._common.sink(SocketKept(self.name, str(error)))
            # So that the next reload tries again.
            self.policy = dataclasses.replace(self.policy, socket=before.socket)
            return dataclasses.replace(outcome, warnings=(*outcome.warnings, f"the socket stays: {error}"))
        if self._watch is not None:
            self._watch.cancel()
        active.service.move(listener)
        self._enter(Situation.IN_SERVICE, None)
        said = (
            "accepting connections again"
            if leaving
            else f"socket {shown(before.socket.path)} -> {shown(self.policy.socket.path)}"
        )
        return dataclasses.replace(outcome, changes=(*outcome.changes, said))

    async def _end_when_vacated(self) -> None:
        assert self.active is not None  # noqa: S101 - for mypy: somebody is leaving
        await self.active.service.vacated()
        async with self._turn:
            if self.situation is Situation.LEAVING:
                await self._end(0.0)

    async def _end(self, grace: float) -> bool:
        if self.active is None:
            return True
        active = self.active
        clean = await active.stop(grace)
        if self.active is active:
            self.active = None
            self._enter(Situation.STOPPED, self.reason)
            self._common.sink(Stopped(self.name))
            self._vacant(self)
        return clean

    # Inside.

    def _enter(self, situation: Situation, reason: str | None) -> None:
        self.situation, self.reason, self._since = situation, reason, time.time()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Waits for *work*, which a `stop` may cancel."""
        task = self._begin(work)
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _cancel_work(self) -> None:
        work = tuple(self._work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
