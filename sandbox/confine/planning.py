"""From a share and a host to a launch plan."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Literal

from virtiofs_sandbox.cgroups import planning as control
from virtiofs_sandbox.confine import capabilities, identity, ids, landlock, mountplan, seccomp, stockcalls, tiers
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.share import Access, Share, Tier

WANTED_DESCRIPTORS = 1_000_000
# Below this a guest with many open files notices: handles and pinned inodes cost a descriptor each.
FEW_DESCRIPTORS = 16_384

LIMITS = (
    # Guest memory would be in a core file.
    (resource.RLIMIT_CORE, 0),
    # The worker's own heap and stacks take a few MiB; guest memory and the tables are shared mappings and do not count.
    # A worker that an attacker drives, or a bug, gets no further, where no control group holds it either.
    (resource.RLIMIT_DATA, 1 << 30),
    # Nothing is ever locked in memory: guests' pages stay the host's to swap.
    (resource.RLIMIT_MEMLOCK, 0),
)
# Keeper, control thread, a thread for each of 9 rings; a fork bomb ends here. The kernel counts them per user namespace
# and user (since 5.14), so jails do not take from each other, but it exempts its own root.
PROCESSES = 64


def prepare(share: Share, host: HostProbe, *, worker: Path | None, end_with_supervisor: bool = True) -> LaunchPlan:
    """Settles every number of the launch. A layer this host lacks is refused here or named in `warnings` (I7).

    *worker* is the static binary to run, None where it was not installed: only another program serves then. With
    *end_with_supervisor* the jail is killed when its supervisor dies.
    Looks at the share for paths that rules name, and for the disks behind it. Raises CannotConfineError.
    """
    if worker is None and share.program is None:
        raise CannotConfineError(
            "there is no worker binary beside this command: install with the worker (needs Rust), name one by "
            "--worker, or have a stock virtiofsd serve the share (worker.program)"
        )
    reached = tiers.standing(host)
    tiers.admit(reached, share.sandbox.minimum)
    tier, bare = reached.tier, reached.tier is Tier.BARE
    who = identity.resolve(share.identity, host, tier)
    children = mountplan.children(share, tier)
    rule_mounts, rules = mountplan.rule_mounts(share, tier)
    nofile, nofile_warning = _nofile(host)
    groups = control.plan(share, host.hierarchies)
    readonly = share.access is Access.READ_ONLY
    warnings = (
        *tiers.losses(reached, readonly=readonly),
        who.warning,
        nofile_warning,
        *groups.warnings,
        landlock.shortfall(host.landlock_abi),
        seccomp.shortfall(share.sandbox.seccomp),
    )
    attributes: Literal["path", "open"] = "open" if bare else "path"
    needs = seccomp.needs(share, ids=who.ids, attributes=attributes)
    refusal = seccomp.refusal(share.sandbox.seccomp, recorded=not host.audit_errno)
    exec_key = int.from_bytes(os.urandom(8), "little")
    kept = 0 if bare else capabilities.kept(share, who.ids)
    program = None
    if share.program is not None:
        from virtiofs_sandbox.confine import foreign  # noqa: PLC0415 - it reads ELF files, which nobody else does

        uid, gid = who.become or (ids.inside(who.uid_map, host.uid), ids.inside(who.gid_map, host.gid))
        program = foreign.program_plan(share, tier, as_one=(uid, gid) if who.ids == "self" else None, kept=kept)
        kept |= foreign.to_drop_others(uid)
    return LaunchPlan(
        share=share.name,
        source=os.fsencode(share.source.absolute()) if share.source else b"",
        worker=program.executed if program else os.fsencode((worker or Path()).absolute()),
        tier=tier,
        ids=who.ids,
        warnings=tuple(sentence for sentence in warnings if sentence),
        uid_map=who.uid_map,
        gid_map=who.gid_map,
        deny_setgroups=who.deny_setgroups,
        share_attributes=mountplan.share_attributes(share.access),
        nofile=nofile,
        capabilities=kept,
        last_capability=host.last_capability,
        securebits=capabilities.SECUREBITS,
        landlock=landlock.plan(share.access, host.landlock_abi) if host.landlock_abi else None,
        seccomp=(
            seccomp.program(exec_key, needs, refusal)
            if program is None
            else seccomp.stock_program(exec_key, needs, seccomp.refusal(share.sandbox.seccomp, recorded=True))
        ),
        seccomp_flags=seccomp.FLAGS,
        seccomp_unlogged=seccomp.unlogged_program((stockcalls.UNKNOWN,) if program else ()),
        exec_key=exec_key,
        filters=seccomp.role_programs(needs, refusal) if program is None else None,
        attributes=attributes,
        end_with_supervisor=end_with_supervisor,
        children=children,
        map_helpers=who.map_helpers,
        become=who.become,
        early_mounts=who.early_mounts,
        idmapped=who.idmapped,
        attached=bool(children or rule_mounts or program),
        rule_mounts=rule_mounts,
        limits=LIMITS,
        # Without a user namespace of its own a jail would count with everything else that its user runs.
        process_limit=None if bare else PROCESSES,
        lock_capabilities=not bare or _may_lock(host, who),
        rules=rules,
        cgroups=tuple(os.fsencode(group.directory) for group in groups.groups),
        groups=groups.groups,
        program=program,
    )


def _may_lock(host: HostProbe, who: identity.Ids) -> bool:
    """Outside of a user namespace of its own, bounding set and securebits take a capability.

    Where it is missing, no_new_privs does what they would do: exec gives nothing.
    """
    return who.become is None and bool(host.capabilities & capabilities.mask(capabilities.Capability.SETPCAP))


def _nofile(host: HostProbe) -> tuple[tuple[int, int], str | None]:
    """RLIMIT_NOFILE, soft and hard: what is wanted where we may raise it, else the hard limit that there is."""
    may_raise = bool(host.capabilities & capabilities.mask(capabilities.Capability.SYS_RESOURCE))
    hard = max(host.nofile_hard, min(WANTED_DESCRIPTORS, host.nr_open)) if may_raise else host.nofile_hard
    if hard >= FEW_DESCRIPTORS:
        return (hard, hard), None
    return (hard, hard), (
        f"open files are limited to {hard}: a guest that keeps more open gets ENFILE; "
        f"raise the hard limit (LimitNOFILE= or ulimit -Hn) to {FEW_DESCRIPTORS} or more"
    )
