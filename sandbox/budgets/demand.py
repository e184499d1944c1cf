"""How much a member wants, from what it has used: counters, once a period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from virtiofs_sandbox.budgets.records import RATES

# More than this of its part: it is held back by it.
_FULL = 0.9
# Room left for who uses less than it may: what it used last, and a quarter.
_ROOM = 1.25
# A request is let in whole on credit, and what it owes is paid in the periods after: so much at most.
_LARGEST = {rate: 1 if rate.endswith("_ops") else 1 << 20 for rate in RATES}


@dataclass(frozen=True)
class Usage:
    """Counts of each rate: of the *workers*, by generation, since each began, and what the control group counted of
    the *disk*.

    What a worker says of itself is a claim: it moves its own demand alone.
    """

    workers: Mapping[int, Mapping[str, int]]
    disk: Mapping[str, int] = field(default_factory=dict)

    def since(self, last: Usage, rate: str) -> int:
        """What was used of *rate*. Counters that go back are a lie, and count for nothing."""
        used = max(0, self.disk.get(rate, 0) - last.disk.get(rate, 0))
        for generation, counts in self.workers.items():
            used += max(0, counts.get(rate, 0) - last.workers.get(generation, {}).get(rate, 0))
        return used


@dataclass
class Meter:
    """Turns counters into demands."""

    _last: Usage = field(default_factory=lambda: Usage({}))
    _owed: dict[str, float] = field(default_factory=dict)

    def demands(self, usage: Usage, seconds: float, allowed: Mapping[str, float]) -> tuple[int | None, ...]:
        """Of each rate what is wanted in a second, None where the member would take whatever it gets.

        *allowed* is how much it might use in the *seconds* since the last call, of each rate that has a budget.
        """
        last, self._last = self._last, usage
        if last.workers and last.workers.keys().isdisjoint(usage.workers):
            # What was owed goes with who owed it.
            self._owed.clear()
        return tuple(
            self._demand(rate, last, usage, seconds, allowed[rate]) if rate in allowed else 0 for rate in RATES
        )

    def _demand(self, rate: str, last: Usage, usage: Usage, seconds: float, allowed: float) -> int | None:
        used = usage.since(last, rate)
        owed = self._owed.get(rate, 0.0) + used - allowed
        self._owed[rate] = min(max(0.0, owed), max(allowed / seconds, _LARGEST[rate]))
        if used > allowed * _FULL or self._owed[rate] > 0:
            return None
        return int(used / seconds * _ROOM)
