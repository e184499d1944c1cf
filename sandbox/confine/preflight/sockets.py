"""Whether the socket can be made, and reached by whom it is for. Nobody is connected to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.confine.capabilities import Capability, mask
from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.confine.preflight.subject import Subject
from virtiofs_sandbox.policies.policy import QEMU_MAX_PATH, Socket
from virtiofs_sandbox.syscalls import labels
from virtiofs_sandbox.syscalls.listening import listened_on

_ROOT = 0


def sockets(subject: Subject) -> Iterator[Finding]:
    """Everything about the socket; nothing where an inherited one is used."""
    wanted = subject.socket
    if wanted is None:
        return
    length = len(os.fsencode(wanted.path))
    if length > QEMU_MAX_PATH:
        yield _finding(
            Severity.WARNING,
            "socket-path-long",
            wanted,
            f"{wanted.path} has {length} bytes; QEMU takes at most {QEMU_MAX_PATH}",
            "choose a shorter path",
        )
    directory = wanted.path.parent
    if not directory.is_dir():
        yield _finding(
            Severity.ERROR,
            "socket-directory-missing",
            wanted,
            f"{directory} does not exist, or is no directory",
            "create it (RuntimeDirectory= in a unit, a tmpfiles.d line)",
        )
        return
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        yield _finding(
            Severity.ERROR,
            "socket-directory-closed",
            wanted,
            f"uid {os.geteuid()} may not create {wanted.path.name} in {directory}",
            "give that user write permission on the directory, or choose another",
        )
    yield from _shared_directory(directory, wanted)
    yield from _owner(subject, wanted)
    yield from _group(subject, wanted)
    yield from _label(wanted)
    yield from _occupant(wanted)


def _shared_directory(directory: Path, wanted: Socket) -> Iterator[Finding]:
    mode = directory.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        yield _finding(
            Severity.WARNING,
            "socket-directory-open",
            wanted,
            f"everybody may write to {directory}: anybody can put a socket of their own in place of this one",
            f"chmod o-w {directory}",
        )


def _owner(subject: Subject, wanted: Socket) -> Iterator[Finding]:
    if wanted.owner not in (None, os.geteuid()) and not subject.host.capabilities & mask(Capability.CHOWN):
        yield _finding(
            Severity.ERROR,
            "socket-owner",
            wanted,
            f"uid {os.geteuid()} may not give the socket to user {wanted.owner}: that takes CAP_CHOWN",
            "run as root, or leave the owner out and name a group",
            key="share.socket.owner",
        )


def _label(wanted: Socket) -> Iterator[Finding]:
    if wanted.label is not None and not labels.is_enabled():
        yield _finding(
            Severity.ERROR,
            "socket-label",
            wanted,
            f"the socket cannot be labelled {wanted.label}: SELinux is off on this machine",
            "take the label out",
            key="share.socket.label",
        )


def _group(subject: Subject, wanted: Socket) -> Iterator[Finding]:
    if wanted.group is None:
        return
    ours = subject.groups | {os.getegid()}
    if os.geteuid() != _ROOT and wanted.group not in ours:
        yield _finding(
            Severity.ERROR,
            "socket-group",
            wanted,
            f"uid {os.geteuid()} may not give the socket to group {wanted.group}: it is no member",
            "name a group that the user is a member of, or run as root",
            key="share.socket.group",
        )
    for directory in reversed(wanted.path.parents):
        state = directory.stat()
        if not state.st_mode & stat.S_IXOTH and not (state.st_gid == wanted.group and state.st_mode & stat.S_IXGRP):
            yield _finding(
                Severity.WARNING,
                "socket-unreachable",
                wanted,
                f"members of group {wanted.group} cannot pass through {directory} ({stat.filemode(state.st_mode)})",
                f"chmod o+x {directory}, or put the socket elsewhere",
                key="share.socket.group",
            )
            return


def _occupant(wanted: Socket) -> Iterator[Finding]:
    try:
        mode = os.lstat(wanted.path).st_mode
    except (FileNotFoundError, PermissionError):
        # A directory that may not be searched is a finding of its own.
        return
    if not stat.S_ISSOCK(mode):
        yield _finding(
            Severity.ERROR,
            "socket-no-socket",
            wanted,
            f"{wanted.path} is a file that is no socket; it is not replaced",
            "remove it, or choose another path",
        )
        return
    try:
        used = listened_on(os.fspath(wanted.path))
    except OSError as error:
        yield _finding(
            Severity.NOTE,
            "socket-uncertain",
            wanted,
            f"{wanted.path} is there, and the kernel does not say whether it is in use: {error.strerror}",
            "nothing: a start finds out by connecting",
        )
        return
    if used:
        yield _finding(
            Severity.ERROR,
            "socket-in-use",
            wanted,
            f"a process listens on {wanted.path}: another start on it fails",
            "if that process is this share, nothing; else end it or choose another path",
        )
    else:
        yield _finding(
            Severity.NOTE,
            "socket-stale",
            wanted,
            f"{wanted.path} is a socket on which nobody in this network namespace listens",
            "nothing: a start replaces it",
        )


def _finding(
    severity: Severity, kind: str, wanted: Socket, what: str, todo: str, *, key: str = "share.socket"
) -> Finding:
    return Finding(severity, kind, what, todo, key, str(wanted.path))
