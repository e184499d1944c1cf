"""How one running jail follows a policy that changes: its worker by SETTINGS, its mounts by the launcher.

One thing after the other, until nothing is left to do: mounts that only give back, then the worker, then the mounts
that take away and those of new children. A child that goes is hidden by the worker before its mount is detached, and
one that comes is attached when the worker knows the rules inside it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from virtiofs_sandbox.confine.plan import HeldRule, MountChange
from virtiofs_sandbox.confine.rules import exact
from virtiofs_sandbox.ipc.config import ConfigError, LiveSettings
from virtiofs_sandbox.ipc.messages import Message
from virtiofs_sandbox.ipc.transport import ChannelClosedError
from virtiofs_sandbox.launcher import LaunchError
from virtiofs_sandbox.supervisor.changes import live_settings
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.dialogue import Dialogue
from virtiofs_sandbox.supervisor.events import (
    LayersHold,
    MountChanged,
    MountNotChanged,
    SettingsApplied,
    SettingsNotApplied,
    Sink,
)
from virtiofs_sandbox.supervisor.jailmounts import JailMounts, leaving, next_change, next_loosening
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Terms, Worker, settings_message


class Served(Protocol):
    """Whose jail it is; Slot is one. *replaceable*: nobody would miss the worker."""

    share: str
    generation: int
    peer: Peer | None

    @property
    def replaceable(self) -> bool: ...
    def fail(self, reason: str) -> None:
        """Ends the jail."""


class Adoption:
    """What one jail was launched by, what it has taken over since, and the work under way."""

    def __init__(self, terms: Terms, slot: Served, sink: Sink, timing: Timing, done: Callable[[], None]) -> None:
        """*done* is called whenever work ended."""
        self._launched_by = terms
        self._target = self._tried = terms
        self._slot = slot
        self._sink = sink
        self._timing = timing
        self._done = done
        self._mounts = JailMounts.built(terms.plan)
        self._unmade: dict[MountChange, str] = {}
        self._dialogue = Dialogue(live_settings(terms.share, terms.bounded, ()))
        self._worker: Worker | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def settled(self) -> bool:
        """Nothing is under way."""
        return self._work is None

    @property
    def layers(self) -> tuple[HeldRule, ...]:
        """Of each path rule, whether a mount holds it now besides the worker."""
        return tuple(map(self._layer, self._target.plan.rules))

    def begin(self, worker: Worker) -> None:
        """The worker is up: from now on it can follow, if it is one that does."""
        if not worker.follows:
            return
        if self._worker is None:
            self._worker = worker
            self._mounts = JailMounts.built(self._launched_by.plan, worker.unheld)
        self._look()

    def end(self) -> None:
        """Nobody follows any more."""
        self._worker = None
        if self._work is not None:
            self._work.cancel()

    def aim(self, terms: Terms) -> None:
        """The newest wins; what was begun for older terms is carried on from where it stands.

        Terms for another program than this jail's are for the next client, and none of them for this one.
        """
        if terms.share.program != self._launched_by.share.program:
            return
        self._target = terms
        self._look()

    def answered(self, message: Message) -> None:
        """Takes an APPLIED. Late is not never: after its time it counts like any other. Raises WrongAnswerError."""
        told = self._dialogue.answered(message)
        if message.code == 0:
            seconds = asyncio.get_running_loop().time() - told.began
            self._sink(SettingsApplied(*self._about(), told.serial, message.b, seconds, told.quietly))

    def _look(self) -> None:
        if self._work is None and self._worker is not None and self._target is not self._tried:
            self._work = asyncio.ensure_future(self._follow(self._worker))
            self._work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._work = None
        if not work.cancelled() and (error := work.exception()) is not None:
            self._slot.fail(f"fault in the supervisor: {error!r}")
        self._look()
        self._done()

    async def _follow(self, worker: Worker) -> None:
        """Ends when everything the newest terms ask for was tried."""
        while self._target is not self._tried:
            target = self._target
            # A part of a budget changes all the time, and nothing else with it.
            apart = replace(target, part=self._tried.part, among=self._tried.among)
            of_policy = apart != self._tried or apart == target
            self._unmade = {} if of_policy else self._unmade
            await self._change_mounts(worker, target, next_loosening)
            if not await self._tell(worker, target, quietly=not of_policy):
                return
            if self._target is target:
                await self._change_mounts(worker, target, next_change)
            # What took the place of a detached child was hidden till now.
            if self._target is target and not await self._tell(worker, target, quietly=not of_policy):
                return
            self._tried = target
            if of_policy and target.plan.rules and self._target is target:
                self._sink(LayersHold(*self._about(), self.layers))

    # The worker.

    async def _tell(self, worker: Worker, target: Terms, *, quietly: bool) -> bool:
        """Sees to it that the worker works by *target*; False when there is nothing to go on with.

        *quietly*: for debugging alone.
        """
        settings = self._settings(target)
        if settings == self._dialogue.newest:
            return True
        problem = await self._tell_settings(worker, settings, quietly=quietly)
        if problem is None or (problem.answered and self._target is not target):
            return True
        self._tried = target
        if self._slot.replaceable or self._dialogue.may_forbid_less_than(self._settings(self._target)):
            self._slot.fail(f"{problem.words}, and it may allow what is forbidden now")
        else:
            self._sink(SettingsNotApplied(*self._about(), problem.words))
        return False

    def _settings(self, target: Terms) -> LiveSettings:
        going = leaving(self._mounts, JailMounts.wanted(target.plan))
        return live_settings(self._launched_by.share, target.bounded, going)

    async def _tell_settings(self, worker: Worker, settings: LiveSettings, *, quietly: bool) -> _Problem | None:
        """Sends *settings* and waits for the answer."""
        told = self._dialogue.next(settings, quietly=quietly)
        try:
            worker.send_settings(settings_message(self._slot.generation, told.serial), settings)
        except (ChannelClosedError, BlockingIOError):
            return _Problem("it does not take new settings", answered=False)
        except (ConfigError, OSError) as error:
            return _Problem(f"new settings cannot be sent: {error}", answered=True)
        self._dialogue.sent(told)
        try:
            async with asyncio.timeout(self._timing.settings):
                answer = await told.answer
        except TimeoutError:
            return _Problem(f"no answer to new settings within {self._timing.settings:g} s", answered=False)
        if answer.code:
            return _Problem(f"it refuses new settings: {os.strerror(answer.code)}", answered=True)
        return None

    # The mounts.

    async def _change_mounts(self, worker: Worker, target: Terms, choose: _Choice) -> None:
        """Makes the changes that *choose* names, one at a time; one that fails is told, and the rest goes on."""
        wanted = JailMounts.wanted(target.plan)
        while (change := choose(self._mounts, wanted, self._unmade)) is not None:
            try:
                await worker.adjust((change,))
            except LaunchError as error:
                self._unmade[change] = str(error)
                self._sink(MountNotChanged(*self._about(), change, str(error)))
            else:
                self._mounts = self._mounts.after(change)
                self._sink(MountChanged(*self._about(), change))

    def _layer(self, planned: HeldRule) -> HeldRule:
        path = exact(planned.pattern)
        failed = next((why for change, why in self._unmade.items() if change.path == path), None)
        return planned if failed is None else replace(planned, held=False, why=failed)

    def _about(self) -> tuple[str, int, Peer | None]:
        return self._slot.share, self._slot.generation, self._slot.peer


_Choice = Callable[[JailMounts, JailMounts, dict[MountChange, str]], MountChange | None]


@dataclass(frozen=True)
class _Problem:
    """Why settings were not taken over; *answered*: other ones may yet be."""

    words: str
    answered: bool
