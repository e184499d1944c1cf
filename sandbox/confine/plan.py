"""What one launch does, settled before it starts: integers and bytes, so that the child decides nothing."""

from __future__ import annotations

import enum
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
class ChildMount:
    """One directory of a tree share: mounted as *name* in the share's root, with MOUNT_ATTR_* *attributes*."""

    name: bytes
    source: bytes
    attributes: int


@dataclass(frozen=True)
class RuleMount:
    """One exact path rule: *path*, relative to the share's root, is mounted over; *hide*: by something empty that
    nobody may open, else by a read-only clone of itself.
    """

    path: bytes
    hide: bool


@dataclass(frozen=True)
class HeldRule:
    """Whether a path rule is also held by a mount, apart from the worker; *why* is half a sentence, either way."""

    pattern: str
    held: bool
    why: str


class MountAction(enum.Enum):
    """What may change in the mounts of a running jail."""

    ATTACH = "attach"
    DETACH = "detach"
    FREEZE = "freeze"
    THAW = "thaw"
    MASK = "mask"
    UNMASK = "unmask"


@dataclass(frozen=True)
class MountChange:
    """One change to the mounts of a running jail, for `Launcher.adjust`.

    *path* is relative to the share's root, for ATTACH and DETACH the name of a child of a tree share. *source* is the
    absolute directory that ATTACH mounts there, with MOUNT_ATTR_* *attributes* (`mountplan.share_attributes`).
    """

    action: MountAction
    path: bytes
    source: bytes = b""
    attributes: int = 0


@dataclass(frozen=True)
class GroupSetting:
    """*text* written to *file* of a control group sets what the policy's *key* says; *lift* there takes it back."""

    key: str
    file: str
    text: str
    lift: str


@dataclass(frozen=True)
class ControlGroup:
    """One control group of a share: *directory*, with "virtiofs-sandbox" above it, below *base*, which is there.

    *version* is that of its hierarchy; *controllers*, in the kernel's names, are what *settings* need. With *refuse* a
    setting that is not taken ends the start, else it is warned of.
    """

    base: str
    directory: str
    version: int
    controllers: tuple[str, ...]
    settings: tuple[GroupSetting, ...]
    refuse: bool


@dataclass(frozen=True)
class ProgramPlan:
    """A program that serves in the place of our own worker, in a root with what it needs to start.

    *executed* is the file that exec gets: its dynamic loader, or itself. *files* are mounted read-only, (path on the
    host, path in the jail) each; *readable* is what Landlock grants besides the share, (path in the jail, rights) each.
    *arguments* is its argv. *waiting* is the seccomp program by which its accept(2) waits for the supervisor.
    """

    executed: bytes
    files: tuple[tuple[bytes, bytes], ...]
    arguments: tuple[bytes, ...]
    readable: tuple[tuple[bytes, int], ...]
    waiting: bytes


@dataclass(frozen=True)
class LaunchPlan:
    """Everything the zygote and the jail stages need; made by `prepare`, sent to the zygote as it is.

    *ids* is what the worker's configuration gets: who owns what a guest creates. *warnings* are sentences about layers
    that this host lacks. Paths are absolute. Capability sets are masks with bit N for capability N. *exec_key* is the
    number without which the seccomp program lets nothing be executed; *seccomp_unlogged* is a second program, loaded
    before it and without its flags; *filters* and *attributes* go into the worker's configuration (ipc/README.md).

    *source* is empty for a tree share, which has *children*. *map_helpers* are the paths of newuidmap(1) and
    newgidmap(1) where they write the maps. *become* is the (uid, gid), as the jail sees them, that the worker acts as;
    None: the caller's. With *early_mounts* the mounts are taken by the caller, since the worker's own id may not reach
    them; with *idmapped* stored ids are then shifted by the jail's map. With *attached* the share is mounted in the
    jail's root, where *rule_mounts* and later changes find it; without, it is a mount of its own outside of any tree.
    *limits* are (RLIMIT_* number, value) each; *process_limit* is RLIMIT_NPROC inside the user namespace, None where
    it would not bind. Without *lock_capabilities* bounding set and securebits stay as they are. *rules* says of each
    path rule whether a mount holds it too. *cgroups* are the directories of *groups*, which are there before the
    launch: the jail joins them before anything else. With *program* that serves instead of our own worker.
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
    groups: tuple[ControlGroup, ...] = ()
    children: tuple[ChildMount, ...] = ()
    map_helpers: tuple[bytes, bytes] | None = None
    become: tuple[int, int] | None = None
    early_mounts: bool = False
    idmapped: bool = False
    attached: bool = False
    rule_mounts: tuple[RuleMount, ...] = ()
    limits: tuple[tuple[int, int], ...] = ()
    process_limit: int | None = None
    lock_capabilities: bool = True
    rules: tuple[HeldRule, ...] = ()
    program: ProgramPlan | None = None
