"""One member of a group: what it wants and holds, and the steps by which its part becomes another.

Two things keep the sum within the budget, however late anybody is. Who is to have less takes it at once, and says so
once its worker has said so; who is to have more takes no more than the others have left, under the group's lock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from typing import Protocol

from virtiofs_sandbox.budgets.demand import Meter, Usage
from virtiofs_sandbox.budgets.division import FLOOR, Claim, divide
from virtiofs_sandbox.budgets.records import RATES, Record
from virtiofs_sandbox.budgets.registry import Registry
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.bounding import FIELDS, least
from virtiofs_sandbox.policies.share import Membership, Rates, Share
from virtiofs_sandbox.policies.values import MAX_RATE

_SETTLE_SECONDS = 0.5
_SETTLE_LOOK = 0.01
# Of its part: a change that is smaller is not worth a message to the worker.
_WORTH = 64
_NOTHING = (0,) * len(RATES)
# Periods without anybody who wants or comes, before the group is called idle.
_QUIET = 10


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

    def statistics(self) -> Mapping[int, Statistics]:
        """By generation, the counters of each worker there is, as it claims."""

    def disk_usage(self) -> Mapping[str, int]:
        """What its control groups have counted, by the fields of Rates."""

    def take(self, part: Part) -> None:
        """Holds to *part* from now on."""


class Member:
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
        self._quiet = 0
        self._seen: frozenset[str] = frozenset()
        registry.join()
        try:
            others = registry.others()
        except OSError:
            registry.leave()
            raise
        ideal, free = self._ideal(others), self._free(others, _NOTHING)
        # With none left it has its least until the others have made room.
        lowest = (budget * group.weight // self._weights(others) // FLOOR for budget in self._budgets)
        self._given = tuple(max(min(*pair), low) for *pair, low in zip(ideal, free, lowest, strict=True))
        self._held = self._given
        registry.joined(self._record())

    @property
    def idle(self) -> bool:
        """For a while nobody of the group has used anything."""
        return self._quiet >= _QUIET

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
        self._quiet = 0

    def leave(self) -> None:
        self._registry.leave()

    def publish(self, drawing: Drawing) -> None:
        """Begins a period: tells the others what is wanted. Raises OSError."""
        self._measure(drawing)
        self._registry.write(self._record())

    async def take_less(self, drawing: Drawing) -> bool:
        """Gives up what others should have; whether there is something to be had instead. Raises OSError."""
        others = self._registry.others()
        at_rest = all(demand == 0 for of in (self._demands, *map(_demands, others.values())) for demand in of)
        self._quiet = self._quiet + 1 if at_rest and self._seen == others.keys() else 0
        self._seen = frozenset(others)
        ideal = self._ideal(others)
        crowded = self._crowded(others)
        lower = tuple(
            wanted if wanted < (given if full else given - given // _WORTH) else given
            for wanted, given, full in zip(ideal, self._given, crowded, strict=True)
        )
        if lower != self._given:
            self._account()
            self._given = lower
            drawing.take(self.part)
        if self._held != self._given:
            await self._settle(drawing)
        return any(wanted > given + given // _WORTH for wanted, given in zip(ideal, self._given, strict=True))

    def take_more(self, drawing: Drawing) -> None:
        """Takes what is its part, as far as nobody holds it. Raises OSError."""
        with self._registry.exclusive() as alone:
            if not alone or self._held != self._given:
                return
            others = self._registry.others()
            more = tuple(
                max(held, min(wanted, held + left))
                for wanted, held, left in zip(
                    self._ideal(others), self._held, self._free(others, self._held), strict=True
                )
            )
            self._account()
            self._given = self._held = more
            self._registry.write(self._record())
        drawing.take(self.part)

    async def _settle(self, drawing: Drawing) -> None:
        """The others may have what was given up once no worker uses it any more."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while not drawing.settled and time.monotonic() < deadline:
            await asyncio.sleep(_SETTLE_LOOK)
        if drawing.settled:
            self._held = self._given
            self._registry.write(self._record())

    def _crowded(self, others: Mapping[str, Record | None]) -> tuple[bool, ...]:
        """Of each rate whether more is held than there is, since somebody came."""
        known = [record for record in others.values() if record is not None]
        return tuple(
            self._held[index] + sum(record.held[index] for record in known) > budget
            for index, budget in enumerate(self._budgets)
        )

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
            if not budget:
                found.append(0)
                continue
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
    workers: dict[int, dict[str, int]] = {}
    for generation, statistics in drawing.statistics().items():
        counts = workers[generation] = {}
        for name, passed in statistics.throttled.items():
            counts[f"requests.{name}_ops"] = passed.admitted
            counts[f"requests.{name}"] = passed.bytes_admitted
    return Usage(workers, {f"disk.{name}": count for name, count in drawing.disk_usage().items()})
