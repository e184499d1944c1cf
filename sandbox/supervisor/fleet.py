"""The shares of one supervisor: those that a directory of policies speaks of, each in its berth.

What happens to one share is told and done for that one. A policy with a mistake takes down nothing: at the start its
share is left out, at a reload it stays as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from virtiofs_sandbox.ipc.requests import Done, Reloaded, RequestError, Standing, fitting, words
from virtiofs_sandbox.policies.places import is_there, named
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.roster import Roster, read_each, roster
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.answers import absent
from virtiofs_sandbox.supervisor.berth import STARTED, Berth, Ground, Situation
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events import InService, PolicyBroken, ReloadRefused
from virtiofs_sandbox.supervisor.reloader import Changed

# First jails that are on their way at the same time: one is made while another's worker gets ready.
_AT_ONCE = 4
# As events and the zygote have it where no single share is meant.
ALL = ""
_ADDED = Changed(("added",), (), ())


@dataclass
class _Told:
    """What a reload has done, in sentences; with *named* they begin with the share each is about."""

    named: bool
    changes: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def add(self, name: str, outcome: Changed | str) -> None:
        about = f"{name}: " if self.named else ""
        if isinstance(outcome, str):
            self.refused.append(about + outcome)
            return
        for sentences, said in (
            (self.changes, outcome.changes),
            (self.later, outcome.later),
            (self.warnings, outcome.warnings),
        ):
            sentences.extend(about + sentence for sentence in said)

    def reply(self) -> Reloaded:
        lists = (self.changes, self.later, self.warnings, self.refused)
        kept = [fitting([words(sentence) for sentence in sentences]) for sentences in lists]
        left_out = sum(map(len, lists)) - sum(map(len, kept))
        return Reloaded(changes=kept[0], later=kept[1], warnings=kept[2], refused=kept[3], left_out=left_out)


class Fleet:
    """To be made inside the event loop; then `start`, and in the end `stop`, whatever happened."""

    def __init__(
        self,
        directory: Path,
        common: Common,
        ground: Ground,
        *,
        look_anew: Callable[[], None],
        stop: Callable[[str], None],
    ) -> None:
        """*look_anew* is called before policies are read: what the host offers may have changed. *stop*, with a reason,
        is to end the supervisor.
        """
        self._directory = directory
        self._common = common
        self._ground = ground
        self._look_anew = look_anew
        self._stop = stop
        self._berths: dict[str, Berth] = {}
        self._removed: set[str] = set()
        self._broken: dict[str, str] = {}
        self._read_at = time.time()
        self._turn = asyncio.Lock()
        self._closing = False

    async def start(self) -> None:
        """Tries every share once, in the order of their names.

        Raises PolicyError and WideningError where the directory as a whole cannot be read.
        """
        async with self._turn:
            wanted = await self._read(None)
            self._note_broken(wanted, self._berths)
            await self._start(wanted.policies.values())
        failed = sum(berth.active is None for berth in self._berths.values()) + len(self._broken)
        self._common.sink(InService(ALL, len(self.shares), failed, self._directory))

    async def stop(self, grace: float) -> bool:
        """Ends all shares at the same time, for good. False when something was left behind."""
        self._closing = True
        berths = tuple(self._berths.values())
        outcomes = await asyncio.gather(*(berth.stop(grace) for berth in berths), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return all(outcomes)

    def kill(self, reason: str) -> None:
        """Cuts a `stop` under way short."""
        for berth in self._berths.values():
            berth.kill(reason)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Those in force."""
        return tuple(berth.policy for berth in self._berths.values())

    @property
    def clients(self) -> int:
        """How many are served."""
        return sum(len(active.service.clients) for active in self.shares.values())

    @property
    def absent(self) -> int:
        """How many have a policy, or what should be one, and are not in service."""
        broken = sum(name not in self._berths for name in self._broken)
        return broken + sum(berth.active is None for berth in self._berths.values())

    @property
    def summary(self) -> str:
        """One line for the service manager."""
        serve = sum(berth.situation is Situation.IN_SERVICE for berth in self._berths.values())
        failed = sum(berth.situation is Situation.FAILED for berth in self._berths.values())
        broken = f", {len(self._broken)} broken" if self._broken else ""
        return f"{serve} shares in service, {self.clients} clients" + (f", {failed} failed" if failed else "") + broken

    # As a Household.

    @property
    def shares(self) -> Mapping[str, ActiveShare]:
        return {name: berth.active for name, berth in sorted(self._berths.items()) if berth.active is not None}

    def standings(self) -> Mapping[str, Standing]:
        found = {name: berth.standing() for name, berth in self._berths.items()}
        for name, reason in self._broken.items():
            standing = found.get(name)
            if standing is None:
                found[name] = absent(name, "failed", reason, self._read_at, policy=named(name, self._directory))
            elif standing.reason is None:
                kept = words(f"served by what its policy said before this mistake: {reason}")
                found[name] = msgspec.structs.replace(standing, reason=kept)
        return dict(sorted(found.items()))

    async def reload(self, name: str | None = None, *, now: bool = False) -> Reloaded:
        if name is not None and name not in self.standings() and not is_there(named(name, self._directory)):
            raise RequestError("unknown-share", f"no share called {name!r} is known here, and there is no such policy")
        async with self._turn:
            if self._closing:
                raise RequestError("stopping", "the supervisor is being stopped")
            try:
                told = await self._follow(await self._read(name), only=name, now=now)
            except self._common.refusals as error:
                self._common.sink(ReloadRefused(ALL, str(error)))
                raise RequestError("refused", f"{error}; everything stays as it was") from error
        if name is not None and told.refused:
            raise RequestError("refused", "; ".join(told.refused))
        return told.reply()

    async def restart(self, name: str, *, now: bool) -> Done:
        berth = self._berth(name)
        stay = await berth.restart(now=now)
        if berth.active is None:
            raise RequestError("refused", f"not in service: {berth.reason}")
        return Done(
            changes=("whoever connects from now on gets a new worker",),
            later=tuple(f"{client} keeps its worker until it leaves" for client in stay),
        )

    async def stop_share(self, name: str, *, now: bool, by: Peer) -> Done:
        stay = await self._berth(name).leave(f"stopped by {by}, until the next reload", now=now)
        return Done(
            changes=("accepts nobody any more" if stay else "stopped",),
            later=tuple(f"stops when {client} has left" for client in stay),
        )

    def stop_all(self, by: Peer) -> None:
        self._stop(f"a request of {by}")

    # Following the policies.

    async def _read(self, only: str | None) -> Roster:
        """File by file, so that nobody waits for all of them. Raises PolicyError, WideningError."""
        self._look_anew()
        found: dict[str, Policy | str] = {}
        for name, outcome in read_each(self._directory, only):
            found[name] = outcome
            await asyncio.sleep(0)
        in_force = {name: berth.policy for name, berth in self._berths.items() if name not in self._removed}
        wanted = roster(found, in_force, only=only)
        self._read_at = time.time()
        others = {} if only is None else {name: why for name, why in self._broken.items() if name != only}
        self._broken = {**others, **wanted.broken}
        return wanted

    async def _follow(self, wanted: Roster, *, only: str | None, now: bool) -> _Told:
        told = _Told(named=only is None)
        self._note_broken(wanted, self._berths)
        for name, reason in wanted.broken.items():
            told.add(name, reason)
        concerned = sorted(self._berths if only is None else self._berths.keys() & {only})
        known = [name for name in concerned if name in wanted.policies and name not in wanted.broken]
        gone = [name for name in concerned if name not in wanted.policies and name not in self._removed]
        # As they stand now: one that is back stays, and one that comes into service meanwhile is not to be missed.
        self._removed.difference_update(known)
        out = [wanted.policies[name] for name in known if self._berths[name].active is None]
        serving = [name for name in known if self._berths[name].active is not None]
        for name, removed in zip(gone, await self._remove(gone, now=now), strict=True):
            told.add(name, removed)
        # A socket may take the place of one that moves away only after it.
        for name in self._in_order_of_sockets(serving, wanted.policies):
            told.add(name, await self._berths[name].follow(wanted.policies[name], now=now))
        new = [policy for name, policy in wanted.policies.items() if name not in self._berths]
        for name, outcome in (await self._start([*out, *new], now=now)).items():
            told.add(name, outcome)
        return told

    def _in_order_of_sockets(self, names: Iterable[str], policies: Mapping[str, Policy]) -> list[str]:
        """By name, but whoever holds the place of another's new socket first. Two that swap cannot both be first."""
        holders = {self._berths[name].policy.socket.path: name for name in names}
        order: dict[str, None] = {}

        def put(name: str, waiting: frozenset[str]) -> None:
            holder = holders.get(policies[name].socket.path)
            if holder is not None and holder != name and holder not in order and holder not in waiting:
                put(holder, waiting | {name})
            order.setdefault(name)

        for name in names:
            put(name, frozenset())
        return list(order)

    def _note_broken(self, wanted: Roster, in_service: Mapping[str, Berth]) -> None:
        for name, reason in wanted.broken.items():
            self._common.sink(PolicyBroken(name, reason, name in in_service))

    async def _start(self, policies: Iterable[Policy], *, now: bool = False) -> dict[str, Changed | str]:
        """Starts shares, in a berth that is there or a new one: a few at a time, so that none waits for all."""
        gate = asyncio.Semaphore(_AT_ONCE)
        outcomes: dict[str, Changed | str] = {}

        async def start(policy: Policy) -> None:
            is_new = policy.name not in self._berths
            if is_new:
                self._berths[policy.name] = Berth(policy, self._common, self._ground, vacant=self._vacant)
            berth = self._berths[policy.name]
            async with gate:
                if not self._closing:
                    outcome = await berth.follow(policy, now=now)
                    outcomes[policy.name] = _ADDED if is_new and outcome == STARTED else outcome

        await asyncio.gather(*map(start, policies))
        return dict(sorted(outcomes.items()))

    async def _remove(self, names: Sequence[str], *, now: bool) -> list[Changed]:
        """All at the same time: with *now* each may take its grace."""
        self._removed.update(names)
        stay = await asyncio.gather(*(self._berths[name].leave("its policy is gone", now=now) for name in names))
        return [Changed(("removed",), tuple(f"it ends when {client} has left" for client in one), ()) for one in stay]

    def _vacant(self, berth: Berth) -> None:
        if berth.name in self._removed:
            self._removed.discard(berth.name)
            berth.close()
            del self._berths[berth.name]

    def _berth(self, name: str) -> Berth:
        try:
            return self._berths[name]
        except KeyError:
            raise RequestError("not-in-service", f"share {name} is not in service: {self._broken.get(name)}") from None
