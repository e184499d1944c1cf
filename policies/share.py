"""What one share is: the input of everything else."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

MAX_TAG_BYTES = 36
MAX_QUEUES = 8
MAX_CLIENTS = 64


class ShareError(Exception):
    """This cannot be shared; str() is one sentence that names the value and what is accepted."""


class Access(enum.Enum):
    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


class Tier(enum.Enum):
    """How much of the jail is there, from most to least.

    FULL has every layer: namespaces and mounts of its own, all ids, Landlock. USERNS has namespaces and mounts too, but
    built by a caller with few ids, or on a kernel without Landlock. BARE has none of its own, as in a pod: Landlock,
    seccomp, no_new_privs and limits hold alone.
    """

    FULL = "full"
    USERNS = "userns"
    BARE = "bare"

    @property
    def rank(self) -> int:
        """0 for the strongest; a minimum admits every rank up to its own."""
        return list(Tier).index(self)


class CacheMode(enum.Enum):
    NEVER = "never"
    AUTO = "auto"
    METADATA = "metadata"
    ALWAYS = "always"


class LogLevel(enum.Enum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"

    @property
    def rank(self) -> int:
        """0 for what matters most; a level shows every rank up to its own."""
        return list(LogLevel).index(self)


class Case(enum.Enum):
    SENSITIVE = "sensitive"
    INSENSITIVE = "insensitive"


class IdMap(enum.Enum):
    """Whom files belong to. IDENTITY: the guest's ids are the host's. SQUASH: everything belongs to one host id.
    RANGE: the guest's ids from 0 on are a range of the host's.
    """

    IDENTITY = "identity"
    SQUASH = "squash"
    RANGE = "range"


class Unmapped(enum.Enum):
    """What a caller creates whose id has no mapping: refused, or the worker's own."""

    FORBID = "forbid"
    SQUASH = "squash"


class SeccompAction(enum.Enum):
    """What a system call outside the list gets: an errno and a log record, death, or (for diagnosis) a record alone."""

    ERRNO = "errno"
    KILL = "kill"
    LOG = "log"


class Unenforceable(enum.Enum):
    """What becomes of a share with a limit that nothing here can hold: it does not start, or without that limit."""

    REFUSE = "refuse"
    WARN = "warn"


@dataclass(frozen=True)
class PathRules:
    """Patterns relative to the share's root, as docs/policies.md defines them."""

    hide: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    case: Case = Case.SENSITIVE
    strict_links: bool = False


@dataclass(frozen=True)
class Identity:
    """*map* None: identity where the tier maps all ids, squash to the caller where it does not.

    *uid* and *gid*: the host ids that SQUASH maps to; None: the caller's. *first* and *count*: the host ids of RANGE;
    None: from /etc/subuid and /etc/subgid. *idmapped*: files of a RANGE share are stored with the guest's own ids.
    """

    map: IdMap | None = None
    uid: int | None = None
    gid: int | None = None
    first: int | None = None
    count: int | None = None
    idmapped: bool = False
    unmapped: Unmapped = Unmapped.FORBID


@dataclass(frozen=True)
class Sandbox:
    minimum: Tier = Tier.USERNS
    seccomp: SeccompAction = SeccompAction.ERRNO


@dataclass(frozen=True)
class RequestLimits:
    """Most that the guest may ask of its worker: bytes and operations a second, None where it may ask at will.

    *burst*: for how long a rate may be saved up, in seconds. *max_delay*: a request that waits longer is told of.
    """

    read: int | None = None
    write: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None
    metadata_ops: int | None = None
    burst: float = 1.0
    max_delay: float = 5.0


@dataclass(frozen=True)
class DiskLimits:
    """Bytes and operations a second on each disk behind the share; *weight* among those who wait for it, 1 to 10000;
    *latency*, in seconds, is what its requests shall take at most, at the cost of groups that promise more.
    """

    read: int | None = None
    write: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None
    weight: int | None = None
    latency: float | None = None


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes: above *high* memory is taken back, above *max* there is none."""

    high: int | None = None
    max: int | None = None


@dataclass(frozen=True)
class CpuQuota:
    """Microseconds of processor time in every *period* of so many microseconds, of all processors together."""

    quota: int
    period: int

    def __str__(self) -> str:
        return f"{self.quota}us/{self.period}us"


@dataclass(frozen=True)
class CpuLimits:
    """*weight* among those who wait for a processor, 1 to 10000."""

    max: CpuQuota | None = None
    weight: int | None = None


@dataclass(frozen=True)
class ControlLimits:
    """What the processes of a share may take of the host, held by control groups. None: no limit.

    *pids* is the most processes and threads; *parent* the group to make the share's below, as /proc/PID/cgroup has it.
    """

    disk: DiskLimits = DiskLimits()
    memory: MemoryLimits = MemoryLimits()
    cpu: CpuLimits = CpuLimits()
    pids: int | None = None
    unenforceable: Unenforceable = Unenforceable.REFUSE
    parent: str | None = None


@dataclass(frozen=True)
class Rates:
    """Bytes and operations a second, None: no limit. A disk knows no metadata."""

    read: int | None = None
    write: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None
    metadata_ops: int | None = None


@dataclass(frozen=True)
class Membership:
    """The group of shares that one draws from by *weight*, 1 to 10000, and the budget of all of them together."""

    name: str
    weight: int
    requests: Rates
    disk: Rates


@dataclass(frozen=True)
class Program:
    """A virtiofsd that serves in the place of our own worker.

    *loader* runs it instead of the one that it names itself, with libraries from the directories *libraries* alone;
    None: as the system would. *arguments* are options of its own that no key of a policy stands for.
    """

    path: Path
    loader: Path | None = None
    libraries: tuple[Path, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Child:
    """One directory of a tree share, seen as *name* in the share's root."""

    name: str
    source: Path
    access: Access = Access.READ_WRITE


@dataclass(frozen=True)
class Share:
    """One directory, or a tree of several, under one tag.

    *name* stands in log lines; *source* is None exactly where *children* make the tree. *tag* is what the guest mounts
    by, 1 to 36 bytes of UTF-8 (virtio 1.3, section 5.11.4); *timeout* is how long the guest may cache names and
    attributes, in seconds, None by cache mode; *queues* is the number of request queues offered, 1 to 8; *max_clients*
    how many monitors are served at once, each in a jail of its own; *stuck_after* the seconds after which a request in
    flight makes its worker a stuck one, None never; *program* None: our own worker serves.
    """

    name: str
    source: Path | None
    tag: str
    access: Access = Access.READ_WRITE
    cache: CacheMode = CacheMode.AUTO
    timeout: float | None = None
    writeback: bool = False
    xattr: bool = False
    queues: int = 4
    log_level: LogLevel = LogLevel.INFO
    children: tuple[Child, ...] = ()
    paths: PathRules = PathRules()
    identity: Identity = Identity()
    sandbox: Sandbox = Sandbox()
    limits: RequestLimits | None = None
    control: ControlLimits = ControlLimits()
    group: Membership | None = None
    program: Program | None = None
    max_clients: int = 1
    stuck_after: float | None = 60.0

    def __post_init__(self) -> None:
        check_tag(self.tag)
        if not self.name or not self.name.isprintable():
            raise ShareError(f"share name {self.name!r}: printable characters are accepted, at least one")
        if (self.source is None) != bool(self.children):
            raise ShareError(f"share {self.name}: either one directory or a tree of several")
        if not 1 <= self.queues <= MAX_QUEUES:
            raise ShareError(f"{self.queues} queues: 1 to {MAX_QUEUES} are accepted")


def check_tag(tag: str) -> str:
    """Returns *tag*; ShareError when no guest could mount by it."""
    if not tag.isprintable():
        raise ShareError(f"tag {tag!r}: printable characters are accepted")
    if not 1 <= len(tag.encode()) <= MAX_TAG_BYTES:
        raise ShareError(f"tag {tag!r} has {len(tag.encode())} bytes: 1 to {MAX_TAG_BYTES} are accepted")
    return tag


def tag_of(directory: Path) -> str:
    """A tag for *directory* where nobody chose one: its name, as far as a tag takes it."""
    name = "".join(character if character.isprintable() else "_" for character in directory.name)
    return name.encode(errors="replace")[:MAX_TAG_BYTES].decode(errors="ignore") or "root"


def resolve_source(directory: Path) -> Path:
    """The absolute path of *directory* without symbolic links; ShareError when it is none or cannot be entered."""
    try:
        resolved = directory.resolve(strict=True)
        if not resolved.is_dir():
            raise ShareError(f"share directory {directory}: it is no directory; share the directory that holds it")
    except OSError as error:
        hint = "create it first" if isinstance(error, FileNotFoundError) else "see its path and permissions"
        raise ShareError(f"share directory {directory}: {error.strerror}; {hint}") from error
    except RuntimeError as error:
        raise ShareError(f"share directory {directory}: symbolic links lead in a circle") from error
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise ShareError(f"share directory {directory}: no permission to list it; run as somebody who may")
    return resolved
