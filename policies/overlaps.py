"""What several policies cannot say at once: one tag or socket twice, or one directory writable here and not there.

Policies for different virtual machines may: which of them counts is no question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from pathlib import Path

from virtiofs_sandbox.policies.machines import apart
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import Problem, shown

FileId = tuple[int, int]
_Directory = tuple[str, Path, bool]


def conflicts(policies: Sequence[Policy]) -> list[Problem]:
    """All contradictions between *policies*, and within each."""
    atlas = Atlas()
    problems: list[Problem] = []
    for one, other in combinations(policies, 2):
        problems += contradictions(one, other, atlas)
    for policy in policies:
        problems += _accesses(policy, combinations(policy.directories, 2), policy, atlas)
    return problems


def contradictions(one: Policy, other: Policy, atlas: Atlas) -> list[Problem]:
    """Between two policies, told as mistakes of *other*."""
    pairs = () if apart(one.vms, other.vms) else product(one.directories, other.directories)
    return [*_twice(one, other), *_accesses(one, pairs, other, atlas)]


class Atlas:
    """What directories are, each looked up once: for comparing many of them at one time."""

    def __init__(self) -> None:
        self._ids: dict[Path, FileId | None] = {}

    def id(self, path: Path) -> FileId | None:
        if path not in self._ids:
            self._ids[path] = file_id(path)
        return self._ids[path]

    def inside(self, path: Path, above: Path) -> tuple[str, ...] | None:
        """As the function `inside`."""
        if path.is_relative_to(above):
            return path.relative_to(above).parts
        wanted = self.id(above)
        if wanted is None:
            return None
        for depth, ancestor in enumerate((path, *path.parents)):
            if self.id(ancestor) == wanted:
                return path.parts[len(path.parts) - depth :]
        return None


def file_id(path: Path) -> FileId | None:
    """What a directory is known by whatever its path: bind mounts have it in common. None when it is not there."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return state.st_dev, state.st_ino


def inside(path: Path, above: Path) -> tuple[str, ...] | None:
    """The components that lead from *above* to *path*; None when it is not in there. Both without symbolic links.

    By path, and by identity where the directories exist, so that a bind mount is no detour.
    """
    return Atlas().inside(path, above)


def _accesses(
    one: Policy, pairs: Iterable[tuple[_Directory, _Directory]], other: Policy, atlas: Atlas
) -> Iterable[Problem]:
    for (key, path, writable), (other_key, other_path, other_writable) in pairs:
        if writable == other_writable or apart(one.vms, other.vms):
            continue
        relation = _relation(path, other_path, atlas)
        if relation is not None:
            yield _problem(
                other,
                other_key,
                f"{shown(other_path)} is {relation} {shown(path)}, which {one.origin(_said(one, key))} shares "
                f"{_access(writable)} while this is {_access(other_writable)}; "
                "one access is accepted for what is reached by both",
            )


def _relation(path: Path, other: Path, atlas: Atlas) -> str | None:
    down, up = atlas.inside(other, path), atlas.inside(path, other)
    if down == () or up == ():
        return "the same as"
    if down is not None:
        return "inside"
    return "above" if up is not None else None


def _twice(one: Policy, other: Policy) -> Iterable[Problem]:
    if one.share.tag == other.share.tag and not apart(one.vms, other.vms):
        yield _problem(
            other, "share.tag", f"{one.origin('share.tag')} has the tag {one.share.tag!r} already; choose another"
        )
    if one.socket.path == other.socket.path:
        yield _problem(
            other,
            "share.socket.path",
            f"{shown(one.file)} has the socket {shown(one.socket.path)} already; choose another",
        )


def _problem(policy: Policy, key: str, sentence: str) -> Problem:
    origin = policy.origin(_said(policy, key))
    return Problem(origin.file or policy.file, origin.line, key, sentence)


def _said(policy: Policy, key: str) -> str:
    """The key by which the policy's origins know it."""
    return key if key in policy.origins else key.rpartition(".")[0]


def _access(writable: bool) -> str:
    return "read-write" if writable else "read-only"
