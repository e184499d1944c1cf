"""What a command line may change of a policy: less than the policy allows, never more (I3).

One row for each argument: the key it speaks of, what it can do to it, and why. docs/compatibility.md is this table.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from virtiofs_sandbox.policies.machines import Machine
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import Access, CacheMode, Identity, LogLevel, Sandbox, SeccompAction, Share, Tier


@dataclass(frozen=True)
class Arguments:
    """What the caller said; None and False where nothing was said. *directory* is without symbolic links.

    The rest, from *machine* on, only virtiofsd's command line can say. *machine* is the one it is said for; *tolerated*
    the least jail that the caller puts up with; *private* that the caller's user alone is to connect. *spelling* is how
    an argument was written, where that is not how `run` calls it.
    """

    directory: Path | None = None
    tag: str | None = None
    socket: Path | None = None
    fd: int | None = None
    socket_mode: int | None = None
    socket_group: int | None = None
    readonly: bool = False
    cache: CacheMode | None = None
    xattr: bool = False
    log_level: LogLevel | None = None
    minimum: Tier | None = None
    worker: Path | None = None
    machine: Machine | None = None
    no_xattr: bool = False
    writeback: bool | None = None
    seccomp: SeccompAction | None = None
    tolerated: Tier | None = None
    identity: Identity | None = None
    private: bool = False
    persistent: bool = False
    spelling: Mapping[str, str] = field(default_factory=dict)


class Effect(enum.Enum):
    NARROWS = "narrows"
    NEUTRAL = "neutral"
    WIDENS = "widens"


@dataclass(frozen=True)
class Verdict:
    """*accepted* says what would not widen, *key* which key it is about where that is a closer one than the row's; both
    are read only where *effect* is WIDENS.
    """

    effect: Effect
    accepted: str = ""
    key: str | None = None


# Permissions of a socket that is for its owner alone.
PRIVATE = 0o600
NARROWS = Verdict(Effect.NARROWS)
NEUTRAL = Verdict(Effect.NEUTRAL)
Judge = Callable[[Arguments, Policy], Verdict | None]


@dataclass(frozen=True)
class Row:
    """One argument. *effects* says when it does what; *judge* returns None when the argument was not given."""

    argument: str
    key: str
    effects: Mapping[Effect, str]
    reason: str
    judge: Judge


class WideningError(Exception):
    """The command line asks for more than a policy allows; str() names argument, file and key, a line for each."""


def widening(argument: str, policy: Policy, key: str, accepted: str) -> str:
    """The sentence for one argument."""
    origin = policy.origin(key)
    said = str(origin) if origin.file is not None else f"{shown(policy.file)} (default)"
    return f"{argument} would widen the policy: {said}: {key}: {accepted}"


def narrow(policy: Policy, arguments: Arguments) -> tuple[Share, Socket]:
    """What *policy* allows and *arguments* leave of it. Raises WideningError with every argument that asks for more.

    The directory is not judged here: by now *policy* is about the one that is shared.
    """
    complaints = []
    for row in (*ROWS, *OF_VIRTIOFSD):
        verdict = row.judge(arguments, policy)
        if verdict is not None and verdict.effect is Effect.WIDENS:
            argument = arguments.spelling.get(row.argument, row.argument)
            complaints.append(widening(argument, policy, verdict.key or row.key, verdict.accepted))
    if complaints:
        raise WideningError("\n".join(complaints))
    if "identity.map" in policy.origins:
        arguments = replace(arguments, identity=None)
    return applied(policy.share, arguments), _socket(policy, arguments)


def applied(share: Share, arguments: Arguments) -> Share:
    """*share* with what the arguments say, judged or not."""
    access = Access.READ_ONLY if arguments.readonly else share.access
    cache = arguments.cache or share.cache
    never = arguments.cache is CacheMode.NEVER
    return replace(
        share,
        tag=arguments.tag or share.tag,
        access=access,
        children=tuple(
            replace(child, access=Access.READ_ONLY) if arguments.readonly else child for child in share.children
        ),
        cache=cache,
        # Without a cache there is nothing to write back from, and nothing to rely on.
        writeback=(share.writeback if arguments.writeback is None else arguments.writeback) and not never,
        timeout=None if never else share.timeout,
        xattr=(share.xattr or arguments.xattr) and not arguments.no_xattr,
        log_level=arguments.log_level or share.log_level,
        sandbox=_sandbox(share.sandbox, arguments),
        identity=(
            share.identity
            if arguments.identity is None
            else replace(arguments.identity, unmapped=share.identity.unmapped)
        ),
    )


def _sandbox(sandbox: Sandbox, arguments: Arguments) -> Sandbox:
    """What the caller puts up with lowers nothing: it may only ask for more of a jail than there has to be."""
    minimum = arguments.minimum or sandbox.minimum
    if arguments.tolerated is not None:
        minimum = min(minimum, arguments.tolerated, key=lambda tier: tier.rank)
    return replace(sandbox, minimum=minimum, seccomp=arguments.seccomp or sandbox.seccomp)


def _socket(policy: Policy, arguments: Arguments) -> Socket:
    socket = policy.socket
    said = {"share.socket.mode", "share.socket.group"} & set(policy.origins)
    mode = socket.mode & PRIVATE if arguments.private and not said else socket.mode
    return replace(
        socket,
        path=arguments.socket or socket.path,
        mode=mode if arguments.socket_mode is None else arguments.socket_mode,
        group=socket.group if arguments.socket_group is None else arguments.socket_group,
    )


def _given(value: object, verdict: Verdict) -> Verdict | None:
    return None if value is None or value is False else verdict


def _socket_path(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.socket is None:
        return None
    if "share.socket.path" not in policy.origins or _place(arguments.socket) == _place(policy.socket.path):
        return NEUTRAL
    return Verdict(Effect.WIDENS, f"accepted: {shown(policy.socket.path)}, or no --socket")


def _place(socket: Path) -> Path:
    """The path of a socket, which need not be there, without symbolic links above it."""
    return Path(os.path.realpath(socket.parent)) / socket.name


def _descriptor(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.fd is None:
        return None
    said = next((key for key in policy.origins if key.startswith("share.socket.")), None)
    if said is None:
        return NEUTRAL
    return Verdict(Effect.WIDENS, "who may connect is settled there; leave --fd out, or that key", said)


def _socket_mode(arguments: Arguments, policy: Policy) -> Verdict | None:
    asked, allowed = arguments.socket_mode, policy.socket.mode
    if asked is None:
        return None
    if asked & ~allowed:
        return Verdict(Effect.WIDENS, f"accepted: 0{allowed:03o} or fewer of its permissions")
    return NEUTRAL if asked == allowed else NARROWS


def _socket_group(arguments: Arguments, policy: Policy) -> Verdict | None:
    asked, allowed = arguments.socket_group, policy.socket.group
    if asked is None:
        return None
    if asked == allowed:
        return NEUTRAL
    return Verdict(Effect.WIDENS, "no group is named there" if allowed is None else f"accepted: {allowed}")


def _cache(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.cache is None:
        return None
    order = list(CacheMode)
    asked, allowed = order.index(arguments.cache), order.index(policy.share.cache)
    if asked > allowed:
        return Verdict(Effect.WIDENS, f"accepted: {' or '.join(mode.value for mode in order[: allowed + 1])}")
    return NEUTRAL if asked == allowed else NARROWS


def _xattr(arguments: Arguments, policy: Policy) -> Verdict | None:
    if not arguments.xattr:
        return None
    return NEUTRAL if policy.share.xattr else Verdict(Effect.WIDENS, "extended attributes are off there")


def _writeback(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.writeback is None:
        return None
    if not arguments.writeback:
        return NARROWS
    return NEUTRAL if policy.share.writeback else Verdict(Effect.WIDENS, "writeback is off there")


def _seccomp(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.seccomp is None:
        return None
    order = (SeccompAction.LOG, SeccompAction.ERRNO, SeccompAction.KILL)
    asked, allowed = order.index(arguments.seccomp), order.index(policy.share.sandbox.seccomp)
    if asked < allowed:
        return Verdict(Effect.WIDENS, f"accepted: {' or '.join(action.value for action in order[allowed:])}")
    return NEUTRAL if asked == allowed else NARROWS


def _tolerated(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.tolerated is None:
        return None
    return NARROWS if arguments.tolerated.rank < policy.share.sandbox.minimum.rank else NEUTRAL


def _persistent(arguments: Arguments, policy: Policy) -> Verdict | None:
    if not arguments.persistent:
        return None
    return Verdict(Effect.WIDENS, "accepted: once") if policy.persistent is False else NEUTRAL


def _minimum(arguments: Arguments, policy: Policy) -> Verdict | None:
    if arguments.minimum is None:
        return None
    asked, allowed = arguments.minimum.rank, policy.share.sandbox.minimum.rank
    if asked > allowed:
        stronger = " or ".join(tier.value for tier in Tier if tier.rank <= allowed)
        return Verdict(Effect.WIDENS, f"accepted: {stronger}")
    return NEUTRAL if asked == allowed else NARROWS


ROWS = (
    Row(
        "--tag",
        "share.tag",
        {Effect.NEUTRAL: ""},
        "The tag is what the guest mounts by. It opens nothing: who may connect is the socket's matter.",
        lambda arguments, policy: _given(arguments.tag, NEUTRAL),
    ),
    Row(
        "--socket",
        "share.socket.path",
        {Effect.NEUTRAL: "the policy names no path, or this one", Effect.WIDENS: "another path"},
        "The directories above a socket are part of who may reach it. Where the policy leaves the place open, its mode "
        "and group still hold at the caller's.",
        _socket_path,
    ),
    Row(
        "--fd",
        "share.socket",
        {Effect.NEUTRAL: "the policy says nothing of the socket", Effect.WIDENS: "it names path, mode or group"},
        "An inherited listener was made by the caller, with whatever mode and group the caller chose. Site defaults "
        "are part of the policy here too.",
        _descriptor,
    ),
    Row(
        "--socket-mode",
        "share.socket.mode",
        {Effect.NARROWS: "fewer permissions", Effect.WIDENS: "any permission beyond the policy's"},
        "Who may write to the socket may connect.",
        _socket_mode,
    ),
    Row(
        "--socket-group",
        "share.socket.group",
        {Effect.NEUTRAL: "the policy's group", Effect.WIDENS: "another, or any where the policy names none"},
        "Another group is other people.",
        _socket_group,
    ),
    Row(
        "--readonly",
        "share.access",
        {Effect.NARROWS: ""},
        "It only takes away. There is no argument that asks for write access.",
        lambda arguments, policy: _given(arguments.readonly, NARROWS),
    ),
    Row(
        "--cache",
        "cache.mode",
        {Effect.NARROWS: "towards never", Effect.WIDENS: "towards always"},
        "A guest that caches more goes on acting on what host, other guests or new path rules have changed since: the "
        "policy's promise to them. Caching less costs time and shows nothing more. never also ends writeback.",
        _cache,
    ),
    Row(
        "--xattr",
        "share.xattr",
        {Effect.NEUTRAL: "on in the policy too", Effect.WIDENS: "off in the policy"},
        "It is a way to read and write more of each file.",
        _xattr,
    ),
    Row(
        "--log-level",
        "share.log_level",
        {Effect.NEUTRAL: ""},
        "What is logged goes to whoever started the command, and gives the guest nothing.",
        lambda arguments, policy: _given(arguments.log_level, NEUTRAL),
    ),
    Row(
        "--log-format",
        "share.log_level",
        {Effect.NEUTRAL: ""},
        "How the lines look that are logged.",
        lambda arguments, policy: None,
    ),
    Row(
        "--control-dir",
        "share.name",
        {Effect.NEUTRAL: ""},
        "Wherever the control socket is, only root and the user of the share are answered there, and nobody gets more "
        "from it than the policy allows (docs/control.md).",
        lambda arguments, policy: None,
    ),
    Row(
        "--metrics",
        "site.metrics",
        {Effect.NEUTRAL: ""},
        "Counts and names of what the caller's own process serves, for whoever is on this machine; the guest gets "
        "nothing by it (docs/metrics.md).",
        lambda arguments, policy: None,
    ),
    Row(
        "--minimum",
        "sandbox.minimum",
        {Effect.NARROWS: "a stronger tier", Effect.WIDENS: "a weaker one"},
        "With a weaker minimum the share would start where the policy wants it refused.",
        _minimum,
    ),
    Row(
        "--worker",
        "worker",
        {Effect.WIDENS: ""},
        "Another program would carry the policy out, or not. It is there for tests, without a policy.",
        lambda arguments, policy: _given(
            arguments.worker, Verdict(Effect.WIDENS, "the worker that comes with this command serves it; leave it out")
        ),
    ),
)

# Arguments that only virtiofsd's command line has (docs/compatibility.md), by the name of the first that says it.
OF_VIRTIOFSD = (
    Row(
        "-o no_xattr",
        "share.xattr",
        {Effect.NARROWS: ""},
        "It only takes away.",
        lambda arguments, policy: _given(arguments.no_xattr, NARROWS),
    ),
    Row(
        "--writeback",
        "cache.writeback",
        {Effect.NEUTRAL: "on in the policy too", Effect.WIDENS: "off in the policy", Effect.NARROWS: "-o no_writeback"},
        "What a guest keeps to itself for a while, others miss.",
        _writeback,
    ),
    Row(
        "--seccomp",
        "sandbox.seccomp",
        {Effect.NARROWS: "from log to errno to kill", Effect.WIDENS: "the other way"},
        "With log, a call outside the list is carried out.",
        _seccomp,
    ),
    Row(
        "--sandbox",
        "sandbox.minimum",
        {
            Effect.NARROWS: "stronger than the policy's minimum",
            Effect.NEUTRAL: "as strong, or weaker: the policy's holds",
        },
        "It says what the caller puts up with. The jail is always the strongest that the host allows.",
        _tolerated,
    ),
    Row(
        "--uid-map, --gid-map",
        "identity.map",
        {Effect.NEUTRAL: "the policy's holds, if it names one; else that range of ids"},
        "It says whom files belong to. Ids that the caller does not have are refused by the system.",
        lambda arguments, policy: _given(arguments.identity, NEUTRAL),
    ),
    Row(
        "--persistent",
        "share.listen",
        {Effect.NEUTRAL: "the policy does not say once", Effect.WIDENS: "it does"},
        "Whoever may connect then finds the share after its client has left.",
        _persistent,
    ),
)

# Arguments that choose the policy, and are judged where it is chosen: sandbox/policies/offer.py.
CHOOSING = (
    Row(
        "DIR",
        "share.source",
        {
            Effect.NEUTRAL: "the directory of a policy",
            Effect.NARROWS: "one inside it",
            Effect.WIDENS: "one that contains a policy's, or that its [paths] hide; with require_policy any other",
        },
        "Inside, the policy holds with its patterns said from there. Around it, none of its rules would hold.",
        lambda arguments, policy: None,
    ),
    Row(
        "POLICY",
        "share.source",
        {
            Effect.NEUTRAL: "a policy of the standing directory, or a file about other directories",
            Effect.WIDENS: "a file from elsewhere about a directory of a standing policy; with require_policy any",
        },
        "The standing policies are those that only the machine's owner can write; a caller can write files elsewhere.",
        lambda arguments, policy: None,
    ),
    Row(
        "--policy-dir",
        "site.require_policy",
        {Effect.NEUTRAL: "what is shared is no matter of a standing policy", Effect.WIDENS: "it is; or require_policy"},
        "Looking elsewhere must not make a policy disappear.",
        lambda arguments, policy: None,
    ),
)
