"""What one launch does, settled before it starts: integers and bytes, so that the child decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from virtiofs_sandbox.policies.share import Tier


@dataclass(frozen=True)
class LandlockPlan:
    """Masks for landlock_create_ruleset(2), landlock_add_rule(2) and landlock_restrict_self(2).

    *scoped* and *handled_net* are 0 on kernels whose ABI lacks them.
    """

    handled_fs: int
    handled_net: int
    scoped: int
    share_rights: int
    binary_rights: int
    restrict_flags: int


@dataclass(frozen=True)
class RoleFilters:
    """The seccomp programs that each role of the worker loads over the first one: arrays of struct sock_filter."""

    keeper: bytes
    control: bytes
    queue: bytes


@dataclass(frozen=True)
class LaunchPlan:
    """Everything the zygote and the jail stages need; made by `prepare`, sent to the zygote as it is.

    *ids* is what the worker's configuration gets: who owns what a guest creates. *warnings* are sentences about layers
    that this host lacks. Paths are absolute. Capability sets are masks with bit N for capability N. *exec_key* is the
    number without which the seccomp program lets nothing be executed; *seccomp_unlogged* is a second program, loaded
    before it and without its flags; *filters* and *attributes* go into the worker's configuration (ipc/README.md).
    """

    share: str
    source: bytes
    worker: bytes
    tier: Tier
    ids: Literal["caller", "self"]
    warnings: tuple[str, ...]
    uid_map: bytes
    gid_map: bytes
    deny_setgroups: bool
    share_attributes: int
    nofile: tuple[int, int]
    capabilities: int
    last_capability: int
    securebits: int
    landlock: LandlockPlan | None
    seccomp: bytes
    seccomp_flags: int
    seccomp_unlogged: bytes
    exec_key: int
    filters: RoleFilters | None
    attributes: Literal["path", "open"]
    end_with_supervisor: bool
    cgroups: tuple[bytes, ...] = ()
