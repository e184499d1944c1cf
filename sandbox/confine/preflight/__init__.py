"""Everything that will fail later, found before: by looking, never by changing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable

import msgspec
from virtiofs_sandbox.confine.features.trying import KilledError, SilentError, in_child
from virtiofs_sandbox.confine.preflight import filesystem, owners, promises, sockets, tree
from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.confine.preflight.neighbours import neighbours
from virtiofs_sandbox.confine.preflight.subject import Bounds, Subject

__all__ = ["Bounds", "Finding", "Severity", "Subject", "check", "neighbours"]

# Beside the time that the walk takes for itself.
_GRACE_SECONDS = 10.0

_LOOKS: dict[str, Callable[[Subject], Iterable[Finding]]] = {
    "the source": filesystem.sources,
    "the launch": promises.plan,
    "the socket": sockets.sockets,
    "the file system": filesystem.kinds,
    "the ids of guests": owners.guests,
    "the files": tree.tree,
}


def check(subject: Subject) -> tuple[Finding, ...]:
    """All findings, the worst first. A look that does not end (a dead file server) is itself a finding.

    Forks: to be called while the process has one thread.
    """
    found = [finding for name, look in _LOOKS.items() for finding in _looked(name, look, subject)]
    return tuple(sorted(found, key=lambda finding: finding.severity.rank))


def _looked(name: str, look: Callable[[Subject], Iterable[Finding]], subject: Subject) -> list[Finding]:
    def attempt() -> bytes:
        found: list[Finding] = []
        try:
            found.extend(look(subject))
        except OSError as error:
            found.append(_incomplete(name, str(error)))
        return msgspec.json.encode(found)

    try:
        return msgspec.json.decode(in_child(attempt, subject.bounds.seconds + _GRACE_SECONDS), type=list[Finding])
    except SilentError as silence:
        return [_incomplete(name, f"{silence}; a file server that is gone, most likely")]
    except KilledError as death:
        return [_incomplete(name, f"it was killed by {signal.Signals(death.number).name}")]


def _incomplete(name: str, why: str) -> Finding:
    return Finding(
        Severity.ERROR, "look-failed", f"the look at {name} did not come to its end: {why}", "try it by hand: ls, stat"
    )
