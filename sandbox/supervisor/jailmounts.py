"""Which mounts a jail has now, and which change brings it nearer to what a newer plan says.

Whatever a mount takes away, the worker takes away first, and what it gives back, the worker gives back last: between
two steps it is always the stricter of both that holds, and where a mount cannot be made the worker holds alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

from virtiofs_sandbox.confine.plan import ChildMount, LaunchPlan, MountAction, MountChange, RuleMount
from virtiofs_sandbox.confine.rules import exact
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

LOOSENING = frozenset({MountAction.THAW, MountAction.UNMASK})


@dataclass(frozen=True)
class JailMounts:
    """The children of a tree share, and the mounts that lie over something: those of exact path rules, and those that
    freeze a child which was attached writable.
    """

    children: frozenset[ChildMount]
    covers: frozenset[RuleMount]

    @classmethod
    def built(cls, plan: LaunchPlan, unheld: Collection[bytes] = ()) -> Self:
        """What a launch by *plan* made; *unheld* are the paths of rules that found nothing to be mounted over."""
        covers = frozenset(rule for rule in plan.rule_mounts if rule.path not in unheld)
        return cls(frozenset(plan.children), covers)

    @classmethod
    def wanted(cls, plan: LaunchPlan) -> Self:
        """What a jail should have that is to follow *plan*; not what has nothing to be mounted over at present."""
        return cls.built(plan, {exact(rule.pattern) or b"" for rule in plan.rules if not rule.held})

    def after(self, change: MountChange) -> Self:
        """These mounts once *change* was made."""
        path, children, covers = change.path, self.children, self.covers
        match change.action:
            case MountAction.ATTACH:
                children |= {ChildMount(path, change.source, change.attributes)}
            case MountAction.DETACH:
                children = frozenset(child for child in children if child.name != path)
                covers = frozenset(cover for cover in covers if not cover.path.startswith(path + b"/"))
            case MountAction.MASK | MountAction.FREEZE:
                covers |= {RuleMount(path, change.action is MountAction.MASK)}
            case MountAction.UNMASK | MountAction.THAW:
                covers -= {RuleMount(path, change.action is MountAction.UNMASK)}
        return dataclasses.replace(self, children=children, covers=covers)


def next_change(now: JailMounts, wanted: JailMounts, unmade: Collection[MountChange]) -> MountChange | None:
    """The next change on the way from *now* to *wanted* but for those in *unmade*; None at the end of the way."""
    return next((change for change in _differences(now, wanted) if change not in unmade), None)


def next_loosening(now: JailMounts, wanted: JailMounts, unmade: Collection[MountChange]) -> MountChange | None:
    """The next of those changes that give something back, which come before the worker hears of it."""
    found = (change for change in _differences(now, wanted) if change.action in LOOSENING)
    return next((change for change in found if change not in unmade), None)


def leaving(now: JailMounts, wanted: JailMounts) -> tuple[str, ...]:
    """Names of the children that are to be detached, for good or to make place."""
    kept = _kept(now, wanted)
    return tuple(sorted(os.fsdecode(child.name) for child in now.children if child not in kept))


def _kept(now: JailMounts, wanted: JailMounts) -> dict[ChildMount, ChildMount]:
    """The children that stay, each with what is wanted of it. A mount that is read-only itself never turns writable."""
    by_place = {(child.name, child.source): child for child in wanted.children}
    kept = {}
    for child in now.children:
        same = by_place.get((child.name, child.source))
        if same is not None and child.attributes in (same.attributes, same.attributes & ~MOUNT_ATTR_RDONLY):
            kept[child] = same
    return kept


def _differences(now: JailMounts, wanted: JailMounts) -> Iterator[MountChange]:
    """In the order in which they are to be made: children before what covers something inside them."""
    kept = _kept(now, wanted)
    frozen = {RuleMount(child.name, False) for child, same in kept.items() if child != same}
    covers = wanted.covers | frozen
    # Of two covers the lower lies inside the upper, and what hides lies on top of what freezes.
    for cover in sorted(now.covers - covers, key=_from_outside, reverse=True):
        yield MountChange(MountAction.UNMASK if cover.hide else MountAction.THAW, cover.path)
    for child in sorted(now.children - set(kept), key=lambda child: child.name):
        yield MountChange(MountAction.DETACH, child.name)
    for child in sorted(wanted.children - set(kept.values()), key=lambda child: child.name):
        yield MountChange(MountAction.ATTACH, child.name, child.source, child.attributes)
    for cover in sorted(covers - now.covers, key=_from_outside):
        yield MountChange(MountAction.MASK if cover.hide else MountAction.FREEZE, cover.path)


def _from_outside(cover: RuleMount) -> tuple[bool, int, bytes]:
    return cover.hide, cover.path.count(b"/"), cover.path
