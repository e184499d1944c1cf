"""What is shared, with whom, and as whose files."""

from __future__ import annotations

import os

from virtiofs_sandbox.confine.account.statement import Launch, Statement, Topic, flag_names, printed
from virtiofs_sandbox.policies.share import Access, CacheMode, IdMap, Tier, Unmapped

_CACHE = {
    CacheMode.NEVER: "the guest caches nothing: what the host changes is seen at once",
    CacheMode.AUTO: "the guest caches for a moment: what the host changes is seen at the next open",
    CacheMode.METADATA: "the guest caches names and attributes: what the host changes is seen late",
    CacheMode.ALWAYS: "the guest caches everything: what the host changes may never be seen",
}
_ACCESS = {
    Access.READ_ONLY: "the guest may change nothing",
    Access.READ_WRITE: "the guest may change everything that no rule below forbids",
}
_TIERS = {
    Tier.FULL: "every layer: namespaces, mounts of its own, all ids, Landlock",
    Tier.USERNS: "namespaces and mounts of its own, with few ids or without Landlock",
    Tier.BARE: "no namespaces and no mounts of its own: Landlock, seccomp, no_new_privs and limits hold alone",
}
_OVERFLOW = 65534


def _share(launch: Launch) -> tuple[Statement, ...]:
    share, plan = launch.share, launch.plan
    statements = [
        Statement(
            "name",
            "name",
            plan.share if launch.file is None else f"{plan.share}, by the policy {launch.file}",
            {"share": plan.share, "policy": None if launch.file is None else str(launch.file)},
        ),
    ]
    if plan.source:
        statements.append(Statement("source", "directory", printed(plan.source), {"path": printed(plan.source)}))
    statements += [
        Statement(
            f"child {printed(child.name)}",
            "directory",
            f"{printed(child.source)} as {printed(child.name)}, mounted {' '.join(flag_names(child.attributes))}",
            {"name": printed(child.name), "path": printed(child.source), "attributes": child.attributes},
        )
        for child in plan.children
    ]
    timeout = None if share.timeout is None else f", for at most {share.timeout:g} s"
    statements += [
        Statement("tag", "tag", f"{share.tag}: the guest mounts by it", {"tag": share.tag}),
        Statement("access", "access", f"{share.access.value}: {_ACCESS[share.access]}", {"access": share.access.value}),
        Statement(
            "cache",
            "cache",
            f"{share.cache.value}: {_CACHE[share.cache]}{timeout or ''}"
            + ("; writes are gathered in the guest first" if share.writeback else ""),
            {"mode": share.cache.value, "timeout": share.timeout, "writeback": share.writeback},
        ),
        Statement(
            "xattr",
            "attributes",
            "extended attributes are " + ("passed through" if share.xattr else "refused"),
            {"xattr": share.xattr},
        ),
    ]
    return tuple(statements)


def _socket(launch: Launch) -> tuple[Statement, ...]:
    socket = launch.socket
    most = launch.share.max_clients
    one = Statement(
        "clients",
        "clients",
        f"{'one monitor at a time; it' if most == 1 else f'at most {most} monitors at a time, each with a jail; each'} "
        "is trusted with the guest's memory and with nothing here",
        {"at_once": most},
    )
    if socket is None:
        return (Statement("socket", "socket", "inherited from whoever starts the share: its rights are theirs"), one)
    group = "the starter's group" if socket.group is None else f"group {socket.group}"
    owner = launch.host.uid if socket.owner is None else socket.owner
    label = "" if socket.label is None else f", SELinux label {socket.label}"
    return (
        Statement(
            "socket",
            "socket",
            f"{socket.path}, mode {socket.mode:04o}, owner uid {owner}, {group}{label}",
            {
                "path": str(socket.path),
                "mode": f"{socket.mode:04o}",
                "uid": owner,
                "group": socket.group,
                "label": socket.label,
            },
        ),
        Statement("who", "who may connect", _connectors(socket.mode), {"mode": f"{socket.mode:04o}"}),
        one,
    )


def _connectors(mode: int) -> str:
    who = [name for bit, name in ((0o200, "its owner"), (0o020, "its group"), (0o002, "everybody")) if mode & bit]
    return f"{' and '.join(who) or 'nobody'} (and root), where the directories above let them pass"


def _identity(launch: Launch) -> tuple[Statement, ...]:
    plan, identity = launch.plan, launch.share.identity
    own = plan.become
    inside = (
        f"uid {launch.host.uid}, gid {launch.host.gid}: whoever starts it"
        if own is None
        else f"uid {own[0]}, gid {own[1]} of its user namespace"
    )
    owner = (
        "what a guest creates belongs to the uid and gid that ask for it in the guest, by the map below"
        if plan.ids == "caller"
        else "what a guest creates belongs to the worker's own id, whoever asks for it"
    )
    # Where everything is the worker's own, nobody needs a mapping to create.
    fate = identity.unmapped if plan.ids == "caller" else Unmapped.SQUASH
    unmapped = {
        Unmapped.FORBID: "creating as one is refused with EPERM",
        Unmapped.SQUASH: "what one creates is the worker's own",
    }[fate]
    asked = "as the tier allows" if identity.map is None else f"identity.map = {identity.map.value}"
    helpers = None if plan.map_helpers is None else [printed(helper) for helper in plan.map_helpers]
    statements = [
        Statement("asked", "asked for", asked, {"map": None if identity.map is None else identity.map.value}),
        Statement("acts-as", "worker acts as", inside, {"become": None if own is None else list(own)}),
        Statement("owner", "owner", owner, {"ids": plan.ids}),
        Statement(
            "unmapped",
            "unmapped ids",
            f"{unmapped}; files that one owns are seen as {_OVERFLOW}",
            {"unmapped": fate.value},
        ),
        Statement("uids", "uid map", _map(plan.uid_map, plan.tier), {"map": _extents(plan.uid_map)}),
        Statement("gids", "gid map", _map(plan.gid_map, plan.tier), {"map": _extents(plan.gid_map)}),
        Statement(
            "groups",
            "other groups",
            "setgroups(2) is denied in the namespace: the caller's supplementary groups stay"
            if plan.deny_setgroups
            else "none: supplementary groups are dropped",
            {"deny_setgroups": plan.deny_setgroups},
        ),
        Statement(
            "writer",
            "map written by",
            "the launcher itself" if helpers is None else " and ".join(helpers),
            {"helpers": helpers},
        ),
    ]
    if identity.map is IdMap.RANGE or plan.idmapped:
        statements.append(
            Statement(
                "stored",
                "stored ids",
                "the guest's own: the share's mount is id-mapped by the same map"
                if plan.idmapped
                else "those of the range",
                {"idmapped": plan.idmapped},
            )
        )
    return tuple(statements)


def _tier(launch: Launch) -> tuple[Statement, ...]:
    plan, host = launch.plan, launch.host
    minimum = launch.share.sandbox.minimum
    statements = [
        Statement("tier", "tier", f"{plan.tier.value}: {_TIERS[plan.tier]}", {"tier": plan.tier.value}),
        Statement(
            "why",
            "why",
            _reason(launch),
            {
                "userns_errno": host.userns_errno,
                "mounts_errno": host.mounts_errno,
                "identity_errno": host.identity_errno,
                "landlock_abi": host.landlock_abi,
            },
        ),
        Statement(
            "minimum", "minimum", f"a host that gives less than {minimum.value} is refused", {"minimum": minimum.value}
        ),
    ]
    statements += [
        Statement(f"warning {number}", "less than full", sentence, {"warning": sentence})
        for number, sentence in enumerate(plan.warnings, 1)
    ]
    return tuple(statements)


def _reason(launch: Launch) -> str:
    host, tier = launch.host, launch.plan.tier
    if tier is Tier.BARE:
        return "user namespaces, or mounts inside of one, were tried and refused here"
    tried = "a user namespace with mounts of its own was tried and allowed"
    if tier is Tier.FULL:
        return f"{tried}, with all ids mapped, and Landlock ABI {host.landlock_abi} is there"
    if host.identity_errno:
        return f"{tried}; mapping all ids was refused ({os.strerror(host.identity_errno)})"
    return f"{tried}; Landlock is not there"


def _map(content: bytes, tier: Tier) -> str:
    if tier is Tier.BARE:
        return "none: there is no user namespace of its own, ids are the host's"
    return "; ".join(
        f"{inside} is {outside}"
        if count == 1
        else f"{inside} to {inside + count - 1} are {outside} to {outside + count - 1}"
        for inside, outside, count in _extents(content)
    )


def _extents(content: bytes) -> list[list[int]]:
    return [[int(field) for field in line.split()] for line in content.splitlines()]


TOPICS = (
    Topic("share", "What is shared", frozenset({"share", "source", "children"}), _share),
    Topic("socket", "With whom", frozenset(), _socket),
    Topic(
        "identity",
        "As whose files",
        frozenset({"ids", "uid_map", "gid_map", "deny_setgroups", "map_helpers", "become", "idmapped"}),
        _identity,
    ),
    Topic("tier", "How strong the jail is", frozenset({"tier", "warnings"}), _tier),
)
