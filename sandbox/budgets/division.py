"""Weighted max-min fairness: a budget divided among members so that nobody is held back for one who wants less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

# Everybody is left one part in so many of what the weight alone gives, so that who begins to want is not at a stop.
FLOOR = 20


@dataclass(frozen=True)
class Claim:
    """*demand*: what the member would use in a second; None: as much as it gets. *weight* is at least 1."""

    weight: int
    demand: int | None


def divide(budget: int, claims: Mapping[str, Claim]) -> dict[str, int]:
    """The part of each member, by name; together they are never more than *budget*.

    Water filling: who wants less than its fair part gets what it wants, the others share the rest by weight. What
    nobody wants is divided by weight on top. Everybody who has the same claims before it, in whatever order, finds the
    same parts.
    """
    total = sum(claim.weight for claim in claims.values())
    wants = {name: _want(budget, claim, total) for name, claim in claims.items()}
    parts: dict[str, int] = {}
    rest, weight = budget, total
    for name in sorted(claims, key=lambda name: (Fraction(wants[name], claims[name].weight), name)):
        parts[name] = min(wants[name], rest * claims[name].weight // weight)
        rest -= parts[name]
        weight -= claims[name].weight
    return {name: part + rest * claims[name].weight // total for name, part in parts.items()}


def _want(budget: int, claim: Claim, total: int) -> int:
    least = budget * claim.weight // total // FLOOR
    return budget if claim.demand is None else min(budget, max(claim.demand, least))
