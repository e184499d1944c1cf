"""A policy: one share, where it is offered, and which file said what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.policies.problems import Origin
from virtiofs_sandbox.policies.share import Share

DEFAULT_MODE = 0o660
# sun_path holds 108 bytes; QEMU wants the last one for a NUL.
QEMU_MAX_PATH = 107


@dataclass(frozen=True)
class Socket:
    """The vhost-user socket to make. *owner* and *group* are a uid and a gid, None leaves the caller's; *label* is an
    SELinux context, None leaves it to the machine's policy.
    """

    path: Path
    mode: int = DEFAULT_MODE
    group: int | None = None
    owner: int | None = None
    label: str | None = None


@dataclass(frozen=True)
class Policy:
    """What one file says of one share, with everything it did not say filled in.

    *intent* is the cache intent if one was named: share.cache and share.writeback follow from it. *origins* has every
    key that a file set, dotted as in "cache.mode"; what is not in it is a built-in default. *vms* are patterns for
    names of virtual machines, none for any; *persistent* is None where it is not said.
    """

    share: Share
    socket: Socket
    file: Path
    origins: Mapping[str, Origin]
    intent: str | None = None
    vms: tuple[str, ...] = ()
    persistent: bool | None = None

    @property
    def name(self) -> str:
        return self.share.name

    def origin(self, key: str) -> Origin:
        """Where *key* was said; what follows from an intent, where the intent was named."""
        if key in ("cache.mode", "cache.writeback") and key not in self.origins and self.intent is not None:
            key = "cache.intent"
        return self.origins.get(key, Origin())

    @property
    def directories(self) -> tuple[tuple[str, Path, bool], ...]:
        """What of the host is shared: key, path, and whether the guest may write."""
        share = self.share
        writable = share.access.value == "read-write"
        if share.source is not None:
            return (("share.source", share.source, writable),)
        return tuple(
            (f"share.tree.{child.name}", child.source, writable and child.access.value == "read-write")
            for child in share.children
        )
