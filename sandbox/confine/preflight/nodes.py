"""What lies in a share and is not served as it is on the host."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from virtiofs_sandbox.confine.preflight.finding import Examples, Finding, Severity
from virtiofs_sandbox.confine.preflight.walk import Entry

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Nodes:
    def __init__(self) -> None:
        self._set_id, self._devices, self._sockets, self._unlistable = (Examples() for _ in range(4))

    def see(self, entry: Entry) -> None:
        mode = entry.state.st_mode
        if stat.S_ISREG(mode) and mode & _SET_ID:
            self._set_id.add(f"{entry.shown} ({stat.filemode(mode)}, uid {entry.state.st_uid})")
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            self._devices.add(entry.shown)
        elif stat.S_ISSOCK(mode):
            self._sockets.add(entry.shown)
        if entry.refusal is not None:
            self._unlistable.add(f"{entry.shown} ({entry.refusal})")

    def findings(self) -> Iterator[Finding]:
        if self._set_id.count:
            yield Finding(
                Severity.WARNING,
                "set-id",
                f"set-user-ID or set-group-ID programs: {self._set_id}; the host never runs them from its mount, "
                "the guest may",
                "mount with nosuid in the guest, or take the bits away (chmod ug-s)",
                "share.source",
            )
        if self._devices.count:
            yield Finding(
                Severity.WARNING,
                "device",
                f"device nodes: {self._devices}; the worker opens none, in the guest they mean the guest's devices",
                "mount with nodev in the guest, or remove them",
                "share.source",
            )
        if self._sockets.count:
            yield Finding(
                Severity.NOTE,
                "socket-in-share",
                f"sockets: {self._sockets}; the guest sees the names and connects to nothing on the host",
                "nothing",
                "share.source",
            )
        if self._unlistable.count:
            yield Finding(
                Severity.WARNING,
                "unlistable",
                f"not looked into, since we may not list them: {self._unlistable}",
                "run check as the user the share is run by",
                "share.source",
            )
