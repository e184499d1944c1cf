"""What the rules come to, what is seen of a denial, and what is not promised."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from virtiofs_sandbox.confine import records
from virtiofs_sandbox.confine.account.jail import process_limit_binds
from virtiofs_sandbox.confine.account.statement import Launch, Statement, Topic, printed
from virtiofs_sandbox.confine.capabilities import Capability, mask
from virtiofs_sandbox.confine.preflight.promises import read_only_ways
from virtiofs_sandbox.policies.share import Access, Case, IdMap, SeccompAction, Tier
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

_EFFECTS = {
    "hide": "not listed, not found, not creatable",
    "readonly": "every change by any name is refused with EROFS",
    "allow": "visible; with the ways to it, nothing else is",
}


def _rules(launch: Launch) -> tuple[Statement, ...]:
    paths = launch.share.paths
    # In the order of the plan.
    by_list = (("readonly", paths.readonly), ("hide", paths.hide), ("allow", paths.allow))
    lists = [(key, pattern) for key, patterns in by_list for pattern in patterns]
    statements = []
    for (key, pattern), rule in zip_longest(lists, launch.plan.rules[: len(lists)]):
        by = "the worker"
        if rule is not None:
            by = f"the worker {'and a mount' if rule.held else 'alone'}: {rule.why}"
        statements.append(
            Statement(
                f"{key} {pattern}",
                f"{key} {pattern}",
                f"{_EFFECTS[key]}; held by {by}",
                {
                    "pattern": pattern,
                    "list": key,
                    "mount": rule is not None and rule.held,
                    "why": None if rule is None else rule.why,
                },
            )
        )
    if not statements:
        return (Statement("none", "rules", "none: everything in the share is as its access says", {"rules": []}),)
    case = "matters" if paths.case is Case.SENSITIVE else "does not matter"
    strict = "refused for writing" if paths.strict_links else "not looked at: see what is not promised"
    statements.append(Statement("case", "case", f"the case of letters {case}", {"case": paths.case.value}))
    if paths.readonly:
        statements.append(Statement("links", "double names", strict, {"strict_links": paths.strict_links}))
    return tuple(statements)


def _changes(launch: Launch) -> tuple[Statement, ...]:
    ways = read_only_ways(launch.share, launch.plan)
    statements = []
    if launch.share.access is Access.READ_ONLY:
        statements.append(
            Statement("read-only", "read-only", f"{len(ways)} of 3 ways: {'; '.join(ways)}", {"ways": list(ways)})
        )
        atime = "do not move, not even by reading" if len(ways) == 3 else "follow the host's own mount"
        statements.append(Statement("atime", "access times", f"on the host they {atime}", {"moves": len(ways) < 3}))
    statements += [
        Statement(
            f"child {printed(child.name)}",
            printed(child.name),
            "read-only, 2 of 3 ways: its mount is read-only; the worker freezes it; Landlock bounds the whole tree",
            {"child": printed(child.name)},
        )
        for child in launch.plan.children
        if child.attributes & MOUNT_ATTR_RDONLY
    ]
    means = (
        "mode, owner, times and attributes change by path, below the share's own mount"
        if launch.plan.attributes == "path"
        else "mode, owner, times and attributes change only through descriptors that Landlock has let be opened"
    )
    statements.append(Statement("attributes", "metadata", means, {"attributes": launch.plan.attributes}))
    return tuple(statements)


def _denials(launch: Launch) -> tuple[Statement, ...]:
    kind, where = records.source(launch.host.audit_errno)
    landlock = launch.plan.landlock is not None and bool(launch.plan.landlock.restrict_flags)
    return (
        Statement("source", "learnt from", where, {"source": kind.value}),
        Statement(
            "landlock",
            "Landlock",
            "recorded where the machine's audit is switched on; it is never switched on from here"
            if landlock
            else "leave no record on this kernel",
            {"recorded": landlock},
        ),
        Statement(
            "requests",
            "guest's requests",
            "answered with an errno, counted by operation; a rule's refusal is no event of its own",
            {},
        ),
    )


def _always(_: Launch) -> bool:
    return True


def _writable(launch: Launch) -> bool:
    return launch.share.access is Access.READ_WRITE


def _grouped(launch: Launch, *controllers: str) -> bool:
    """Whether a control group holds one of them."""
    return any(name in group.controllers for group in launch.plan.groups for name in controllers)


# Title in docs/threat-model.md, "What is not promised" -> when it applies here, and what it means.
NOT_PROMISED: dict[str, tuple[Callable[[Launch], bool], str]] = {
    "Other names of a shared file": (
        _always,
        "a file of the share with a second link outside is the same file",
    ),
    "Denial of service by the owner of the disk": (
        lambda launch: not _grouped(launch, "io", "blkio"),
        "the guest may use all of the disk's time and space",
    ),
    "The monitor's own safety": (
        _always,
        "the worker maps what the monitor gives it as guest memory",
    ),
    "Fork bombs in a jail of root's identity map": (
        lambda launch: not process_limit_binds(launch) and not _grouped(launch, "pids") and not launch.plan.program,
        "the second seccomp programs alone keep a worker from forking without end",
    ),
    "Kernel bugs": (_always, "the filters leave out most of the kernel's surface, not all of it"),
    "Host processes that write to the share": (_always, "they race with the guest, as two hosts on one disk would"),
    "Side channels": (_always, "guests on one processor or page cache can time each other"),
}
# What only this share's own settings leave open.
_OWN: dict[str, tuple[Callable[[Launch], bool], str]] = {
    "Other names of a frozen file": (
        lambda launch: bool(launch.share.paths.readonly) and not launch.share.paths.strict_links,
        "a name outside of the frozen subtrees that is there already is writable; check lists them",
    ),
    "What the guest has cached": (
        lambda launch: bool(launch.share.paths.hide or launch.share.paths.readonly),
        "pages and names that a guest already holds cannot be recalled when a rule is added live",
    ),
    "The host's own files": (
        lambda launch: launch.plan.tier is Tier.BARE,
        "existence and attributes of files outside of the share can be told by a worker that is owned",
    ),
    "Refusal": (
        lambda launch: launch.share.sandbox.seccomp is SeccompAction.LOG,
        "sandbox.seccomp = log carries out what it should refuse",
    ),
    "The host's ids": (
        lambda launch: (
            launch.plan.ids == "caller" and launch.share.identity.map is not IdMap.RANGE and _writable(launch)
        ),
        "the guest may create files of any host id, uid 0 and set-user-ID programs included: mount the directory "
        "nosuid on the host, or map a range",
    ),
    "Privileges outside of a user namespace": (
        lambda launch: launch.plan.tier is Tier.BARE and bool(launch.plan.capabilities & mask(Capability.DAC_OVERRIDE)),
        "the worker's capabilities count on the host",
    ),
}


def _not_promised(launch: Launch) -> tuple[Statement, ...]:
    return tuple(
        Statement(title, title, meaning, {})
        for title, (applies, meaning) in (NOT_PROMISED | _OWN).items()
        if applies(launch)
    )


TOPICS = (
    Topic("rules", "Path rules", frozenset({"rules"}), _rules),
    Topic("changes", "How changes are bounded", frozenset({"attributes"}), _changes),
    Topic("denials", "What is seen of denials", frozenset(), _denials),
    Topic("not-promised", "What is not promised", frozenset(), _not_promised),
)
