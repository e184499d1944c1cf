"""A policy file as it is written: its tables and keys, each with what it says and what it may be.

The JSON Schema for editors, the reference in docs/policies.md and the checks of the loader all come from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, UnsetType
from virtiofs_sandbox.policies import programs, values
from virtiofs_sandbox.policies.limittables import DiskRatesTable, LimitsTable, RequestRatesTable
from virtiofs_sandbox.policies.share import MAX_CLIENTS, MAX_QUEUES
from virtiofs_sandbox.policies.table import Table, key

DEFAULT_WARM = 32
MAX_WARM = 4096


_ACCESS = '"read-only" or "read-write"'
_PATTERNS = "a list of patterns, as docs/policies.md defines them"


class SocketTable(Table, frozen=True):
    """Where a monitor connects, and who may."""

    path: Annotated[
        str | UnsetType,
        key(
            "The vhost-user socket to make and listen on.",
            "an absolute path",
            "/run/virtiofs-sandbox/NAME.sock, for a user $XDG_RUNTIME_DIR/virtiofs-sandbox/NAME.sock",
            parse=values.absolute_path,
        ),
    ] = UNSET
    mode: Annotated[
        str | UnsetType, key("Permissions of the socket.", 'octal, as in "0660"', '"0660"', parse=values.mode)
    ] = UNSET
    group: Annotated[
        str | int | UnsetType,
        key("Group of the socket.", "a group's name or number", "the caller's", parse=values.group),
    ] = UNSET
    owner: Annotated[
        str | int | UnsetType,
        key(
            "Owner of the socket. Only root can give it away.",
            "a user's name or number",
            "the caller",
            parse=values.user,
        ),
    ] = UNSET
    label: Annotated[
        str | UnsetType,
        key(
            "SELinux label of the socket's file, as ls -Z shows it. Refused where SELinux is off.",
            'a context, as in "system_u:object_r:svirt_image_t:s0"',
            "by the machine's policy",
            parse=values.label,
        ),
    ] = UNSET


class ChildTable(Table, frozen=True):
    """One directory of a tree."""

    source: Annotated[
        str | UnsetType, key("The directory.", "an absolute path", "none: needed", parse=values.absolute_path)
    ] = UNSET
    access: Annotated[
        Literal["read-only", "read-write"] | UnsetType,
        key("What the guest may do in it.", _ACCESS, "share.access"),
    ] = UNSET


class ShareTable(Table, frozen=True):
    """What is shared, and with whom."""

    source: Annotated[
        str | UnsetType,
        key("The directory to share.", "an absolute path", "none: this or tree is needed", parse=values.absolute_path),
    ] = UNSET
    tree: Annotated[
        dict[str, str | ChildTable] | UnsetType,
        key(
            "Several directories under one tag instead: the name each is seen by, and its path, "
            "or a table of source and access.",
            "a table of names and absolute paths, or of names and tables of source and access",
            "none: this or source is needed",
            each=values.child_name,
        ),
    ] = UNSET
    tag: Annotated[
        str | UnsetType,
        key("The name the guest mounts by.", "1 to 36 bytes of printable text", "none: needed", parse=values.tag),
    ] = UNSET
    access: Annotated[
        Literal["read-only", "read-write"] | UnsetType,
        key("What the guest may do at most.", _ACCESS, '"read-write"'),
    ] = UNSET
    socket: Annotated[
        str | SocketTable | UnsetType,
        key(
            "Where a monitor connects: a path, or a table of path, mode, owner, group and label.",
            "an absolute path, or a table of path, mode, owner, group and label",
            "each as below",
            parse=values.absolute_path,
        ),
    ] = UNSET
    max_clients: Annotated[
        int | UnsetType,
        key(
            "How many monitors are served at once, each in a jail of its own. They divide the limits on requests.",
            f"1 to {MAX_CLIENTS}",
            "1",
            parse=values.between(1, MAX_CLIENTS),
            minimum=1,
            maximum=MAX_CLIENTS,
        ),
    ] = UNSET
    xattr: Annotated[
        bool | UnsetType, key("Whether the guest may use extended attributes.", "true or false", "false")
    ] = UNSET
    log_level: Annotated[
        Literal["error", "warning", "info", "debug"] | UnsetType,
        key("What is logged.", '"error", "warning", "info" or "debug"', '"info"'),
    ] = UNSET
    vms: Annotated[
        tuple[str, ...] | UnsetType,
        key(
            "Which virtual machines it is for, where it is started by virtiofsd's command line: their names, "
            "in which * and ? stand for others (docs/compatibility.md).",
            "a list of names",
            "any",
            each=values.machine,
        ),
    ] = UNSET
    listen: Annotated[
        Literal["persistent", "once"] | UnsetType,
        key(
            "Whether it stays once its client has left, where it is started by virtiofsd's command line. "
            "Everything else stays.",
            '"persistent" or "once"',
            '"once"',
        ),
    ] = UNSET


class CacheTable(Table, frozen=True):
    """What the guest may keep in its memory: who else changes the files, or the expert form."""

    intent: Annotated[
        Literal["exclusive", "shared-read", "shared-write"] | UnsetType,
        key(
            "Who uses the files: nobody but this guest; others too, and they change little; others who write. "
            "Means mode always and writeback, mode auto, mode never.",
            '"exclusive", "shared-read" or "shared-write"',
            "none: mode holds",
        ),
    ] = UNSET
    mode: Annotated[
        Literal["never", "auto", "metadata", "always"] | UnsetType,
        key(
            "The same, in the terms of the protocol. Not beside intent.",
            '"never", "auto", "metadata" or "always"',
            '"auto"',
        ),
    ] = UNSET
    writeback: Annotated[
        bool | UnsetType,
        key(
            "Whether the guest may keep what it wrote for a while. Not with mode never nor a shared intent.",
            "true or false",
            "by intent, else false",
        ),
    ] = UNSET
    timeout: Annotated[
        str | UnsetType,
        key(
            "How long the guest may rely on names and attributes.",
            'a duration with its unit, "0s" to "24h", as in "500ms"',
            "by mode: 0s (never), 1s (auto), 24h (metadata, always)",
            parse=values.duration,
            pattern=r"^[0-9]+(\.[0-9]{1,3})?(ms|s|m|h)$",
        ),
    ] = UNSET


class RangeTable(Table, frozen=True):
    """A range of ids of the host."""

    first: Annotated[
        int | UnsetType,
        key(
            "The host id of the guest's id 0.",
            f"1 to {values.MAX_ID}",
            "none: needed",
            parse=values.between(1, values.MAX_ID),
            minimum=1,
            maximum=values.MAX_ID,
        ),
    ] = UNSET
    count: Annotated[
        int | UnsetType,
        key(
            "How many ids there are.",
            f"1 to {values.MAX_ID}",
            "none: needed",
            parse=values.between(1, values.MAX_ID),
            minimum=1,
            maximum=values.MAX_ID,
        ),
    ] = UNSET


class IdentityTable(Table, frozen=True):
    """Whom files belong to."""

    map: Annotated[
        Literal["identity", "squash", "range"] | UnsetType,
        key(
            "The guest's ids are the host's; everything belongs to one owner; "
            "the guest's ids are a range of the host's.",
            '"identity", "squash" or "range"',
            "identity where all ids can be mapped, else squash to the caller",
        ),
    ] = UNSET
    owner: Annotated[
        str | UnsetType,
        key(
            "The owner of everything, with map squash.",
            '"USER:GROUP", by name or number',
            "the caller",
            parse=values.owner,
        ),
    ] = UNSET
    range: Annotated[
        Literal["subuid"] | RangeTable | UnsetType,
        key(
            "The host's ids, with map range: the caller's in /etc/subuid and /etc/subgid, "
            "or a table of first and count.",
            '"subuid", or a table of first and count',
            '"subuid"',
        ),
    ] = UNSET
    idmapped: Annotated[
        bool | UnsetType,
        key("Whether files of a range are stored with the guest's own ids.", "true or false", "false"),
    ] = UNSET
    unmapped: Annotated[
        Literal["forbid", "squash"] | UnsetType,
        key(
            "What a caller in the guest gets whose id has no mapping: nothing created, or as the worker's own.",
            '"forbid" or "squash"',
            '"forbid"',
        ),
    ] = UNSET


class PathsTable(Table, frozen=True):
    """Which names the guest sees, and which it may change."""

    hide: Annotated[
        tuple[str, ...] | UnsetType,
        key("What the guest does not see.", _PATTERNS, "nothing", each=values.pattern),
    ] = UNSET
    readonly: Annotated[
        tuple[str, ...] | UnsetType,
        key("What the guest cannot change.", _PATTERNS, "nothing", each=values.pattern),
    ] = UNSET
    allow: Annotated[
        tuple[str, ...] | UnsetType,
        key("If there is any: all that the guest sees.", _PATTERNS, "everything", each=values.pattern),
    ] = UNSET
    case: Annotated[
        Literal["sensitive", "insensitive"] | UnsetType,
        key("Whether patterns tell capitals from small letters.", '"sensitive" or "insensitive"', '"sensitive"'),
    ] = UNSET
    strict_links: Annotated[
        bool | UnsetType,
        key(
            "Whether a file with several names is never written where there are patterns: the others cannot be seen.",
            "true or false",
            "false",
        ),
    ] = UNSET


class SandboxTable(Table, frozen=True):
    """How much of the jail there must be."""

    minimum: Annotated[
        Literal["full", "userns", "bare"] | UnsetType,
        key("Below this tier the share does not start.", '"full", "userns" or "bare"', '"userns"'),
    ] = UNSET
    seccomp: Annotated[
        Literal["errno", "kill", "log"] | UnsetType,
        key(
            "What a system call outside the list gets: an error, death, or (for diagnosis) only a record.",
            '"errno", "kill" or "log"',
            '"errno"',
        ),
    ] = UNSET


class ProgramTable(Table, frozen=True):
    """Another program as the worker."""

    path: Annotated[
        str | UnsetType,
        key("The program, a virtiofsd.", "an absolute path", "none: needed", parse=values.absolute_path),
    ] = UNSET
    loader: Annotated[
        str | UnsetType,
        key(
            "The dynamic loader that runs it, for a copy that is not the system's own.",
            "an absolute path",
            "the one that the program names",
            parse=values.absolute_path,
        ),
    ] = UNSET
    libraries: Annotated[
        tuple[str, ...] | UnsetType,
        key(
            "With a loader: the directories of its libraries.",
            "a list of absolute paths",
            "none",
            each=values.absolute_path,
        ),
    ] = UNSET
    arguments: Annotated[
        tuple[str, ...] | UnsetType,
        key(
            "Options of its own that no other key stands for.",
            f"a list of {programs.ACCEPTED}",
            "none",
            each=programs.argument,
        ),
    ] = UNSET


class WorkerTable(Table, frozen=True):
    """How the worker works."""

    program: Annotated[
        str | ProgramTable | UnsetType,
        key(
            "A virtiofsd to serve the share in the jail, instead of the worker that comes with this package.",
            "an absolute path, or a table of path, loader, libraries and arguments",
            "none: our own worker",
            parse=values.absolute_path,
        ),
    ] = UNSET

    queues: Annotated[
        int | UnsetType,
        key(
            "Request queues offered to the guest.",
            f"1 to {MAX_QUEUES}",
            "4",
            parse=values.between(1, MAX_QUEUES),
            minimum=1,
            maximum=MAX_QUEUES,
        ),
    ] = UNSET
    stuck_after: Annotated[
        str | UnsetType,
        key(
            "A worker with a request in flight for longer is stuck: told of, and replaced unless the kernel waits for "
            "the storage on its behalf.",
            'a duration, "10s" to "24h", or "never"',
            '"60s"',
            parse=values.stuck_after,
        ),
    ] = UNSET


class SiteTable(Table, frozen=True):
    """What holds for this machine. Only in defaults.toml."""

    require_policy: Annotated[
        bool | UnsetType,
        key("Whether nothing is shared that no policy file speaks of.", "true or false", "false"),
    ] = UNSET
    warm: Annotated[
        int | UnsetType,
        key(
            "How many shares of one serve keep a worker warm for a client that has not come, last used first. "
            "The others launch when one connects.",
            f"0 to {MAX_WARM}",
            str(DEFAULT_WARM),
            parse=values.between(0, MAX_WARM),
            minimum=0,
            maximum=MAX_WARM,
        ),
    ] = UNSET
    metrics: Annotated[
        str | UnsetType,
        key(
            "Where serve tells Prometheus how its shares are: a socket that it makes (mode 0660), or a port that only "
            "this machine reaches. Read when it starts.",
            'an absolute path, "127.0.0.1:PORT" or "[::1]:PORT"',
            "nowhere",
            parse=values.metrics_address,
        ),
    ] = UNSET


class BudgetTable(Table, frozen=True):
    """What the shares of a group may use up together."""

    requests: RequestRatesTable | UnsetType = UNSET
    disk: DiskRatesTable | UnsetType = UNSET


class Document(Table, frozen=True):
    """A share with virtiofs-sandbox, as docs/policies.md describes it."""

    include: Annotated[
        tuple[str, ...] | UnsetType,
        key(
            "Files whose values hold where this one says nothing; later ones win over earlier ones.",
            "a list of paths, relative to this file",
            "none",
        ),
    ] = UNSET
    share: ShareTable | UnsetType = UNSET
    cache: CacheTable | UnsetType = UNSET
    identity: IdentityTable | UnsetType = UNSET
    paths: PathsTable | UnsetType = UNSET
    limits: LimitsTable | UnsetType = UNSET
    sandbox: SandboxTable | UnsetType = UNSET
    worker: WorkerTable | UnsetType = UNSET
    site: SiteTable | UnsetType = UNSET
    groups: Annotated[
        dict[str, BudgetTable] | UnsetType,
        key(
            "Budgets by name, each for all shares that name it in limits.group. Only in defaults.toml.",
            "for each name a table of requests and disk",
            "none",
            each=values.group_name,
        ),
    ] = UNSET


# Known, and refused by name until the mechanism behind it is there. A table's name stands for everything in it.
RESERVED = {
    "limits.open_files": "a limit on open files",
    "share.posix_acl": "POSIX access control lists",
    "share.xattrmap": "other names for extended attributes",
    "share.security_label": "labels that guests give to new files",
    "share.immutable": "a promise that nobody changes the files",
    "share.submounts": "telling the guest of file systems mounted in the share",
    "cache.direct_io": "files that bypass the guest's cache",
    "cache.dax": "a window of shared memory",
    "cache.immutable": "a promise that nobody changes the files",
    "identity.translate": "rules that translate single ids",
    "sandbox.user_namespace": "a jail in the host's own user namespace",
    "sandbox.layers": "layers beyond the standard ones",
    "sandbox.capabilities": "more capabilities for the worker",
    "worker.poll_budget": "polling of the rings",
    "worker.inode_references": "another way to keep inodes",
    "worker.inode_file_handles": "file handles instead of descriptors",
    "worker.lock_wait": "locks shared with the host",
    "worker.shared_locks": "locks shared with the host",
    "worker.restart": "restarts of the worker below a running guest",
}
