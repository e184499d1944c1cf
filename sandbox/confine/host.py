"""What this host allows, found by trying it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HostProbe:
    """*landlock_abi* is 0 where Landlock is missing or switched off; *userns_errno* is 0 where user namespaces work."""

    kernel: str
    uid: int
    gid: int
    capabilities: int
    last_capability: int
    uid_map: bytes
    gid_map: bytes
    userns_errno: int
    landlock_abi: int
    nofile_hard: int
    nr_open: int


def probe_host() -> HostProbe:
    """Tries the features of the running kernel, in short-lived children where a try cannot be undone."""
    raise NotImplementedError
