"""Maps of user and group ids as virtiofsd takes them, and which of them the jail's own mechanism can give.

`--uid-map :INSIDE:OUTSIDE:COUNT:` is a line of a user namespace's map (its first and last character are the separator),
`--translate-uid TYPE:SOURCE:TARGET:COUNT` a rule that changes ids on their way.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from virtiofs_sandbox.policies.share import Identity, IdMap

_LINE = re.compile(r"(?P<s>[^0-9A-Za-z])([0-9]+)(?P=s)([0-9]+)(?P=s)([0-9]+)(?P=s)", re.ASCII)
_RULE = re.compile(r"([a-z-]+)([^0-9A-Za-z_-])(.+)", re.ASCII)
_MOST = 2**32
_THREE_NUMBERS = 3


@dataclass(frozen=True)
class Extent:
    """*count* ids from *inside* on, as the guest knows them, are those of the host from *outside* on."""

    inside: int
    outside: int
    count: int


class Direction(enum.Enum):
    """Which ids a rule changes: those that a guest asks for, those that it is shown, or both in the same way."""

    ASKED = "asked"
    SHOWN = "shown"
    BOTH = "both"

    @property
    def changes_what_is_made(self) -> bool:
        return self is not Direction.SHOWN


@dataclass(frozen=True)
class Rule:
    """*extent* None: what it changes is no plain range."""

    direction: Direction
    extent: Extent | None

    @property
    def changes_nothing(self) -> bool:
        return self.extent is not None and self.extent.inside == self.extent.outside


_KINDS = {
    "guest": Direction.ASKED,
    "squash-guest": Direction.ASKED,
    "forbid-guest": Direction.ASKED,
    "host": Direction.SHOWN,
    "squash-host": Direction.SHOWN,
    "map": Direction.BOTH,
}


def extent(text: str) -> Extent:
    """One map line. Raises ValueError with what is accepted."""
    found = _LINE.fullmatch(text)
    if found is None:
        raise ValueError("three numbers, as in :0:100000:65536:, are accepted")
    return _bounded(*(int(found[place]) for place in (2, 3, 4)))


def rule(text: str) -> Rule:
    """One translation rule. Raises ValueError with what is accepted."""
    accepted = f"{', '.join(_KINDS)} with their numbers, as in map:0:100000:65536, are accepted"
    found = _RULE.fullmatch(text)
    if found is None or found[1] not in _KINDS:
        raise ValueError(accepted)
    kind, numbers = found[1], found[3].split(found[2])
    wanted = _THREE_NUMBERS - (kind == "forbid-guest")
    if len(numbers) != wanted or not all(number.isascii() and number.isdigit() for number in numbers):
        raise ValueError(accepted)
    first, second, count = (*map(int, numbers), 0)[:_THREE_NUMBERS]
    plain = kind in ("guest", "host", "map")
    return Rule(_KINDS[kind], _bounded(first, second, count) if plain else None)


def _bounded(first: int, second: int, count: int) -> Extent:
    if not 0 < count <= _MOST or max(first, second) + count > _MOST:
        raise ValueError(f"ids from 0 to {_MOST - 1} are accepted, at least one")
    return Extent(first, second, count)


def of_namespace(
    uids: Sequence[Extent], gids: Sequence[Extent], *, uid: int, gid: int, maps_all: bool
) -> Identity | None:
    """What gives these maps to a caller with *uid* and *gid*, who (*maps_all*) may map any id; None where nothing does.

    A map of one kind alone stands beside the caller's own id of the other.
    """
    uids, gids = tuple(uids) or (Extent(0, uid, 1),), tuple(gids) or (Extent(0, gid, 1),)
    if _only(uids, uid) and _only(gids, gid):
        return Identity(map=IdMap.SQUASH)
    if maps_all:
        return _range_from_0(uids, gids)
    if not (_own_then_range(uids, uid) and _own_then_range(gids, gid)):
        return None
    return _range(uids[1], gids[1])


def of_rules(uids: Sequence[Rule], gids: Sequence[Rule]) -> Identity | None:
    """What gives these translations to a caller who may map any id; None where nothing does."""
    if any(one.direction is not Direction.BOTH or one.extent is None for one in (*uids, *gids)):
        return None
    return _range_from_0(*(tuple(one.extent for one in rules if one.extent) for rules in (uids, gids)))


def _only(extents: Sequence[Extent], own: int) -> bool:
    return len(extents) == 1 and (extents[0].outside, extents[0].count) == (own, 1)


def _own_then_range(extents: Sequence[Extent], own: int) -> bool:
    """As libvirt's session mode has it."""
    return len(extents) == 2 and extents[0] == Extent(0, own, 1) and extents[1].inside == 1


def _range_from_0(uids: Sequence[Extent], gids: Sequence[Extent]) -> Identity | None:
    if len(uids) != 1 or len(gids) != 1 or uids[0].inside or gids[0].inside:
        return None
    if uids[0].outside == 0:
        return Identity(map=IdMap.IDENTITY) if uids == gids and uids[0].count >= _MOST - 1 else None
    return _range(uids[0], gids[0])


def _range(uids: Extent, gids: Extent) -> Identity | None:
    """One range holds for both."""
    if (uids.outside, uids.count) != (gids.outside, gids.count) or not uids.outside:
        return None
    return Identity(map=IdMap.RANGE, first=uids.outside, count=uids.count)
