"""Which policies of a directory are to be in force, beside those that are: one mistake takes nothing else down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.policies import loader
from virtiofs_sandbox.policies.narrowing import WideningError
from virtiofs_sandbox.policies.offer import judge_foreign, standing_elsewhere
from virtiofs_sandbox.policies.overlaps import Atlas, contradictions
from virtiofs_sandbox.policies.places import files, named
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import PolicyError

Found = Mapping[str, "Policy | str"]
"""By the name of its file, what each policy says, or what is wrong with it."""


@dataclass(frozen=True)
class Roster:
    """*policies* are to be in force, by name. *broken*: of the files that are not, what is wrong, by name; whatever was
    in force under such a name is among the policies still.
    """

    policies: Mapping[str, Policy]
    broken: Mapping[str, str]


def read_each(directory: Path, only: str | None = None) -> Iterator[tuple[str, Policy | str]]:
    """The policies in *directory*, or the *only* one that matters, file by file.

    Raises PolicyError when the directory cannot be listed, WideningError when it is not the standing one and the site
    allows no other.
    """
    standing = standing_elsewhere("--policy-dir", directory)
    for file in files(directory):
        if only is not None and file != named(only, directory):
            continue
        try:
            policy = loader.load(file, directory)
            judge_foreign(policy, standing)
        except (PolicyError, WideningError) as error:
            yield file.stem, str(error)
        else:
            yield policy.name, policy


def roster(found: Found, in_force: Mapping[str, Policy], *, only: str | None = None) -> Roster:
    """What is to be in force after *in_force*, now that *found* is there: all of the directory, or *only* one of it.

    Of two policies that contradict each other, the one in force stays; of two new ones, the first by name.
    """
    atlas = Atlas()
    broken = {name: outcome for name, outcome in found.items() if isinstance(outcome, str)}
    kept = {name: policy for name, policy in in_force.items() if name in broken or (only is not None and name != only)}
    while True:
        accepted = dict(kept)
        refused: dict[str, str] = {}
        for name in sorted(found, key=lambda name: (name not in in_force, name)):
            policy = found[name]
            if isinstance(policy, str) or name in kept:
                continue
            problems = [problem for other in accepted.values() for problem in contradictions(other, policy, atlas)]
            if problems:
                refused[name] = str(PolicyError(dict.fromkeys(problems)))
            else:
                accepted[name] = policy
        broken.update(refused)
        back = {name: in_force[name] for name in refused if name in in_force}
        if not back:
            return Roster(dict(sorted(accepted.items())), dict(sorted(broken.items())))
        # What these say still, others may contradict.
        kept |= back
