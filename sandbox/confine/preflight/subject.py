"""What is checked: a share, the plan of its launch, and how far a check may go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine.capabilities import Capability, mask
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.share import Share, Tier


@dataclass(frozen=True)
class Bounds:
    """At most *entries* names are looked at, for at most *seconds*; *guest_ids* are asked about by number."""

    entries: int = 200_000
    seconds: float = 20.0
    guest_ids: tuple[int, ...] = (0, 1000)


@dataclass(frozen=True)
class Subject:
    """*plan* None: it was refused, and *refusal* says why. *groups* are our own supplementary groups."""

    share: Share
    host: HostProbe
    plan: LaunchPlan | None
    refusal: str | None
    socket: Socket | None
    groups: frozenset[int]
    bounds: Bounds


@dataclass(frozen=True)
class Directory:
    """One directory of the host that the guest sees, and the place of its name in the share."""

    path: Path
    inside: tuple[str, ...]
    writable: bool
    key: str


@dataclass(frozen=True)
class Extent:
    """*count* ids: from *inside* on for the worker, from *outside* on for us."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True)
class Identities:
    """What the worker is, and what it may, by the plan. Ids are those that we see on the share's files.

    *everything*: no user namespace stands between, so every id counts as mapped. *idmapped*: stored ids are the
    worker's own, so that a file's owner counts as an id inside.
    """

    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    everything: bool
    idmapped: bool
    capabilities: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, plan: LaunchPlan, host: HostProbe, own_groups: frozenset[int]) -> Identities:
        """Without a user namespace a capability that we do not hold is none of the worker's either."""
        bare = plan.tier is Tier.BARE
        uid, gid = (host.uid, host.gid) if plan.become is None else plan.become
        if not plan.idmapped and not bare and plan.become is not None:
            uid, gid = translated(plan.uid_map, uid), translated(plan.gid_map, gid)
        return cls(
            uids=extents(plan.uid_map),
            gids=extents(plan.gid_map),
            everything=bare,
            idmapped=plan.idmapped,
            capabilities=plan.capabilities & host.capabilities if bare else plan.capabilities,
            uid=uid,
            groups=frozenset({gid}) | (own_groups if plan.deny_setgroups or bare else frozenset()),
        )

    def maps_uid(self, uid: int) -> bool:
        return self.everything or (inside if self.idmapped else _outside)(self.uids, uid)

    def maps_gid(self, gid: int) -> bool:
        return self.everything or (inside if self.idmapped else _outside)(self.gids, gid)

    def rules_over(self, state: os.stat_result, capability: Capability) -> bool:
        """Whether *capability* counts for this inode: capable_wrt_inode_uidgid() wants owner and group mapped."""
        held = bool(self.capabilities & mask(capability))
        return held and self.maps_uid(state.st_uid) and self.maps_gid(state.st_gid)

    def may(self, state: os.stat_result, wanted: int) -> bool:
        """Whether the worker gets *wanted* (4 read, 2 write, 1 search) by capability, or else by the mode."""
        if self.rules_over(state, Capability.DAC_OVERRIDE):
            return True
        if state.st_uid == self.uid:
            granted = state.st_mode >> 6
        elif state.st_gid in self.groups:
            granted = state.st_mode >> 3
        else:
            granted = state.st_mode
        return granted & wanted == wanted


def extents(id_map: bytes) -> tuple[Extent, ...]:
    """The lines of a uid_map or gid_map. user_namespaces(7)."""
    return tuple(Extent(*(int(field) for field in line.split())) for line in id_map.splitlines() if line.strip())


def host_uid(plan: LaunchPlan, host: HostProbe) -> int:
    """The uid that the worker's processes have for the host."""
    return host.uid if plan.become is None else translated(plan.uid_map, plan.become[0])


def translated(id_map: bytes, number: int) -> int:
    """What id *number* of the worker is for us; the number itself where it has none."""
    found = [extent for extent in extents(id_map) if extent.inside <= number < extent.inside + extent.count]
    return found[0].outside + number - found[0].inside if found else number


def inside(found: tuple[Extent, ...], number: int) -> bool:
    """Whether the worker knows id *number*."""
    return any(extent.inside <= number < extent.inside + extent.count for extent in found)


def _outside(found: tuple[Extent, ...], number: int) -> bool:
    return any(extent.outside <= number < extent.outside + extent.count for extent in found)
