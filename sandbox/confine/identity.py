"""Whom a worker acts as: the maps of its user namespace, and the ids it has inside.

policy       map of the user namespace       acts as            who may
identity     every id to itself              the caller         who may map all ids (root)
squash       one id to itself                that id            root; a user for its own id
range        0.. to first..                  first              root
range        0 to one's own, 1.. to first..  the caller         a user with subuid and subgid ranges
range, idmapped: as range, and the share's stored ids are shifted by the same map: what the guest calls 0 is stored
as 0, while the worker's processes have ids of the range                                 root
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from virtiofs_sandbox.confine import capabilities, ids
from virtiofs_sandbox.confine.capabilities import Capability
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.share import Identity, IdMap, Tier

DEFAULT_COUNT = 65_536


@dataclass(frozen=True)
class Ids:
    """What LaunchPlan says of ids, under the same names; *warning* tells what the caller may not have expected."""

    ids: Literal["caller", "self"]
    uid_map: bytes
    gid_map: bytes
    deny_setgroups: bool
    map_helpers: tuple[bytes, bytes] | None = None
    become: tuple[int, int] | None = None
    early_mounts: bool = False
    idmapped: bool = False
    warning: str | None = None


def resolve(wanted: Identity, host: HostProbe, tier: Tier) -> Ids:
    """Raises CannotConfineError for ids that this host or this tier cannot give."""
    if wanted.idmapped and wanted.map is not IdMap.RANGE:
        raise CannotConfineError('identity.idmapped translates the ids of a range: set identity.map = "range" too')
    if tier is Tier.BARE:
        return _without_namespace(wanted, host)
    if wanted.map is IdMap.RANGE:
        return _range_of_root(wanted, host) if _maps_all(host) else _range_of_a_user(wanted, host)
    if wanted.map is IdMap.SQUASH:
        return _squash(wanted, host)
    if _maps_all(host):
        return Ids("caller", ids.identity(host.uid_map), ids.identity(host.gid_map), deny_setgroups=False)
    if wanted.map is IdMap.IDENTITY:
        said = os.strerror(host.identity_errno)
        raise CannotConfineError(
            f'identity.map = "identity" needs all ids, and uid {host.uid} may not map them ({said}): '
            "run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP, "
            'or choose "squash", or "range" with ids of /etc/subuid'
        )
    return _only_own(host, _belongs_to_one(host))


def _maps_all(host: HostProbe) -> bool:
    return host.identity_errno == 0


def _only_own(host: HostProbe, warning: str | None) -> Ids:
    uid_map, gid_map = ids.single(host.uid, host.uid), ids.single(host.gid, host.gid)
    return Ids("self", uid_map, gid_map, deny_setgroups=not _maps_all(host), warning=warning)


def _belongs_to_one(host: HostProbe) -> str:
    if host.uid == 0:
        return (
            f"root here may not map its ids into a user namespace ({os.strerror(host.identity_errno)}): "
            "files that guests create all belong to uid 0; "
            "grant CAP_SETUID, CAP_SETGID and CAP_SETFCAP to keep the guests' ids"
        )
    return (
        f"files that guests create all belong to uid {host.uid}; to keep the guests' ids, "
        'run as root, or set identity.map = "range" for a user with ids in /etc/subuid and /etc/subgid'
    )


def _squash(wanted: Identity, host: HostProbe) -> Ids:
    uid = host.uid if wanted.uid is None else wanted.uid
    gid = host.gid if wanted.gid is None else wanted.gid
    if (uid, gid) == (host.uid, host.gid):
        return _only_own(host, None)
    if not _maps_all(host):
        raise CannotConfineError(
            f"identity.uid and gid are {uid} and {gid}, and uid {host.uid}, gid {host.gid} may map only its own ids: "
            f"run as root, or squash to {host.uid} and {host.gid}"
        )
    _check_known(host.uid_map, "identity.uid", uid, 1)
    _check_known(host.gid_map, "identity.gid", gid, 1)
    uid_map, gid_map = ids.single(uid, uid), ids.single(gid, gid)
    return Ids("self", uid_map, gid_map, deny_setgroups=False, become=(uid, gid), early_mounts=True)


def _range_of_root(wanted: Identity, host: HostProbe) -> Ids:
    first_uid, uids = _chosen(wanted, host.subuid, host, "/etc/subuid")
    first_gid, gids = _chosen(wanted, host.subgid, host, "/etc/subgid")
    _check_known(host.uid_map, "identity.first and count", first_uid, uids)
    _check_known(host.gid_map, "identity.first and count", first_gid, gids)
    if wanted.idmapped and host.idmapped_errno:
        raise CannotConfineError(
            f"identity.idmapped: no mount can be id-mapped here ({os.strerror(host.idmapped_errno)}): "
            "run as root of the host, on a kernel whose file systems support it"
        )
    return Ids(
        "caller",
        ids.single(0, first_uid, uids),
        ids.single(0, first_gid, gids),
        deny_setgroups=False,
        become=(0, 0),
        early_mounts=True,
        idmapped=wanted.idmapped,
    )


def _range_of_a_user(wanted: Identity, host: HostProbe) -> Ids:
    """The user's own id as the guest's root, the subordinate ones as everybody else."""
    if wanted.idmapped:
        raise CannotConfineError(
            f"identity.idmapped: only root of the host may id-map a mount, and this is uid {host.uid}: leave it out"
        )
    if not host.newuidmap:
        raise CannotConfineError(
            f'identity.map = "range" takes newuidmap and newgidmap for uid {host.uid}, which are not installed or may '
            'gain no rights here (no_new_privs): install the package uidmap, or choose "squash"'
        )
    first_uid, uids = _chosen(wanted, host.subuid, host, "/etc/subuid")
    first_gid, gids = _chosen(wanted, host.subgid, host, "/etc/subgid")
    return Ids(
        "caller",
        ids.single(0, host.uid) + ids.single(1, first_uid, uids),
        ids.single(0, host.gid) + ids.single(1, first_gid, gids),
        deny_setgroups=False,
        map_helpers=(ids.helper("newuidmap"), ids.helper("newgidmap")),
    )


def _chosen(wanted: Identity, granted: tuple[tuple[int, int], ...], host: HostProbe, file: str) -> tuple[int, int]:
    """First id and number of ids: as the policy says, else the first range of *file*. Root needs no grant."""
    if wanted.first is None:
        if not granted:
            raise CannotConfineError(
                f'identity.map = "range" without first and count takes them from {file}, which has no line for uid '
                f"{host.uid}: add one (usermod --add-subuids, --add-subgids), or set identity.first and identity.count"
            )
        first, count = granted[0]
        return first, min(count, wanted.count or count)
    chosen = wanted.first, wanted.count or DEFAULT_COUNT
    if not _maps_all(host) and not any(_inside(chosen, extent) for extent in granted):
        raise CannotConfineError(
            f"identity.first and count are ids {chosen[0]} to {sum(chosen) - 1}, which {file} does not grant uid "
            f"{host.uid}: choose from what it grants, or have them added (usermod --add-subuids, --add-subgids)"
        )
    return chosen


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and sum(inner) <= sum(outer)


def _check_known(own_map: bytes, key: str, first: int, count: int) -> None:
    """In a container, only ids that its own map holds can be mapped further."""
    extents = [tuple(map(int, line.split())) for line in own_map.splitlines()]
    if not any(_inside((first, count), (inside, number)) for inside, _, number in extents):
        shown = f"{first}" if count == 1 else f"{first} to {first + count - 1}"
        raise CannotConfineError(f"{key}: there is no id {shown} in this user namespace; see /proc/self/uid_map")


def _without_namespace(wanted: Identity, host: HostProbe) -> Ids:
    """Without a map, a worker is who it is on the host."""
    if wanted.map in (IdMap.IDENTITY, IdMap.RANGE):
        raise CannotConfineError(
            f'identity.map = "{wanted.map.value}" needs a user namespace, which cannot be had here: '
            'choose "squash", whose files all belong to one id'
        )
    uid = host.uid if wanted.uid is None else wanted.uid
    gid = host.gid if wanted.gid is None else wanted.gid
    may_drop_groups = host.capabilities & capabilities.mask(Capability.SETGID)
    if (uid, gid) == (host.uid, host.gid):
        warning = None if wanted.map else _belongs_to_one_plainly(host)
        return Ids("self", b"", b"", deny_setgroups=not may_drop_groups, warning=warning)
    if not may_drop_groups or not host.capabilities & capabilities.mask(Capability.SETUID):
        raise CannotConfineError(
            f"identity.uid and gid are {uid} and {gid}, and uid {host.uid}, gid {host.gid} may not become them: "
            f"grant CAP_SETUID and CAP_SETGID, or squash to {host.uid} and {host.gid}"
        )
    return Ids("self", b"", b"", deny_setgroups=False, become=(uid, gid))


def _belongs_to_one_plainly(host: HostProbe) -> str:
    return f"files that guests create all belong to uid {host.uid}: keeping the guests' ids takes a user namespace"
