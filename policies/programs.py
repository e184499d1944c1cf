"""Another program as the worker: which options it may be given, and which keys of a policy it cannot carry out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from virtiofs_sandbox.policies.values import Refused, quoted

# Beside the thread that every request goes through there are three; a jail has 64 in all.
MAX_THREADS = 32
# Options of virtiofsd that no key stands for and that change nothing about the jail.
_SWITCHES = (
    "--allow-direct-io",
    "--allow-mmap",
    "--announce-submounts",
    "--killpriv-v2",
    "--no-announce-submounts",
    "--no-killpriv-v2",
    "--no-readdirplus",
    "--preserve-noatime",
)
_THREADS = re.compile(r"--thread-pool-size=([0-9]{1,3})")
ACCEPTED = f"{', '.join(_SWITCHES)}, --thread-pool-size=N (N up to {MAX_THREADS})"

# Keys that only our own worker can carry out, and why; for a table, whatever is said in it.
_OURS_ALONE: Mapping[str, str] = {
    "paths": "it knows no path rules: share a directory that holds nothing else",
    "limits.requests": "it counts no requests: limits.disk and limits.cpu hold for it too",
    "cache.timeout": "it has one time for each mode: never 0s, auto 1s, metadata and always 24h",
}


def argument(text: str) -> str:
    """One option for the program. Raises Refused."""
    threads = _THREADS.fullmatch(text)
    if text in _SWITCHES or (threads and int(threads[1]) <= MAX_THREADS):
        return text
    raise Refused(f"{quoted(text)} is none of the options that may be given; accepted: {ACCEPTED}")


def conflicts(said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the keys that a policy with a program says, those that the program cannot carry out: key and sentence."""
    for key, value in said.items():
        ours = next((table for table in _OURS_ALONE if f"{key}.".startswith(f"{table}.")), None)
        # What a key says by default asks for nothing.
        if ours is not None and value not in (False, [], "sensitive"):
            yield key, f"worker.program cannot carry it out: {_OURS_ALONE[ours]}"
    if said.get("worker.queues", 1) != 1:
        yield "worker.queues", "worker.program offers one request queue; accepted: 1"
    if said.get("worker.stuck_after", "never") != "never":
        yield "worker.stuck_after", 'worker.program does not say what it is at; accepted: "never"'
    if said.get("identity.unmapped") == "squash":
        yield "identity.unmapped", 'worker.program cannot carry it out; accepted: "forbid", or map = "squash"'
