"""Frozen and hidden files with another name (rule: a rule holds for names, a link is one more name)."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from virtiofs_sandbox.confine.preflight.finding import Examples, Finding, Severity
from virtiofs_sandbox.confine.preflight.walk import Entry

# More inodes with several names than this are counted, not kept.
_MOST = 100_000


@dataclass
class _Inode:
    links: int
    bound: list[str] = field(default_factory=list)
    free: list[str] = field(default_factory=list)


class Links:
    """*rule* is `readonly` or `hide`; files under it are bound, names elsewhere in the share are free."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._inodes: dict[tuple[int, int], _Inode] = {}

    def see(self, entry: Entry) -> None:
        state = entry.state
        if stat.S_ISDIR(state.st_mode) or state.st_nlink < 2:
            return
        key = (state.st_dev, state.st_ino)
        if key not in self._inodes and len(self._inodes) >= _MOST:
            return
        inode = self._inodes.setdefault(key, _Inode(state.st_nlink))
        bound = entry.frozen if self._rule == "readonly" else entry.hidden
        free = not entry.hidden and entry.directory.writable if self._rule == "readonly" else True
        if bound:
            inode.bound.append(entry.shown)
        elif free:
            inode.free.append(entry.shown)

    def findings(self, strict: bool) -> Iterator[Finding]:
        inside, outside = Examples(), Examples()
        for inode in self._inodes.values():
            if not inode.bound:
                continue
            if inode.free:
                inside.add(f"{inode.bound[0]} is also {inode.free[0]}")
            elif len(inode.bound) < inode.links:
                unseen = inode.links - len(inode.bound)
                outside.add(f"{inode.bound[0]} ({unseen} of its {inode.links} names not seen)")
        if inside.count and strict and self._rule == "readonly":
            yield Finding(
                Severity.NOTE,
                "readonly-links",
                f"{inside}: strict_links refuses to change it by any name",
                "copy the file, if its other name is to be changed",
                "paths.readonly",
            )
        elif inside.count:
            frozen = self._rule == "readonly"
            yield Finding(
                Severity.WARNING,
                f"{self._rule}-links",
                f"{inside}: the guest can {'change' if frozen else 'reach'} it by the other name",
                "cover both names, or copy the file" + ("; strict_links = true refuses the change" if frozen else ""),
                f"paths.{self._rule}",
            )
        if outside.count:
            yield Finding(
                Severity.NOTE,
                f"{self._rule}-links-outside",
                f"{outside}: whoever has the other names on the host can still change the file",
                "nothing, if the other names are outside of the share; links on the host are out of the guest's reach",
                f"paths.{self._rule}",
            )
