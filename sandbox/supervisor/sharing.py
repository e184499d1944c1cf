"""A share's part of its group's budget: found anew every period, from what all members say they want.

Two things keep the sum within the budget, however late anybody is. Who is to have less takes it at once, and says so
once its worker has said so; who is to have more takes no more than the others have left, under the group's lock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from virtiofs_sandbox.budgets.demand import Meter, Usage
from virtiofs_sandbox.budgets.division import FLOOR, Claim, divide
from virtiofs_sandbox.budgets.records import RATES, Record
from virtiofs_sandbox.budgets.registry import GroupBusyError, Registry
from virtiofs_sandbox.cgroups.planning import CannotLimitError
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.bounding import FIELDS, bounded, least
from virtiofs_sandbox.policies.share import Membership, Rates, Share, Unenforceable
from virtiofs_sandbox.policies.values import MAX_RATE

# Of all members at the same moments: what is wanted, then who takes less, then who takes more.
PERIOD = 1.0
IDLE_PERIOD = 5.0
_LESS_AFTER = 0.2
_MORE_AFTER = 0.3
_SETTLE_SECONDS = 0.5
_SETTLE_LOOK = 0.01
# Of its part: a change that is smaller is not worth a message to the worker.
_WORTH = 64
_NOTHING = (0,) * len(RATES)


@dataclasses.dataclass(frozen=True)
class Part:
    """What a share may use of its group's budget now."""

    requests: Rates
    disk: Rates


class Drawing(Protocol):
    """The share in service, as far as its part goes."""

    @property
    def settled(self) -> bool:
        """No worker is told of a part that it has not taken over."""

    def statistics(self) -> tuple[int, Statistics] | None:
        """The generation and the counters of the worker that serves, as it claims."""

    def disk_usage(self) -> Mapping[str, int]:
        """What its control groups have counted, by the fields of Rates."""

    def take(self, part: Part) -> None:
        """Holds to *part* from now on."""


class Sharing:
    """The share as a member of whatever group its policy names."""

    def __init__(self, directory: Path, warn: Callable[[str], None]) -> None:
        """*directory* has a directory for each group; *warn* gets a sentence when the division fails."""
        self._directory = directory
        self._warn = warn
        self._member: _Member | None = None
        self._drawing: Drawing | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def part(self) -> Part | None:
        """None without a group."""
        return None if self._member is None else self._member.part

    @property
    def requests(self) -> Rates | None:
        return None if self.part is None else self.part.requests

    @property
    def disk(self) -> Rates:
        return Rates() if self.part is None else self.part.disk

    def bounded(self, share: Share) -> Share:
        """*share* with the limits that hold now, in a group or not."""
        if self.part is None:
            return bounded(share)
        own = share.control.disk
        disk = {name: least(getattr(own, name), getattr(self.disk, name)) for name in FIELDS if hasattr(own, name)}
        control = dataclasses.replace(share.control, disk=dataclasses.replace(own, **disk))
        return dataclasses.replace(bounded(share, self.part.requests), control=control)

    def follow(self, share: Share) -> None:
        """Enters the group that *share* names and leaves the one before; a new weight or budget holds from here.

        Raises CannotLimitError where that is impossible and the policy refuses to go without.
        """
        old = self._member
        if share.group is None:
            self._member = None
        elif old is not None and old.group.name == share.group.name:
            old.change(share)
            return
        else:
            self._member = self._entered(share, share.group)
        if old is not None:
            self._stop()
            old.leave()
        self._begin()

    def draw(self, drawing: Drawing) -> None:
        """Measures *drawing* and tells it of its parts, from now on."""
        self._drawing = drawing
        self._begin()

    def close(self) -> None:
        self._stop()
        if self._member is not None:
            self._member.leave()
            self._member = None

    def _entered(self, share: Share, group: Membership) -> _Member | None:
        try:
            return _Member(share, group, Registry(self._directory / group.name))
        except (OSError, GroupBusyError) as error:
            sentence = f"the group {group.name} cannot be joined: {error}"
            if share.control.unenforceable is Unenforceable.REFUSE:
                raise CannotLimitError(f"limits.group.name: {sentence}") from error
            self._warn(f"limits.group.name is not held: {sentence}; this share alone may use up its whole budget")
            return None

    def _begin(self) -> None:
        if self._work is None and self._member is not None and self._drawing is not None:
            self._work = asyncio.ensure_future(self._run(self._member, self._drawing))

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    async def _run(self, member: _Member, drawing: Drawing) -> None:
        trouble = ""
        while True:
            period = IDLE_PERIOD if member.idle else PERIOD
            await asyncio.sleep(period - time.monotonic() % period)
            try:
                await member.step(drawing)
            except OSError as error:
                # What it holds, it keeps; nobody takes more than is left.
                if str(error) != trouble:
                    self._warn(f"limits.group: the division stands still: {error}")
                trouble = str(error)
            else:
                trouble = ""


class _Member:
    """*given*: what the share was told to hold to; *held*: what it may still use, which the others count with."""

    def __init__(self, share: Share, group: Membership, registry: Registry) -> None:
        """Enters the group. Raises OSError, GroupBusyError."""
        self.group = group
        self._registry = registry
        self._meter = Meter()
        self._measured = self._accounted = time.monotonic()
        self._allowed = [0.0] * len(RATES)
        self._demands: tuple[int | None, ...] = _NOTHING
        self._caps = _own_limits(share)
        self._budgets = _budgets(group)
        self.idle = False
        registry.join()
        others = registry.others()
        ideal, free = self._ideal(others), self._free(others, _NOTHING)
        # With none left it has its least until the others have made room.
        lowest = (budget * group.weight // self._weights(others) // FLOOR for budget in self._budgets)
        self._given = tuple(max(min(*pair), low) for *pair, low in zip(ideal, free, lowest, strict=True))
        self._held = self._given
        registry.joined(self._record())

    @property
    def part(self) -> Part:
        return Part(_rates(self.group.requests, self._given, "requests"), _rates(self.group.disk, self._given, "disk"))

    def change(self, share: Share) -> None:
        """Takes over another weight, budget or limits of the share itself. A part that is new comes with the next
        period; until then nothing is more than the budget."""
        assert share.group is not None  # noqa: S101 - for mypy: it is of this group
        self._account()
        self.group = share.group
        self._caps, self._budgets = _own_limits(share), _budgets(share.group)
        self._given = tuple(min(pair) for pair in zip(self._given, self._budgets, strict=True))
        self.idle = False

    def leave(self) -> None:
        self._registry.leave()

    async def step(self, drawing: Drawing) -> None:
        """One period. Raises OSError."""
        self._measure(drawing)
        self._registry.write(self._record())
        await asyncio.sleep(_LESS_AFTER)
        others = self._registry.others()
        self.idle = all(demand == 0 for of in (self._demands, *map(_demands, others.values())) for demand in of)
        ideal = self._ideal(others)
        await self._take_less(drawing, tuple(map(_lower, ideal, self._given)))
        if any(wanted > given + given // _WORTH for wanted, given in zip(ideal, self._given, strict=True)):
            await asyncio.sleep(_MORE_AFTER)
            self._take_more(drawing)

    async def _take_less(self, drawing: Drawing, lower: tuple[int, ...]) -> None:
        if lower != self._given:
            self._account()
            self._given = lower
            drawing.take(self.part)
        if self._held == self._given:
            return
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not drawing.settled and time.monotonic() < deadline:
            await asyncio.sleep(_SETTLE_LOOK)
        if drawing.settled:
            self._held = self._given
            self._registry.write(self._record())

    def _take_more(self, drawing: Drawing) -> None:
        with self._registry.exclusive() as alone:
            if not alone or self._held != self._given:
                return
            others = self._registry.others()
            free = self._free(others, self._held)
            more = tuple(
                max(held, min(wanted, held + left))
                for wanted, held, left in zip(self._ideal(others), self._held, free, strict=True)
            )
            self._account()
            self._given = self._held = more
            self._registry.write(self._record())
        drawing.take(self.part)

    def _measure(self, drawing: Drawing) -> None:
        self._account()
        allowed = {
            rate: amount for rate, amount, budget in zip(RATES, self._allowed, self._budgets, strict=True) if budget
        }
        demands = self._meter.demands(_usage(drawing), self._accounted - self._measured, allowed)
        self._measured = self._accounted
        self._allowed = [0.0] * len(RATES)
        # Nobody wants more than its own limit lets through.
        self._demands = tuple(
            least(demand, cap if demand != 0 and cap < MAX_RATE else None)
            for demand, cap in zip(demands, self._caps, strict=True)
        )

    def _account(self) -> None:
        """Books what might be used since the last time, before the part becomes another."""
        now = time.monotonic()
        for index, pair in enumerate(zip(self._given, self._caps, strict=True)):
            self._allowed[index] += min(pair) * (now - self._accounted)
        self._accounted = now

    def _record(self) -> Record:
        return Record(self.group.weight, self._demands, self._held)

    def _weights(self, others: Mapping[str, Record | None]) -> int:
        return self.group.weight + sum(_weight(record) for record in others.values())

    def _ideal(self, others: Mapping[str, Record | None]) -> tuple[int, ...]:
        found = []
        for index, budget in enumerate(self._budgets):
            claims = {
                name: Claim(_weight(record), None if record is None else record.demands[index])
                for name, record in others.items()
            }
            claims[self._registry.name] = Claim(self.group.weight, self._demands[index])
            found.append(divide(budget, claims)[self._registry.name])
        return tuple(found)

    def _free(self, others: Mapping[str, Record | None], own: tuple[int, ...]) -> tuple[int, ...]:
        """What nobody holds. Of who cannot be read all may be held."""
        if None in others.values():
            return _NOTHING
        return tuple(
            max(0, budget - own[index] - sum(record.held[index] for record in others.values() if record is not None))
            for index, budget in enumerate(self._budgets)
        )


def _lower(wanted: int, given: int) -> int:
    return wanted if wanted < given - given // _WORTH else given


def _weight(record: Record | None) -> int:
    return 100 if record is None else record.weight


def _demands(record: Record | None) -> tuple[int | None, ...]:
    return (None,) if record is None else record.demands


def _budgets(group: Membership) -> tuple[int, ...]:
    """In the order of RATES; 0 where there is none."""
    return tuple(getattr(_table(rate, group.requests, group.disk), rate.partition(".")[2]) or 0 for rate in RATES)


def _own_limits(share: Share) -> tuple[int, ...]:
    return tuple(
        getattr(_table(rate, share.limits, share.control.disk), rate.partition(".")[2], None) or MAX_RATE
        for rate in RATES
    )


def _table(rate: str, requests: object, disk: object) -> object:
    return requests if rate.startswith("requests.") else disk


def _rates(budget: Rates, parts: tuple[int, ...], table: str) -> Rates:
    """The parts of those rates that have a budget; a part that rounds to nothing is one a second."""
    found = dict(zip(RATES, parts, strict=True))
    return Rates(
        **{
            name: max(1, found[f"{table}.{name}"])
            for name in FIELDS
            if getattr(budget, name) is not None and f"{table}.{name}" in found
        }
    )


def _usage(drawing: Drawing) -> Usage:
    counts = {f"disk.{name}": count for name, count in drawing.disk_usage().items()}
    worker = drawing.statistics()
    if worker is None:
        return Usage(0, counts)
    source, statistics = worker
    for name, passed in statistics.throttled.items():
        counts[f"requests.{name}_ops"] = passed.admitted
        counts[f"requests.{name}"] = passed.bytes_admitted
    return Usage(source, counts)
