"""One bounded look at every name of a share, and what its path rules say of each."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from virtiofs_sandbox.confine.preflight.subject import Bounds, Directory
from virtiofs_sandbox.policies.patterns import Coverage, Pattern
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import Case, PathRules


@dataclass(frozen=True)
class Entry:
    """*inside* is the path below the share's root; *covering* has bit N for pattern N of the rules.

    *refusal* says why a directory's content could not be listed, None where it could.
    """

    path: Path
    inside: tuple[str, ...]
    state: os.stat_result
    directory: Directory
    covering: int
    hidden: bool
    frozen: bool
    refusal: str | None = None

    @property
    def shown(self) -> str:
        """The name in the share, for a sentence."""
        return shown("/".join(self.inside)) if self.inside else "the share's root"


@dataclass
class Walk:
    """How far it came. *cut* is None, or why it stopped before the end."""

    entries: int = 0
    cut: str | None = None


@dataclass(frozen=True)
class Rule:
    """One pattern, and the list it stands in: hide, readonly or allow."""

    key: str
    pattern: Pattern


class Rules:
    """All patterns of a share, asked about level by level: what was decided above is not asked again."""

    def __init__(self, paths: PathRules) -> None:
        """Raises PatternError."""
        insensitive = paths.case is Case.INSENSITIVE
        lists = (("hide", paths.hide), ("readonly", paths.readonly), ("allow", paths.allow))
        self.rules = tuple(
            Rule(key, Pattern.parse(text, insensitive=insensitive)) for key, texts in lists for text in texts
        )
        self._masks = {key: sum(1 << bit for bit, rule in enumerate(self.rules) if rule.key == key) for key, _ in lists}

    def root(self) -> Standing:
        """A pattern may cover the root itself: `**` is any number of components, also none."""
        return self.below(Standing(0, (1 << len(self.rules)) - 1), ())

    def below(self, above: Standing, inside: tuple[str, ...]) -> Standing:
        """The standing of *inside*, whose parent's is *above*."""
        whole, alive = above.whole, 0
        undecided = above.alive
        while undecided:
            bit = undecided & -undecided
            undecided ^= bit
            coverage = self.rules[bit.bit_length() - 1].pattern.coverage(inside)
            if coverage is Coverage.WHOLE:
                whole |= bit
            elif coverage is Coverage.BELOW:
                alive |= bit
        return Standing(whole, alive)

    def hides(self, standing: Standing) -> bool:
        allow = self._masks["allow"]
        return bool(standing.whole & self._masks["hide"]) or bool(
            allow and not (standing.whole | standing.alive) & allow
        )

    def freezes(self, standing: Standing) -> bool:
        return bool(standing.whole & self._masks["readonly"])

    def mask(self, key: str) -> int:
        return self._masks[key]


@dataclass(frozen=True)
class Standing:
    """Bit N: pattern N covers the place (*whole*), or may still cover something below it (*alive*)."""

    whole: int
    alive: int


def walk(directories: tuple[Directory, ...], rules: Rules, bounds: Bounds, progress: Walk) -> Iterator[Entry]:
    """Every name below *directories*, the shallow ones first, within *bounds*; no symbolic link is followed."""
    deadline = time.monotonic() + bounds.seconds
    waiting: deque[tuple[Path, tuple[str, ...], Standing, Directory]] = deque()
    for directory in directories:
        standing = rules.root()
        for depth in range(len(directory.inside)):
            standing = rules.below(standing, directory.inside[: depth + 1])
        waiting.append((directory.path, directory.inside, standing, directory))
    while waiting:
        path, inside, standing, directory = waiting.popleft()
        if progress.entries >= bounds.entries:
            progress.cut = f"after {bounds.entries} entries"
            return
        if time.monotonic() > deadline:
            progress.cut = f"after {bounds.seconds:g} s, at {progress.entries} entries"
            return
        try:
            state = os.lstat(path)
        except OSError as error:
            # Gone since it was listed, or behind a directory that may be listed but not searched.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                progress.entries += 1
            continue
        progress.entries += 1
        names: list[str] = []
        refusal = None
        if stat.S_ISDIR(state.st_mode):
            try:
                names = _names(path, bounds.entries - progress.entries - len(waiting))
            except OSError as error:
                refusal = error.strerror
        yield Entry(
            path,
            inside,
            state,
            directory,
            standing.whole,
            hidden=bool(inside) and rules.hides(standing),
            frozen=rules.freezes(standing),
            refusal=refusal,
        )
        for name in names:
            below = (*inside, name)
            waiting.append((path / name, below, rules.below(standing, below), directory))


def _names(directory: Path, most: int) -> list[str]:
    """The names in *directory*; of more than *most* that many and one, so that the walk notices. Raises OSError."""
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in islice(entries, max(most, 0) + 1))
