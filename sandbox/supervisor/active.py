"""One share in service, with all that goes with it: control groups, its part of a budget, workers, its policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from virtiofs_sandbox.budgets.member import Part
from virtiofs_sandbox.cgroups import hierarchies
from virtiofs_sandbox.cgroups.following import follow
from virtiofs_sandbox.cgroups.groups import Groups, sweep
from virtiofs_sandbox.cgroups.planning import CannotLimitError, bases
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.answers import ShareAnswers
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import GroupNotFollowed, GroupsLeft, HostLacks, LimitNotHeld, Sink
from virtiofs_sandbox.supervisor.foreign import launch_foreign
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.reloader import Reload, Reloader
from virtiofs_sandbox.supervisor.service import Service, StartError
from virtiofs_sandbox.supervisor.sharing import Sharing
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.watching import Watching
from virtiofs_sandbox.supervisor.worker import Terms, Worker, launch_worker
from virtiofs_sandbox.supervisor.zygotes import Zygotes


@dataclass(frozen=True)
class Common:
    """What all shares of one supervisor have in common.

    *budgets* has a directory for each group of shares; *refusals* are what reading a policy may raise without anything
    being wrong with us; *spares* is how many of the shares keep a worker warm; *tallies* hears of all that happens.
    """

    zygotes: Zygotes[Any]
    denials: Denials
    sink: Sink
    timing: Timing
    budgets: Path
    refusals: tuple[type[Exception], ...]
    spares: Spares
    tallies: Tallies

    @cached_property
    def watching(self) -> Watching:
        """Finds workers of all shares that hang."""
        return Watching(self.timing)


class ActiveShare:
    """To be made inside the event loop; then `start`, `listen`, and in the end `stop`, whatever happened."""

    def __init__(
        self,
        share: Share,
        plan: LaunchPlan,
        common: Common,
        *,
        reload: Reload | None = None,
        policy: Path | None = None,
        follow_cgroup: bool = False,
    ) -> None:
        """*reload* reads the share's policy again, *policy* is the file it goes by. With *follow_cgroup* each jail is
        launched in the control groups that this process is in by then; the share's own come on top.
        """
        self.name = share.name
        self.policy = policy
        self.tally = common.tallies.begin(share.name)
        self._common = common
        self._plan = plan
        self._follow_cgroup = follow_cgroup
        self.groups = Groups(share.name, self._limit_not_held)
        self.sharing = Sharing(common.budgets, self._limit_not_held)
        self.service = Service(
            Terms(share, plan),
            self._launch,
            common.denials.show,
            common.timing,
            policy=policy,
            spares=common.spares,
            watching=common.watching,
        )
        self.reloader = Reloader(self.service, self.groups, reload, common.refusals, common.sink, sharing=self.sharing)
        self.answers = ShareAnswers(self.service, self.groups, self.reloader, policy, common.sink, sharing=self.sharing)

    async def start(self) -> None:
        """Makes the control groups, and returns once a worker is warm in them, or at once where the budget of spares
        has none for this share. Raises StartError.
        """
        share = self.service.terms.share
        for warning in self._plan.warnings:
            self._common.sink(HostLacks(self.name, warning))
        sweep(bases(hierarchies.find(), share.control.parent))
        try:
            self.sharing.follow(share)
            self.groups.apply(self._plan.groups)
            self.groups.narrow(self.sharing.disk)
        except CannotLimitError as error:
            raise StartError(str(error)) from error
        self.service.hold_to(self.sharing.requests)
        self.sharing.draw(_Drawing(self.service, self.groups, self._limit_not_held))
        await self.service.start()

    def listen(self, listener: Listener) -> None:
        """Takes over *listener* and accepts from now on."""
        self.service.listen(listener)

    async def stop(self, grace: float) -> bool:
        """Ends service, workers and control groups. False when something was left behind."""
        try:
            clean = await self.service.stop(grace)
        finally:
            self.sharing.close()
            left = await self.groups.close()
            self._common.tallies.end(self.name, self.tally)
        if left:
            self._common.sink(GroupsLeft(self.name, left))
        return clean and not left

    def kill(self, reason: str) -> None:
        """Cuts a `stop` under way short."""
        self.service.kill(reason)

    async def _launch(self, generation: int, terms: Terms) -> Worker:
        joined = self.groups.joined
        plan = dataclasses.replace(terms.plan, cgroups=joined)
        if self._follow_cgroup:
            self._take_along()
        launch = launch_foreign if plan.program else launch_worker
        worker = await launch(dataclasses.replace(terms, plan=plan), generation, self._common.zygotes)
        if joined != self.groups.joined:
            # A reload came between.
            self.groups.enter(worker.pid)
        self._common.denials.launched(self.name, generation, worker.pid)
        return worker

    def _take_along(self) -> None:
        """Jails are forked by the zygote, and into its groups."""
        zygote = self._common.zygotes.pid
        try:
            problems = () if zygote is None else follow(zygote)
        except OSError as error:
            problems = (f"control groups cannot be looked up: {error}",)
        for problem in problems:
            self._common.sink(GroupNotFollowed(self.name, problem))

    def _limit_not_held(self, sentence: str) -> None:
        self._common.sink(LimitNotHeld(self.name, sentence))


@dataclass(frozen=True)
class _Drawing:
    """The share in service as a member of its group knows it."""

    service: Service
    groups: Groups
    warn: Callable[[str], None]

    @property
    def settled(self) -> bool:
        return self.service.settled

    def statistics(self) -> Mapping[int, Statistics]:
        found = {slot.generation: slot.statistics() for slot in self.service.slots}
        return {generation: counted for generation, counted in found.items() if counted is not None}

    def disk_usage(self) -> Mapping[str, int]:
        return self.groups.disk_usage()

    def take(self, part: Part) -> None:
        self.service.hold_to(part.requests)
        try:
            self.groups.narrow(part.disk)
        except CannotLimitError as error:
            self.warn(f"limits.group: the part of the disk stays what it was: {error}")
