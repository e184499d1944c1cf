"""What a caller gets: from a command line, and from the policies that have a say in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtiofs_sandbox.policies import loader
from virtiofs_sandbox.policies.narrowing import PRIVATE, Arguments, WideningError, applied, narrow, widening
from virtiofs_sandbox.policies.overlaps import conflicts, inside
from virtiofs_sandbox.policies.places import default_directory
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import PolicyError, Problem, shown
from virtiofs_sandbox.policies.share import Access, Sandbox, Share, tag_of
from virtiofs_sandbox.policies.subtree import HiddenError, subtree


class MissingArgumentError(Exception):
    """No policy speaks of it, and the command line does not say enough; str() names the argument."""


@dataclass(frozen=True)
class Offer:
    """*socket* None: the caller brings a listener. *policy* None: the command line is all there is.

    *broken* is what is wrong with other files of the directory, which were left out of account.
    """

    share: Share
    socket: Socket | None
    policy: Policy | None
    broken: tuple[Problem, ...] = ()


def offer(arguments: Arguments, file: Path | None, directory: Path) -> Offer:
    """The share that *arguments* ask for: by the policy in *file*, or of arguments.directory.

    *directory* is where policies are looked for. The standing ones, in the caller's default directory, hold even where
    another is named. Raises PolicyError, WideningError, MissingArgumentError.
    """
    if file is not None:
        return _by_policy(arguments, file, directory)
    _standing_or_same(arguments, directory)
    assert arguments.directory is not None  # noqa: S101 - for mypy: without a file there is a directory
    policy, path = _match(loader.load_directory(directory), arguments)
    if policy is None:
        _refuse_if_required(_directory(arguments), directory)
        return Offer(_unjudged(arguments, directory), _unjudged_socket(arguments), None)
    try:
        within = replace(policy, share=_within(policy, arguments.directory, path))
    except HiddenError as error:
        sentence = f"{shown(arguments.directory)} {error}"
        raise WideningError(widening(_directory(arguments), policy, error.key, sentence)) from error
    return _narrowed(within, arguments)


def _directory(arguments: Arguments) -> str:
    """What the argument is called that names the directory."""
    return arguments.spelling.get("DIR", "DIR")


def _by_policy(arguments: Arguments, file: Path, directory: Path) -> Offer:
    policy = loader.load(file, directory)
    judge_foreign(policy, standing_elsewhere("POLICY", file.parent), argument="POLICY")
    others, broken = loader.survey(directory)
    others = tuple(other for other in others if os.path.realpath(other.file) != os.path.realpath(file))
    contradictions = [problem for problem in conflicts((*others, policy)) if problem not in set(conflicts(others))]
    if contradictions:
        raise PolicyError(contradictions)
    return replace(_narrowed(policy, arguments), broken=_of_others(broken, file))


def standing_elsewhere(argument: str, directory: Path) -> tuple[Policy, ...]:
    """The standing policies, where *directory*, which *argument* names, is another place; else none.

    Raises PolicyError, and WideningError where the site allows no other place.
    """
    standing = default_directory()
    if os.path.realpath(directory) == os.path.realpath(standing):
        return ()
    _refuse_if_required(argument, standing)
    return loader.load_directory(standing)


def judge_foreign(policy: Policy, standing: Iterable[Policy], *, argument: str = "--policy-dir") -> None:
    """A file that the site did not put among its policies may not speak of what those speak of: WideningError."""
    for key, path, _ in policy.directories:
        about = _touching(standing, path)
        if about is not None:
            sentence = f"that policy speaks of {shown(path)} ({policy.origin(key)}); change that one instead"
            raise WideningError(widening(argument, about, "share.source", sentence))


def _of_others(problems: Iterable[Problem], file: Path) -> tuple[Problem, ...]:
    return tuple(problem for problem in problems if problem.file != file)


def _narrowed(policy: Policy, arguments: Arguments) -> Offer:
    share, socket = narrow(policy, arguments)
    return Offer(share, None if arguments.fd is not None else socket, policy)


def _standing_or_same(arguments: Arguments, directory: Path) -> None:
    """--policy-dir must not make a policy disappear."""
    assert arguments.directory is not None  # noqa: S101 - as in offer
    about = _touching(standing_elsewhere("--policy-dir", directory), arguments.directory)
    if about is not None:
        sentence = f"that policy speaks of {shown(arguments.directory)}; leave --policy-dir out"
        raise WideningError(widening("--policy-dir", about, "share.source", sentence))


def _refuse_if_required(argument: str, directory: Path) -> None:
    site = loader.site(directory)
    if site.require_policy:
        origin = site.origins["site.require_policy"]
        raise WideningError(
            f"{argument} would widen the site's settings: {origin}: site.require_policy: "
            f"only what a policy in {shown(directory)} speaks of is shared; virtiofs-sandbox policy new makes one"
        )


def _touching(policies: Iterable[Policy], path: Path) -> Policy | None:
    """A policy about *path*, something above it, or something in it."""
    for policy in policies:
        for _, source, _ in policy.directories:
            if inside(path, source) is not None or inside(source, path) is not None:
                return policy
    return None


def _match(policies: Sequence[Policy], arguments: Arguments) -> tuple[Policy | None, tuple[str, ...]]:
    """The policy whose directory is nearest above (or is) the one to share, and the way from there.

    One for other machines has no say, but what it speaks of is shared by nobody else's. Raises WideningError for that,
    and for a directory around one of a policy; PolicyError when several are as near.
    """
    assert arguments.directory is not None  # noqa: S101 - as in offer
    found = []
    around = []
    foreign = []
    for policy in policies:
        for key, source, _ in policy.directories:
            way = inside(arguments.directory, source)
            if way is not None and not _has_say(policy, arguments):
                foreign.append((len(way), policy))
            elif way is not None:
                name = () if policy.share.source is not None else (key.removeprefix("share.tree."),)
                found.append((len(way), policy, (*name, *way)))
            elif inside(source, arguments.directory) is not None:
                sentence = f"{shown(arguments.directory)} contains {shown(source)}, where that policy would not hold"
                around.append(widening(_directory(arguments), policy, key, sentence))
    nearest = min((length for length, _, _ in found), default=None)
    nearer = [policy for length, policy in foreign if nearest is None or length < nearest]
    if nearer:
        sentence = f"{shown(arguments.directory)} is for other machines; {_machine(arguments)}"
        raise WideningError(
            "\n".join(widening(_directory(arguments), policy, "share.vms", sentence) for policy in nearer)
        )
    if nearest is None and around:
        raise WideningError("\n".join(around))
    if nearest is None:
        return None, ()
    matches = [(policy, path) for length, policy, path in found if length == nearest]
    if len(matches) > 1 and arguments.tag is not None:
        matches = [(policy, path) for policy, path in matches if policy.share.tag == arguments.tag] or matches
    if len(matches) > 1:
        # Said for some machines is nearer than said for any.
        matches = [(policy, path) for policy, path in matches if policy.vms and arguments.machine] or matches
    if len(matches) > 1:
        names = ", ".join(policy.name for policy, _ in matches)
        sentence = f"{shown(arguments.directory)} is shared by several policies: {names}; run one of them by its name"
        raise PolicyError.of_file(matches[0][0].file, sentence)
    return matches[0]


def _has_say(policy: Policy, arguments: Arguments) -> bool:
    """Where nothing is said of a machine, every policy has."""
    return not policy.vms or arguments.machine is None or arguments.machine.is_one_of(policy.vms)


def _machine(arguments: Arguments) -> str:
    name = None if arguments.machine is None else arguments.machine.name
    return "which one this is for cannot be seen" if name is None else f"this is for {shown(name)}"


def _within(policy: Policy, directory: Path, path: tuple[str, ...]) -> Share:
    share = policy.share
    if not path:
        return share
    if share.source is None:
        child = next(child for child in share.children if child.name == path[0])
        if child.access is Access.READ_ONLY:
            share = replace(share, access=Access.READ_ONLY)
    return subtree(share, path, directory)


def _unjudged(arguments: Arguments, directory: Path) -> Share:
    assert arguments.directory is not None  # noqa: S101 - as in offer
    tag = arguments.tag
    if tag is None and arguments.machine is not None:
        # The monitor has a tag of its own then, or the guest reads this one.
        tag = tag_of(arguments.directory)
    if tag is None:
        raise MissingArgumentError("no policy speaks of this directory: --tag is required")
    minimum = loader.site(directory).minimum or arguments.tolerated or Sandbox.minimum
    share = Share(name=tag, source=arguments.directory, tag=tag, sandbox=Sandbox(minimum))
    return applied(share, arguments)


def _unjudged_socket(arguments: Arguments) -> Socket | None:
    if arguments.fd is not None:
        return None
    if arguments.socket is None:
        raise MissingArgumentError("no policy speaks of this directory: one of the arguments --socket --fd is required")
    mode = PRIVATE if arguments.private else Socket.mode
    if arguments.socket_mode is not None:
        mode = arguments.socket_mode
    return Socket(arguments.socket, mode, arguments.socket_group)
