"""Each layer of the jail, what it takes away and what remains."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from landlock import FSAccess
from virtiofs_sandbox.confine import calls, seccomp, stockcalls
from virtiofs_sandbox.confine.account.statement import MOUNT_FLAGS, Launch, Statement, Topic, flag_names, printed
from virtiofs_sandbox.confine.calls import Call, Role
from virtiofs_sandbox.confine.capabilities import REASONS, Capability
from virtiofs_sandbox.confine.plan import LandlockPlan, ProgramPlan
from virtiofs_sandbox.confine.preflight.subject import host_uid
from virtiofs_sandbox.policies.limiting import KEYS
from virtiofs_sandbox.policies.share import Tier
from virtiofs_sandbox.syscalls.processes import SOCK_FILTER_BYTES

_NAMESPACES = (
    ("user", "its capabilities count only for ids of the map and for what belongs to the namespace"),
    ("mount", "no mount of the host; nothing mounted here is seen outside"),
    ("pid", "no process but keeper and worker can be named, signalled or traced"),
    ("network", "no interface, no route, no abstract socket of the host"),
    ("ipc", "no System V or POSIX message queue, semaphore or shared memory of the host"),
    ("uts", "the host's name cannot be changed"),
    ("cgroup", "its own control group looks like the root of all"),
)
# ipc/README.md, "Descriptors a worker starts with".
DESCRIPTORS = {
    0: "/dev/null, to read",
    1: "/dev/null, to write",
    2: "the log pipe to the supervisor, to write",
    3: "the control socket to the supervisor",
    4: "its configuration, sealed",
    5: "the page of counters",
    6: "the tables of inodes and handles",
    7: "the root of the share",
    8: "the root of a procfs that shows processes of the jail only",
    9: "the worker binary, gone once it runs",
}
# Of another program than our own worker.
_PROGRAM_DESCRIPTORS = {
    **{number: what for number, what in DESCRIPTORS.items() if number < 3},
    3: "a socket of the jail's own, to accept its client on: the call waits until the supervisor hands one over",
}
# Where there are no mounts to take them from.
_BARE_DESCRIPTORS = {
    7: "the shared directory, where it lies on the host",
    8: "the host's /proc, of which Landlock lets nothing be opened",
}
_RIGHTS = {
    "EXECUTE": "run files",
    "WRITE_FILE": "open files for writing",
    "READ_FILE": "open files for reading",
    "READ_DIR": "list directories",
    "REMOVE_DIR": "remove directories",
    "REMOVE_FILE": "remove files",
    "MAKE_CHAR": "make character devices",
    "MAKE_DIR": "make directories",
    "MAKE_REG": "make files",
    "MAKE_SOCK": "make sockets",
    "MAKE_FIFO": "make FIFOs",
    "MAKE_BLOCK": "make block devices",
    "MAKE_SYM": "make symbolic links",
    "REFER": "rename and link between directories",
    "TRUNCATE": "truncate files",
    "IOCTL_DEV": "speak to devices",
}
_ROLES = {Role.KEEPER: "keeper", Role.CONTROL: "control thread", Role.QUEUE: "queue threads"}
_REFUSALS = {
    seccomp.Refusal.ERRNO: "EPERM",
    seccomp.Refusal.TRAP: "EPERM, reported by the worker itself",
    seccomp.Refusal.KILL: "the process ends",
    seccomp.Refusal.LOG: "carried out: a mode for diagnosis, no protection",
}
_SECUREBITS = {
    0: "uid 0 means nothing",
    2: "a change of ids changes no capability",
    5: "keeping capabilities across ids is locked off",
    6: "nothing can be raised in the ambient set",
}
_LIMITS = {
    value: name for name, value in vars(resource).items() if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
}
_UNITS = {
    resource.RLIMIT_CORE: "bytes of core file: guest memory is in no dump",
    resource.RLIMIT_DATA: "bytes of heap and stacks",
    resource.RLIMIT_MEMLOCK: "bytes locked in memory",
}


def _namespaces(launch: Launch) -> tuple[Statement, ...]:
    if launch.plan.tier is Tier.BARE:
        text = "none of its own: it sees the host's processes, network and mounts as far as the layers below let it"
        return (Statement("none", "namespaces", text, {"own": []}),)
    return tuple(Statement(name, name, taken, {"own": True}) for name, taken in _NAMESPACES)


def _mounts(launch: Launch) -> tuple[Statement, ...]:
    plan = launch.plan
    names = flag_names(plan.share_attributes)
    if plan.tier is Tier.BARE:
        return (
            Statement(
                "share",
                "share",
                "a plain descriptor of the host's directory: Landlock alone keeps it there",
                {"attributes": plan.share_attributes, "attached": plan.attached, "early": plan.early_mounts},
            ),
            Statement("root", "root", "the host's own", {"own": False}),
            Statement("worker", "binary", printed(plan.worker), {"path": printed(plan.worker)}),
        )
    where = (
        "mounted in the jail's root, where rules and later changes find it"
        if plan.attached
        else "detached: no path leads to it, and '..' ends at its root"
    )
    taken = "; ".join(f"{name}: {meaning}" for bit, name, meaning in MOUNT_FLAGS if plan.share_attributes & bit)
    content = "nothing but the share" if plan.attached else "nothing in it"
    if plan.program is not None:
        content = "the share, the program, its libraries, and of procfs what is about itself"
    by = "the launcher, before it becomes the worker's id" if plan.early_mounts else "the jail itself"
    seen = "its own process of it alone" if plan.program else "detached"
    rules = [{"path": printed(rule.path), "hide": rule.hide} for rule in plan.rule_mounts]
    statements = [
        Statement(
            "share",
            "share",
            f"a clone of the source's mounts, {where}; taken by {by}",
            {"attributes": names, "bits": plan.share_attributes, "attached": plan.attached, "early": plan.early_mounts},
        ),
        Statement("flags", "share's flags", taken, {"attributes": names}),
        Statement(
            "procfs",
            "procfs",
            f"{seen}, read-only, subset=pid: no /proc/sys, no switch of the machine",
            {"options": ["ro", "nosuid", "nodev", "noexec", "subset=pid"]},
        ),
        Statement(
            "root",
            "root",
            f"a read-only tmpfs with {content}; the old root is gone: no path names anything of the host",
            {"own": True},
        ),
        Statement(
            "worker",
            "binary",
            f"{printed(plan.worker)}, on a read-only clone of its mount",
            {"path": printed(plan.worker)},
        ),
    ]
    statements += [
        Statement(
            f"file {printed(place)}",
            "file",
            f"{printed(path)} as {printed(place)}, on a read-only clone of its mount",
            {"path": printed(path), "place": printed(place)},
        )
        for path, place in (plan.program.files if plan.program else ())
    ]
    statements += [
        Statement(
            f"over {rule['path']}",
            "over a rule",
            f"{rule['path']}: "
            + ("something empty that nobody may open" if rule["hide"] else "a read-only clone of itself"),
            rule,
        )
        for rule in rules
    ]
    return tuple(statements)


def _descriptors(launch: Launch) -> tuple[Statement, ...]:
    held = DESCRIPTORS | (_BARE_DESCRIPTORS if launch.plan.tier is Tier.BARE else {})
    if launch.plan.program is not None:
        held = _PROGRAM_DESCRIPTORS
    return (
        *(Statement(str(number), str(number), what, {"what": what}) for number, what in held.items()),
        Statement("others", "others", "closed before the worker runs; its environment is empty", {"closed_from": 10}),
    )


def _capabilities(launch: Launch) -> tuple[Statement, ...]:
    plan = launch.plan
    held = [number for number in range(plan.last_capability + 1) if plan.capabilities >> number & 1]
    statements = [
        Statement(
            _capability(number), _capability(number), _kept_for(number), {"number": number, "reason": _kept_for(number)}
        )
        for number in held
    ]
    statements.append(
        Statement(
            "others",
            "all others",
            f"{plan.last_capability + 1 - len(held)} are gone; no_new_privs is set: exec gives none",
            {"kept": held, "last": plan.last_capability, "no_new_privs": True},
        )
    )
    locked = "; ".join(meaning for bit, meaning in _SECUREBITS.items() if plan.securebits >> bit & 1)
    statements.append(
        Statement(
            "lock",
            "locked",
            f"the bounding set is emptied, and for ever: {locked}"
            if plan.lock_capabilities
            else "bounding set and securebits stay as they are, since changing them takes CAP_SETPCAP; "
            "no_new_privs does what they would do",
            {"securebits": plan.securebits, "locked": plan.lock_capabilities},
        )
    )
    return tuple(statements)


def _landlock(launch: Launch) -> tuple[Statement, ...]:
    wanted = launch.plan.landlock
    if wanted is None:
        return (Statement("none", "Landlock", "not available here: this layer is missing", {"abi": 0}),)
    return tuple(_domain(wanted, launch.plan.program))


def _domain(wanted: LandlockPlan, program: ProgramPlan | None) -> Iterator[Statement]:
    handled, share = _rights(wanted.handled_fs), _rights(wanted.share_rights)
    yield Statement("handled", "taken away", f"everywhere: {_words(handled)}", {"rights": handled})
    yield Statement("share", "given back", f"in the share: {_words(share)}", {"rights": share})
    never = [right for right in handled if right not in share]
    yield Statement("never", "nowhere", _words(never) or "nothing", {"rights": never})
    binary = _rights(wanted.binary_rights)
    yield Statement("binary", "the worker binary", _words(binary), {"rights": binary})
    for place, mask in program.readable if program else ():
        rights = _rights(mask)
        yield Statement(f"file {printed(place)}", printed(place), _words(rights), {"rights": rights})
    net = "no TCP port can be bound or connected to" if wanted.handled_net else "not bounded by this kernel's Landlock"
    yield Statement("network", "TCP", net, {"handled": wanted.handled_net})
    scoped = (
        "no abstract socket and no process outside can be reached"
        if wanted.scoped
        else "abstract sockets and signals are not bounded by this kernel's Landlock"
    )
    yield Statement("scope", "scopes", scoped, {"scoped": wanted.scoped})
    logged = (
        "denials are recorded where the kernel's audit is on" if wanted.restrict_flags else "denials leave no record"
    )
    yield Statement("records", "records", logged, {"flags": wanted.restrict_flags})
    yield Statement(
        "not-covered",
        "not covered",
        "stat, chmod, chown, extended attributes, times, and descriptors opened before",
        {},
    )


def _seccomp(launch: Launch) -> tuple[Statement, ...]:
    plan = launch.plan
    needs = seccomp.needs(launch.share, ids=plan.ids, attributes=plan.attributes)
    # Only our own worker reports what was refused.
    recorded = not launch.host.audit_errno or plan.program is not None
    refusal = seccomp.refusal(launch.share.sandbox.seccomp, recorded=recorded)
    logged = bool(plan.seccomp_flags & seccomp.FLAGS)
    filters = plan.filters
    allowed = calls.union(needs) if plan.program is None else stockcalls.allowed(needs)
    killed = calls.KILLED if plan.program is None else stockcalls.DEADLY
    later = calls.KILLED_LATER if plan.program is None else ()
    statements = [
        _filter("first", "at start", allowed, plan.seccomp),
        Statement(
            "killed",
            "killed for",
            f"{len(killed)} calls that nothing honest makes, and every foreign architecture"
            + (f"; once started, {' and '.join(later)} too" if later else ""),
            {"killed": sorted(killed), "later": sorted(later)},
        ),
        Statement(
            "refused",
            "all other calls",
            _REFUSALS[refusal] + (", recorded in the kernel's log" if logged else ", without a record"),
            {"action": refusal.value, "flags": plan.seccomp_flags},
        ),
        Statement(
            "unlogged",
            "unrecorded",
            f"clone3: ENOSYS ({_instructions(plan.seccomp_unlogged)} instructions)",
            {"instructions": _instructions(plan.seccomp_unlogged)},
        ),
        Statement(
            "execution", "execution", "once: the worker, by a secret number that the jail cannot know", {"once": True}
        ),
    ]
    if filters is None:
        own = "" if plan.program is None else " of ours; virtiofsd puts its own over it"
        statements.append(Statement("roles", "once started", f"the same: no second filter{own}", {"roles": None}))
    else:
        programs = {Role.KEEPER: filters.keeper, Role.CONTROL: filters.control, Role.QUEUE: filters.queue}
        statements += [
            _filter(f"role {role.value}", _ROLES[role], calls.steady(role, needs), program)
            for role, program in programs.items()
        ]
    return tuple(statements)


def _filter(key: str, label: str, allowed: tuple[Call, ...], program: bytes) -> Statement:
    bounded = sorted(call.name for call in allowed if call.forms)
    return Statement(
        key,
        label,
        f"{len(allowed)} system calls, {len(bounded)} of them only with certain arguments "
        f"({_instructions(program)} instructions; docs/syscalls.md has the reason of each)",
        {
            "allowed": sorted(call.name for call in allowed),
            "by_arguments": bounded,
            "instructions": _instructions(program),
        },
    )


def _bounds(launch: Launch) -> tuple[Statement, ...]:
    plan = launch.plan
    soft, hard = plan.nofile
    statements = [
        Statement(
            "files", "open files", f"{soft}" if soft == hard else f"{soft}, up to {hard}", {"nofile": [soft, hard]}
        ),
        Statement("memory", "out of memory", "the worker dies first (oom_score_adj 1000)", {"oom_score_adj": 1000}),
    ]
    statements += [
        Statement(
            _LIMITS.get(number, f"RLIMIT {number}"),
            _LIMITS.get(number, f"RLIMIT {number}"),
            f"{value} {_UNITS.get(number, '')}".rstrip(),
            {"number": number, "value": value},
        )
        for number, value in plan.limits
    ]
    statements.append(
        Statement(
            "processes",
            "processes",
            _processes(launch),
            {"process_limit": plan.process_limit, "binds": process_limit_binds(launch)},
        )
    )
    statements.append(_rates(launch))
    groups = [printed(group) for group in plan.cgroups]
    statements.append(
        Statement("cgroups", "control groups", ", ".join(groups) or "those of whoever starts it", {"cgroups": groups})
    )
    statements += [
        Statement(
            f"group {group.directory}",
            f"version {group.version}",
            "; ".join(f"{setting.key}: {setting.text} in {setting.file}" for setting in group.settings),
            {
                "directory": group.directory,
                "settings": [{"key": one.key, "file": one.file, "text": one.text} for one in group.settings],
            },
        )
        for group in plan.groups
    ]
    statements.append(
        Statement(
            "end",
            "ends with",
            "its client, or the supervisor's death"
            if plan.end_with_supervisor
            else "its client; it outlives the supervisor",
            {"end_with_supervisor": plan.end_with_supervisor},
        )
    )
    return tuple(statements)


def _rates(launch: Launch) -> Statement:
    """Rates that the worker itself holds the guest's requests to, and the budget they are part of."""
    share = launch.share
    rates = {
        name: rate for name, key in KEYS.items() if key.table == "requests" and (rate := key.of(share)) is not None
    }
    text = ", ".join(f"{name} {KEYS[name].show(rate)}" for name, rate in rates.items())
    said = f"{text}; held by the worker, so not by one that is owned" if rates else "no limit of its own"
    if share.group is not None:
        said += f"; a part of the budget {share.group.name}, by weight {share.group.weight}"
    group = None if share.group is None else {"name": share.group.name, "weight": share.group.weight}
    return Statement("requests", "guest's requests", said, {"rates": rates, "group": group})


def process_limit_binds(launch: Launch) -> bool:
    """The kernel exempts its own root from RLIMIT_NPROC, in a user namespace too."""
    return launch.plan.process_limit is not None and host_uid(launch.plan, launch.host) != 0


def _processes(launch: Launch) -> str:
    most = launch.plan.process_limit
    if most is None:
        return "bounded by nothing of the jail's own"
    if process_limit_binds(launch):
        return f"{most} in the jail's user namespace"
    return f"a limit of {most} that does not bind: the worker is uid 0 of the host, which the kernel exempts"


def _capability(number: int) -> str:
    return f"CAP_{Capability(number).name}" if number in set(Capability) else f"capability {number}"


def _kept_for(number: int) -> str:
    return REASONS[Capability(number)] if number in {int(known) for known in REASONS} else "no reason is known for it"


def _rights(mask: int) -> list[str]:
    """The Landlock rights of *mask*, by their names in landlock.h; an unknown bit by its number."""
    known = {int(getattr(FSAccess, name)): name for name in _RIGHTS}
    bits = [1 << bit for bit in range(64) if mask >> bit & 1]
    return [known.get(bit, f"{bit:#x}") for bit in bits]


def _words(rights: list[str]) -> str:
    return ", ".join(_RIGHTS.get(right, right) for right in rights)


def _instructions(program: bytes) -> int:
    return len(program) // SOCK_FILTER_BYTES


TOPICS = (
    Topic("namespaces", "Namespaces", frozenset(), _namespaces),
    Topic(
        "mounts",
        "Mounts and root",
        frozenset({"share_attributes", "attached", "early_mounts", "rule_mounts", "worker"}),
        _mounts,
    ),
    Topic("descriptors", "Descriptors the worker starts with", frozenset(), _descriptors),
    Topic(
        "capabilities",
        "Capabilities the worker keeps",
        frozenset({"capabilities", "last_capability", "securebits", "lock_capabilities"}),
        _capabilities,
    ),
    Topic("landlock", "Landlock", frozenset({"landlock"}), _landlock),
    Topic(
        "seccomp",
        "System calls",
        frozenset({"seccomp", "seccomp_flags", "seccomp_unlogged", "filters", "exec_key"}),
        _seccomp,
    ),
    Topic(
        "limits",
        "Limits and end",
        frozenset({"nofile", "limits", "process_limit", "cgroups", "groups", "end_with_supervisor"}),
        _bounds,
    ),
)
