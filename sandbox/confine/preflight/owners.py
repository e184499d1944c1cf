"""Whose files are there, and which operation fails for whom: ids without a mapping, modes that keep the worker out."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from virtiofs_sandbox.confine.preflight.directories import directories
from virtiofs_sandbox.confine.preflight.finding import Examples, Finding, Severity
from virtiofs_sandbox.confine.preflight.subject import Identities, Subject, inside
from virtiofs_sandbox.confine.preflight.walk import Entry
from virtiofs_sandbox.policies.share import Unmapped

READ, WRITE, SEARCH = 4, 2, 1
_OVERFLOW = 65534
_ADVICE = (
    "map it: run as root (identity), or give the range that holds it (identity.map); or chown the files to a mapped id"
)


class Owners:
    """Files whose owner or group the jail does not know."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._writable: dict[tuple[str, int], Examples] = {}
        self._readable: dict[tuple[str, int], Examples] = {}

    def see(self, entry: Entry) -> None:
        state = entry.state
        table = self._writable if entry.directory.writable and not entry.frozen else self._readable
        if not self._identities.maps_uid(state.st_uid):
            table.setdefault(("uid", state.st_uid), Examples()).add(entry.shown)
        if not self._identities.maps_gid(state.st_gid):
            table.setdefault(("gid", state.st_gid), Examples()).add(entry.shown)

    def findings(self) -> Iterator[Finding]:
        for (kind, number), names in sorted(self._writable.items()):
            fails = "chown, chmod and utimes" if kind == "uid" else "chgrp"
            yield Finding(
                Severity.ERROR,
                f"unmapped-{kind}",
                f"{fails} of {names} by the guest: EPERM, {kind} {number} has no mapping (shown as {_OVERFLOW})",
                _ADVICE,
                "identity.map",
            )
        for (kind, number), names in sorted(self._readable.items()):
            yield Finding(
                Severity.NOTE,
                f"unmapped-{kind}",
                f"{kind} {number} of {names} has no mapping: the guest sees it as {_OVERFLOW}",
                _ADVICE,
                "identity.map",
            )


class Rights:
    """Files and directories that the worker itself may not read, write or enter, whatever the guest's ids."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._found: dict[str, Examples] = {}

    def see(self, entry: Entry) -> None:
        mode = entry.state.st_mode
        writable = entry.directory.writable and not entry.frozen
        if stat.S_ISDIR(mode):
            if not self._identities.may(entry.state, READ | SEARCH):
                self._add("READDIR and LOOKUP", entry)
            elif writable and not self._identities.may(entry.state, WRITE | SEARCH):
                self._add("create, rename and unlink", entry)
        elif stat.S_ISREG(mode):
            if not self._identities.may(entry.state, READ):
                self._add("READ", entry)
            if writable and not self._identities.may(entry.state, WRITE):
                self._add("WRITE", entry)

    def findings(self) -> Iterator[Finding]:
        for operation, names in sorted(self._found.items()):
            place = "in " if "create" in operation else "of "
            yield Finding(
                Severity.ERROR,
                "unreadable" if operation in ("READ", "READDIR and LOOKUP") else "unwritable",
                f"{operation} {place}{names} by the guest: EACCES, the worker (uid {self._identities.uid}) may not, "
                "by mode and owner",
                "give the worker's uid or group the right, hide them (paths.hide), or run as root",
                "share.source",
            )

    def _add(self, operation: str, entry: Entry) -> None:
        self._found.setdefault(operation, Examples()).add(entry.shown)


def guests(subject: Subject) -> Iterator[Finding]:
    """What becomes of the creations of the guest ids that were asked about."""
    plan, share = subject.plan, subject.share
    if plan is None or not any(directory.writable for directory in directories(share)):
        return
    identities = Identities.of(plan, subject.host, subject.groups)
    if identities.everything:
        return
    for number in subject.bounds.guest_ids:
        if inside(identities.uids, number) and inside(identities.gids, number):
            continue
        if share.identity.unmapped is Unmapped.FORBID and plan.ids == "caller":
            yield Finding(
                Severity.ERROR,
                "unmapped-guest",
                f"create as uid {number} in any directory by the guest: EPERM, the map has no such id",
                'let its files be the worker\'s own (identity.unmapped = "squash"), or map more ids (identity.count)',
                "identity.unmapped",
            )
        else:
            yield Finding(
                Severity.NOTE,
                "squashed-guest",
                f"what uid {number} in the guest creates belongs to uid {identities.uid} on the host; "
                "chown to its own id: EPERM",
                "nothing, if that is meant; else map a range (identity.map), or run as root",
                "identity.map",
            )
