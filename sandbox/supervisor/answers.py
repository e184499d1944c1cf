"""What a share in service answers to each request of its control socket (docs/control.md)."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from virtiofs_sandbox.cgroups import hierarchies, planning
from virtiofs_sandbox.cgroups.groups import Groups
from virtiofs_sandbox.cgroups.planning import CannotLimitError
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.ipc import requests
from virtiofs_sandbox.ipc.requests import RequestError, fitting, words
from virtiofs_sandbox.ipc.stats import INDEXES, Statistics, Throttled
from virtiofs_sandbox.policies.limiting import (
    KEYS,
    LimitError,
    LimitWidensError,
    changed_rates,
    differences,
    limited,
)
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import ControlLimits, Share
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events import HostLacks, LimitsChanged, Sink
from virtiofs_sandbox.supervisor.reloader import Reloader
from virtiofs_sandbox.supervisor.service import Service
from virtiofs_sandbox.supervisor.sharing import Sharing
from virtiofs_sandbox.supervisor.worker import Terms


class ShareAnswers:
    """Answers for one share. Never waits."""

    def __init__(
        self,
        service: Service,
        groups: Groups,
        reloader: Reloader,
        policy: Path | None,
        sink: Sink,
        *,
        sharing: Sharing,
    ) -> None:
        self._service = service
        self._groups = groups
        self._reloader = reloader
        self._policy = policy
        self._sink = sink
        self._sharing = sharing

    async def __call__(self, request: requests.ShareRequest, peer: Peer) -> requests.Reply:
        """Raises RequestError."""
        match request:
            case requests.ReadStatus():
                return self.standing()
            case requests.ReadLimits():
                return self._limits()
            case requests.SetLimits():
                self._check_in_service()
                return self._change_limits(request, peer)
            case _:
                assert_never(request)

    def standing(self) -> requests.Standing:
        """How the share stands."""
        terms, slot = self._service.terms, self._service.slot
        rules = [
            requests.Rule(pattern=words(rule.pattern), mount=rule.held, why=words(rule.why))
            for rule in (() if slot is None else slot.layers)
        ]
        shown_rules = fitting(rules)
        return requests.Standing(
            share=terms.share.name,
            tag=terms.share.tag,
            socket=None if self._service.socket is None else words(self._service.socket),
            supervisor=requests.Identity(pid=os.getpid(), uid=os.geteuid()),
            tier=terms.plan.tier.value,
            policy=None if self._policy is None else words(shown(self._policy)),
            generation=0 if slot is None else slot.generation,
            state=self._service.state,
            client=None if slot is None or slot.peer is None else identity(slot.peer),
            clients=tuple(
                requests.Held(
                    generation=held.generation,
                    state=held.state.name.lower(),
                    client=identity(held.peer),
                    since=self._service.since(held),
                )
                for held in self._service.holders
                if held.peer is not None
            ),
            max_clients=terms.share.max_clients,
            program=None if terms.share.program is None else words(shown(terms.share.program.path)),
            since=self._service.since(slot),
            restarts=self._service.restarts,
            rules=shown_rules,
            rules_left_out=len(rules) - len(shown_rules),
            counters=_counters(self._statistics()),
        )

    def _check_in_service(self) -> None:
        if self._service.stopping:
            raise RequestError("stopping", f"share {self._service.terms.share.name} is being stopped")

    def _change_limits(self, request: requests.SetLimits, peer: Peer) -> requests.Limits:
        terms = self._service.terms
        try:
            share = limited(self._reloader.share, terms.share, request.set)
            plan = terms.plan if share.control == terms.share.control else self._in_groups(share, terms.plan)
        except LimitWidensError as error:
            raise RequestError("widens", str(error)) from error
        except (LimitError, CannotLimitError) as error:
            raise RequestError("refused", str(error)) from error
        found = tuple(differences(terms.share, share))
        if found:
            self._sink(LimitsChanged(share.name, peer, found, changed_rates(terms.share, share)))
            self._sharing.follow(share)
            self._service.take_over(Terms(share, plan))
        warnings = tuple(warning for warning in plan.warnings if warning not in terms.plan.warnings)
        for warning in warnings:
            self._sink(HostLacks(share.name, warning))
        return self._limits(found, warnings)

    def _in_groups(self, share: Share, plan: LaunchPlan) -> LaunchPlan:
        """Has the control groups hold what *share* says. Raises CannotLimitError, and they are as before then."""
        found = hierarchies.find()
        # A policy may go without what nothing here holds; who asks for it now is told instead.
        asked = ControlLimits(disk=share.control.disk, parent=share.control.parent)
        planning.plan(dataclasses.replace(share, control=asked), found)
        planned = planning.plan(share, found)
        self._groups.apply(planned.groups, self._service.keepers)
        warnings = tuple(dict.fromkeys((*plan.warnings, *planned.warnings)))
        return dataclasses.replace(plan, groups=planned.groups, warnings=warnings)

    def _limits(self, found: tuple[str, ...] = (), warnings: tuple[str, ...] = ()) -> requests.Limits:
        policy, now = self._reloader.share, self._sharing.bounded(self._service.terms.share)
        return requests.Limits(
            limits=tuple(
                requests.Limit(key=name, unit=key.unit, now=key.of(now), policy=key.of(policy))
                for name, key in KEYS.items()
            ),
            counters=_passed(self._statistics()),
            disks=self._disk_figures(),
            changes=found,
            warnings=warnings,
        )

    def _disk_figures(self) -> dict[str, dict[str, int]]:
        """None where they cannot be read: the limits are there to be shown all the same."""
        try:
            return self._groups.disk_figures()
        except OSError:
            return {}

    def _statistics(self) -> list[Statistics]:
        """Of the workers that serve, else of the one that will."""
        slots = self._service.holders or self._service.slots[:1]
        return [found for slot in slots if (found := slot.statistics()) is not None]


def _passed(workers: Sequence[Statistics]) -> dict[str, requests.Passed]:
    """What limits have made of the requests of all *workers*, by class."""
    total: dict[str, Counter[str]] = {}
    for worker in workers:
        for name, one in worker.throttled.items():
            total.setdefault(name, Counter()).update(dataclasses.asdict(one))
    fields = [field.name for field in dataclasses.fields(Throttled)]
    return {name: requests.Passed(**{field: counts[field] for field in fields}) for name, counts in total.items()}


def _counters(workers: Sequence[Statistics]) -> dict[str, int]:
    """Sums, but for what cannot be added up: the first generation, and the oldest start."""
    if not workers:
        return {}
    sums = {name: sum(getattr(worker, name) for worker in workers) for name in INDEXES}
    starts = [worker.oldest_start for worker in workers if worker.oldest_start]
    return sums | {"generation": workers[0].generation, "oldest_start": min(starts, default=0)}


def absent(
    name: str, state: str, reason: str | None, since: float, *, tag: str | None = None, policy: Path | None = None
) -> requests.Standing:
    """How a share stands that is not in service."""
    return requests.Standing(
        share=words(name),
        tag=tag,
        socket=None,
        supervisor=requests.Identity(pid=os.getpid(), uid=os.geteuid()),
        tier=None,
        policy=None if policy is None else words(shown(policy)),
        generation=0,
        state=state,
        client=None,
        since=since,
        restarts=0,
        rules=(),
        rules_left_out=0,
        counters={},
        reason=None if reason is None else words(reason),
    )


def identity(peer: Peer) -> requests.Identity:
    """As a document has it."""
    return requests.Identity(pid=peer.pid, uid=peer.uid)
