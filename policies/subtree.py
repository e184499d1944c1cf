"""A share of a directory inside a share: the same rules, said from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from virtiofs_sandbox.policies.matching import Matcher
from virtiofs_sandbox.policies.patterns import MAX_PATTERNS, Pattern
from virtiofs_sandbox.policies.share import Access, Share


class HiddenError(Exception):
    """The directory cannot be shared by itself; str() completes "DIR …", *key* is what says so."""

    def __init__(self, key: str, sentence: str) -> None:
        self.key = key
        super().__init__(sentence)


def subtree(share: Share, path: tuple[str, ...], source: Path) -> Share:
    """*share* as far as *path* in it goes, which is the directory *source*. Raises HiddenError.

    The guest sees and changes there exactly what it could see and change through the whole share.
    """
    matcher = Matcher.of(share.paths)
    hide, readonly, allow = (_below(patterns, path) for patterns in (matcher.hide, matcher.readonly, matcher.allow))
    if hide is None:
        raise HiddenError("paths.hide", "is hidden from the guest")
    if matcher.judge(path).hidden:
        raise HiddenError("paths.allow", "is not among what the guest may see")
    access = share.access
    if readonly is None:
        access, readonly = Access.READ_ONLY, ()
    paths = replace(share.paths, hide=hide, readonly=readonly, allow=allow or ())
    if len(paths.hide) + len(paths.readonly) + len(paths.allow) > MAX_PATTERNS:
        raise HiddenError("paths", f"would need more than {MAX_PATTERNS} patterns; share the whole of it")
    return replace(share, source=source, children=(), access=access, paths=paths)


def _below(patterns: Iterable[Pattern], path: tuple[str, ...]) -> tuple[str, ...] | None:
    """What the patterns say below *path*; None when one of them covers it whole."""
    below: list[str] = []
    for pattern in patterns:
        rest = pattern.below(path)
        if rest is None:
            return None
        below += rest
    return tuple(dict.fromkeys(below))
