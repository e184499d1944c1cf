"""Patterns that do nothing, or less than they seem to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import reduce
from operator import or_

from virtiofs_sandbox.confine.preflight.directories import directories
from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.confine.preflight.subject import Bounds
from virtiofs_sandbox.confine.preflight.walk import Entry, Rules, Walk, walk
from virtiofs_sandbox.policies.share import Case, Share


class Patterns:
    """Which patterns covered something, and always together with which others."""

    def __init__(self, share: Share, rules: Rules) -> None:
        self._share = share
        self._rules = rules
        self._together: set[int] = set()
        self._visible = 0

    def see(self, entry: Entry) -> None:
        if entry.covering:
            self._together.add(entry.covering)
        if entry.inside and not entry.hidden:
            self._visible += 1

    def missed(self) -> int:
        """Bit N: pattern N covered nothing."""
        covered = reduce(or_, self._together, 0)
        return ((1 << len(self._rules.rules)) - 1) & ~covered

    def findings(self, progress: Walk, nearly: int) -> Iterator[Finding]:
        """*nearly* has the bits of `in_another_case`."""
        if self._share.paths.allow and not self._visible and progress.cut is None:
            yield Finding(
                Severity.WARNING,
                "nothing-visible",
                "the rules leave nothing visible: the guest sees an empty directory",
                "widen paths.allow or narrow paths.hide",
                "paths.allow",
            )
        shadowed = 0
        for bit in reversed(range(len(self._rules.rules))):
            rule = self._rules.rules[bit]
            covers = [together for together in self._together if together >> bit & 1]
            if not covers:
                yield self._matches_nothing(bit, progress, nearly)
                continue
            others = self._stronger(rule.key) & ~(1 << bit) & ~shadowed
            if all(together & others for together in covers):
                shadowed |= 1 << bit
                names = sorted({self._rules.rules[by].pattern.text for by in _bits(covers[0] & others)})
                yield Finding(
                    Severity.WARNING if progress.cut is None else Severity.NOTE,
                    "pattern-shadowed",
                    f"{rule.key} {rule.pattern.text!r} changes nothing: all that it matches is covered by "
                    + ", ".join(repr(name) for name in names)
                    + ("" if progress.cut is None else f" (looked {progress.cut})"),
                    "remove one of them",
                    f"paths.{rule.key}",
                )

    def _stronger(self, key: str) -> int:
        """The patterns that take the effect away from one of list *key*: its like, and what hides."""
        return self._rules.mask(key) | self._rules.mask("hide")

    def _matches_nothing(self, bit: int, progress: Walk, nearly: int) -> Finding:
        rule = self._rules.rules[bit]
        what = f"{rule.key} {rule.pattern.text!r} matches nothing"
        if nearly >> bit & 1:
            what += "; it would without regard to case"
        if progress.cut is not None:
            what += f" of what was seen ({progress.cut})"
        return Finding(
            Severity.WARNING if progress.cut is None else Severity.NOTE,
            "pattern-matches-nothing",
            what,
            "correct it (paths.case, too), or keep it for names that are still to come",
            f"paths.{rule.key}",
        )


def in_another_case(share: Share, missed: int, bounds: Bounds) -> int:
    """Those of the *missed* patterns that would cover something without regard to case, by a look of its own."""
    if not missed or share.paths.case is Case.INSENSITIVE:
        return 0
    rules = Rules(dataclasses.replace(share.paths, case=Case.INSENSITIVE))
    found = 0
    for entry in walk(directories(share), rules, bounds, Walk()):
        found |= entry.covering & missed
        if found == missed:
            break
    return found


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        mask ^= bit
        yield bit.bit_length() - 1
