"""Reading the policy of a share in service again, on SIGHUP or when asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from virtiofs_sandbox.cgroups.groups import Groups
from virtiofs_sandbox.cgroups.planning import CannotLimitError
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.changes import changes, refusal
from virtiofs_sandbox.supervisor.events import HostLacks, Reloaded, ReloadRefused, Sink
from virtiofs_sandbox.supervisor.service import Service
from virtiofs_sandbox.supervisor.sharing import Sharing
from virtiofs_sandbox.supervisor.worker import Terms

Reload = Callable[[], tuple[Share, LaunchPlan]]
"""Reads the policy again. Runs inside the event loop, between two steps of it: a thread would bar the forking of a
zygote, and the guests' data does not pass here."""


@dataclass(frozen=True)
class Changed:
    """What a reload changed, in words; *later*: what of it waits until the client leaves; *warnings*: new ones."""

    changes: tuple[str, ...]
    later: tuple[str, ...]
    warnings: tuple[str, ...]


class Reloader:
    """Reads the policy again and hands it to the service, or says why everything stays as it was.

    *share* is what was read last: the bound of whatever is changed in between.
    """

    def __init__(
        self,
        service: Service,
        groups: Groups,
        read: Reload | None,
        refusals: tuple[type[Exception], ...],
        sink: Sink,
        *,
        sharing: Sharing,
    ) -> None:
        self.share = service.terms.share
        self._service = service
        self._groups = groups
        self._read = read
        self._refusals = refusals
        self._sink = sink
        self._sharing = sharing

    async def reload(self, read: Reload | None = None, *, now: bool = False) -> Changed | str:
        """What changed, or why nothing did. *read* replaces what reads the policy. *now*: what takes a new jail does
        not wait for the client to leave, whose connection ends.

        Never raises: a fault in here must not end a share in service.
        """
        attempt = asyncio.ensure_future(self._attempt(read or self._read, now=now))
        await asyncio.wait({attempt})
        error = attempt.exception()
        if error is None:
            outcome = attempt.result()
        elif isinstance(error, self._refusals):
            outcome = str(error)
        else:
            outcome = f"fault in the supervisor: {error!r}"
        if isinstance(outcome, str):
            self._sink(ReloadRefused(self._service.terms.share.name, outcome))
        return outcome

    async def _attempt(self, read: Reload | None, *, now: bool) -> Changed | str:
        if read is None:
            return "no policy speaks of this share, so there is nothing to read again"
        old = self._service.terms
        new = Terms(*read())
        if sentence := refusal(old.share, new.share):
            return sentence
        found = tuple(change.words for change in changes(old.share, new.share))
        self._take_part(old.share, new)
        self._sink(Reloaded(old.share.name, found, new.share.log_level))
        warnings = tuple(warning for warning in new.plan.warnings if warning not in old.plan.warnings)
        for warning in warnings:
            self._sink(HostLacks(old.share.name, warning))
        self.share = new.share
        self._service.hold_to(self._sharing.requests)
        later = self._service.take_over(new)
        if later and now:
            self._service.end_clients()
            later = ()
        return Changed(found, later, warnings)

    def _take_part(self, old: Share, new: Terms) -> None:
        """Has groups of shares and control groups follow. Raises CannotLimitError, and both are as before then."""
        self._sharing.follow(new.share)
        try:
            self._groups.apply(new.plan.groups, self._service.keepers)
            self._groups.narrow(self._sharing.disk)
        except CannotLimitError:
            self._sharing.follow(old)
            raise
