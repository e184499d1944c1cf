"""Whether the source can be shared at all, and what its file system does not do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine.preflight.directories import directories
from virtiofs_sandbox.confine.preflight.finding import Examples, Finding, Severity
from virtiofs_sandbox.confine.preflight.subject import Directory, Identities, Subject
from virtiofs_sandbox.policies.share import CacheMode, Share
from virtiofs_sandbox.syscalls import files


@dataclass(frozen=True)
class _Kind:
    severity: Severity
    name: str
    what: str
    todo: str


_REMOTE = _Kind(
    Severity.WARNING,
    "network-file-system",
    "errors of writing may come late, at close; other hosts' changes are seen late; the server may refuse what the "
    "worker's capabilities allow (root squash), and keeps access times by its own rule",
    "try what the guest needs as the worker's uid",
)
_VOLATILE = _Kind(
    Severity.NOTE,
    "volatile-file-system",
    "its content is in memory and gone with the machine's next start",
    "nothing, if that is meant",
)
_LAYERED = _Kind(
    Severity.NOTE,
    "overlay-file-system",
    "the first write copies a file up: a handle opened for reading before shows the old content",
    "nothing; share the directory below the overlay for the exact behaviour of a disk",
)
_WITHOUT_OWNERS = _Kind(
    Severity.ERROR,
    "no-owners",
    "it keeps no owners, links or special files: chown, symlink, link and mknod by the guest: EPERM",
    "use a file system with owners",
)
_CACHING = frozenset({CacheMode.METADATA, CacheMode.ALWAYS})
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "lustre", "glusterfs", "virtiofs"})
_KINDS = {
    **dict.fromkeys(_NETWORK, _REMOTE),
    **dict.fromkeys(("tmpfs", "ramfs"), _VOLATILE),
    "overlay": _LAYERED,
    **dict.fromkeys(("vfat", "msdos", "exfat"), _WITHOUT_OWNERS),
}


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo. proc_pid_mountinfo(5)."""

    number: int
    point: str
    options: frozenset[str]
    kind: str
    super_options: frozenset[str]


def sources(subject: Subject) -> Iterator[Finding]:
    """Each directory: there, a directory, entered and listed by us, who build the jail."""
    for directory in directories(subject.share):
        finding = _enter(directory)
        if finding is not None:
            yield finding


def kinds(subject: Subject) -> Iterator[Finding]:
    """What follows from the kind of file system under each directory, and from mounts inside."""
    mounts = mountinfo()
    plan = subject.plan
    worker = subject.host.uid if plan is None else Identities.of(plan, subject.host, subject.groups).uid
    for directory in directories(subject.share):
        path = directory.path
        if not path.is_dir():
            continue
        facts = files.facts(os.fsencode(path))
        mount = next((mount for mount in mounts if mount.number == facts.mount), None)
        if mount is not None:
            yield from consequences(directory, mount, subject.share, worker)
        yield from telling_apart(directory, birth_times=facts.birth_ns is not None, handles=_has_handles(path))
        if subject.share.xattr:
            yield from _attributes(directory)
        yield from _mounted_inside(directory, mounts)


def mountinfo() -> tuple[Mount, ...]:
    """The mounts that we see. Raises OSError."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        options = frozenset(fields[5].split(","))
        found.append(Mount(int(fields[0]), _unescaped(fields[4]), options, rest[0], frozenset(rest[-1].split(","))))
    return tuple(found)


def _enter(directory: Directory) -> Finding | None:
    path, key = directory.path, directory.key
    hint = "correct the path, or create the directory"
    try:
        if not path.is_dir():
            os.stat(path)
            return Finding(
                Severity.ERROR,
                "source-no-directory",
                f"{path} is no directory",
                "share the directory that holds it",
                key,
                str(path),
            )
        os.listdir(path)
    except FileNotFoundError:
        return Finding(Severity.ERROR, "source-missing", f"{path} does not exist", hint, key, str(path))
    except OSError as error:
        what = f"{path} cannot be entered and listed by uid {os.geteuid()}: {error.strerror}"
        return Finding(
            Severity.ERROR,
            "source-closed",
            what,
            "give that user the right on it and on every directory above, or run as root",
            key,
            str(path),
        )
    if path.is_symlink():
        return Finding(
            Severity.NOTE,
            "source-link",
            f"{path} is a symbolic link to {path.resolve()}",
            "nothing; the directory is taken when the share starts",
            key,
            str(path),
        )
    return None


def consequences(directory: Directory, mount: Mount, share: Share, worker: int) -> Iterator[Finding]:
    """What *mount*, on which the directory lies, does otherwise than a local disk; *worker* is the worker's uid."""
    path = directory.path
    if directory.writable and "ro" in mount.options | mount.super_options:
        yield Finding(
            Severity.ERROR,
            "source-read-only",
            f"{path} is mounted read-only: every change by the guest: EROFS",
            'mount it read-write, or say access = "read-only"',
            "share.access",
            str(path),
        )
    if mount.kind in _NETWORK and share.cache in _CACHING:
        yield Finding(
            Severity.WARNING,
            "cache-over-network",
            f"{path} is on {mount.kind}: cache {share.cache.value} keeps showing what other hosts have changed",
            'cache.mode = "auto" or "never"',
            "cache.mode",
            str(path),
        )
    known = _KINDS.get(mount.kind) or _fuse(mount, worker)
    if known is not None:
        severity = Severity.NOTE if known is _WITHOUT_OWNERS and not directory.writable else known.severity
        what = f"{path} is on {mount.kind}: {known.what}"
        yield Finding(severity, known.name, what, known.todo, directory.key, str(path))


def _fuse(mount: Mount, worker: int) -> _Kind | None:
    """fuse_allow_current_process() of the kernel admits the mounting user, and everybody only with allow_other."""
    if not mount.kind.startswith("fuse"):
        return None
    if mount.super_options & {"allow_other", f"user_id={worker}"}:
        return _Kind(
            Severity.WARNING,
            "fuse-file-system",
            "its daemon answers every request, and errors of writing may come late, at close",
            "nothing; a daemon that hangs makes the guest hang",
        )
    return _Kind(
        Severity.ERROR,
        "fuse-closed",
        f"mounted without allow_other by another user: every access by the worker (uid {worker}): EACCES",
        "mount it with allow_other, or run as the user who mounted it",
    )


def telling_apart(directory: Directory, *, birth_times: bool, handles: bool) -> Iterator[Finding]:
    """What it costs to tell a file from a later one with its inode number, where one of the two means is missing."""
    path = str(directory.path)
    if not birth_times and not handles:
        yield Finding(
            Severity.WARNING,
            "no-identity",
            f"{path} has neither birth times nor file handles: every file that the guest knows costs a descriptor",
            "raise the limit of open files, or share another file system",
            directory.key,
            path,
        )
    elif not birth_times:
        yield Finding(
            Severity.NOTE,
            "no-birth-times",
            f"{path} has no birth times: files are told apart by handle, at about a microsecond each",
            "nothing",
            directory.key,
            path,
        )
    elif not handles:
        yield Finding(
            Severity.NOTE,
            "no-handles",
            f"{path} has no file handles: a file so young that its birth time may be another's costs a descriptor",
            "nothing",
            directory.key,
            path,
        )


def _has_handles(path: Path) -> bool:
    try:
        files.file_handle(os.fsencode(path))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS):
            raise
        return False
    return True


def _attributes(directory: Directory) -> Iterator[Finding]:
    try:
        os.listxattr(directory.path)
        os.getxattr(directory.path, "user.virtiofs-sandbox.none")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            yield Finding(
                Severity.ERROR,
                "no-xattr",
                f"extended attributes on {directory.path}: EOPNOTSUPP for every user attribute",
                "leave share.xattr out, or use a file system with user attributes",
                "share.xattr",
                str(directory.path),
            )
        elif error.errno not in (errno.ENODATA, errno.EACCES, errno.EPERM):
            raise


def _mounted_inside(directory: Directory, mounts: tuple[Mount, ...]) -> Iterator[Finding]:
    root = str(directory.path.resolve()).rstrip("/")
    found = Examples()
    for mount in sorted(mounts, key=lambda mount: mount.point):
        if mount.point.startswith(f"{root}/"):
            found.add(f"{mount.point} ({mount.kind})")
    if found.count:
        yield Finding(
            Severity.NOTE,
            "mounts-inside",
            f"mounted inside, and shared as they are now: {found}",
            "unmount what the guest is not to see; what is mounted later is not seen by a running jail",
            directory.key,
            str(directory.path),
        )


def _unescaped(field: str) -> str:
    """Blank, tab, newline and backslash are octal in mountinfo."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field
