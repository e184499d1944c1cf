"""Which mounts a jail has now, and which change brings it nearer to what a newer plan says.

Whatever a mount takes away, the worker takes away first, and what it gives back, the worker gives back last: between
two steps it is always the stricter of both that holds, and where a mount cannot be made the worker holds alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

from virtiofs_sandbox.confine.plan import ChildMount, LaunchPlan, MountAction, MountChange, RuleMount
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

LOOSENING = frozenset({MountAction.THAW, MountAction.UNMASK})


@dataclass(frozen=True)
class JailMounts:
    """The children of a tree share, and the mounts that hold exact path rules."""

    children: frozenset[ChildMount]
    rules: frozenset[RuleMount]

    @classmethod
    def of(cls, plan: LaunchPlan) -> Self:
        return cls(frozenset(plan.children), frozenset(plan.rule_mounts))

    def after(self, change: MountChange) -> Self:
        """These mounts once *change* was made."""
        path, children, rules = change.path, self.children, self.rules
        match change.action:
            case MountAction.ATTACH:
                children |= {ChildMount(path, change.source, change.attributes)}
            case MountAction.DETACH:
                children = frozenset(child for child in children if child.name != path)
                rules = frozenset(rule for rule in rules if not rule.path.startswith(path + b"/"))
            case MountAction.MASK:
                rules |= {RuleMount(path, True)}
            case MountAction.UNMASK:
                rules -= {RuleMount(path, True)}
            case MountAction.FREEZE if self._child(path) is None:
                rules |= {RuleMount(path, False)}
            case MountAction.THAW if self._child(path) is None:
                rules -= {RuleMount(path, False)}
            case MountAction.FREEZE:
                children = frozenset(map(_frozen, children, [child.name == path for child in children]))
            case MountAction.THAW:
                children = frozenset(map(_thawed, children, [child.name == path for child in children]))
        return dataclasses.replace(self, children=children, rules=rules)

    def _child(self, name: bytes) -> ChildMount | None:
        return next((child for child in self.children if child.name == name), None)


def next_change(now: JailMounts, wanted: JailMounts, unmade: Collection[MountChange]) -> MountChange | None:
    """The next change on the way from *now* to *wanted* but for those in *unmade*; None at the end of the way."""
    return next((change for change in _differences(now, wanted) if change not in unmade), None)


def next_loosening(now: JailMounts, wanted: JailMounts, unmade: Collection[MountChange]) -> MountChange | None:
    """The next of those changes that give something back, which come before the worker hears of it."""
    found = (change for change in _differences(now, wanted) if change.action in LOOSENING)
    return next((change for change in found if change not in unmade), None)


def _differences(now: JailMounts, wanted: JailMounts) -> Iterator[MountChange]:
    """In the order in which they are to be made: children before the rules inside them."""
    # What hides lies on top of what freezes.
    for rule in sorted(now.rules - wanted.rules, key=lambda rule: (not rule.hide, -rule.path.count(b"/"), rule.path)):
        yield MountChange(MountAction.UNMASK if rule.hide else MountAction.THAW, rule.path)
    places = {(child.name, child.source): child for child in now.children}
    kept = {(child.name, child.source) for child in wanted.children} & set(places)
    for child in sorted(now.children, key=lambda child: child.name):
        if (child.name, child.source) not in kept:
            yield MountChange(MountAction.DETACH, child.name)
    for child in sorted(wanted.children, key=lambda child: child.name):
        present = places.get((child.name, child.source))
        if present is None:
            yield MountChange(MountAction.ATTACH, child.name, child.source, child.attributes)
        elif present.attributes != child.attributes:
            frozen = child.attributes & MOUNT_ATTR_RDONLY
            yield MountChange(MountAction.FREEZE if frozen else MountAction.THAW, child.name)
    for rule in sorted(wanted.rules - now.rules, key=lambda rule: (rule.hide, rule.path.count(b"/"), rule.path)):
        yield MountChange(MountAction.MASK if rule.hide else MountAction.FREEZE, rule.path)


def _frozen(child: ChildMount, meant: bool) -> ChildMount:
    return dataclasses.replace(child, attributes=child.attributes | MOUNT_ATTR_RDONLY) if meant else child


def _thawed(child: ChildMount, meant: bool) -> ChildMount:
    return dataclasses.replace(child, attributes=child.attributes & ~MOUNT_ATTR_RDONLY) if meant else child
