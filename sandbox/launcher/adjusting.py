"""Changes to the mounts of a running jail, made from outside by a process of its own.

The keeper and the worker inside may be an attacker's. So the process enters namespaces only after comparing them with
those the jail was built with, uses no path of theirs but the fixed ones of their root, and follows no link below it.
Nobody inside sees it: it stays outside of their pid namespace.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from virtiofs_sandbox.confine.plan import MountAction, MountChange
from virtiofs_sandbox.launcher import mounting
from virtiofs_sandbox.syscalls import mounts, processes
from virtiofs_sandbox.syscalls.base import SyscallError, named


@dataclass(frozen=True)
class Place:
    """A running jail as far as its mounts go: what the supervisor knows from its launch.

    *user_namespace* and *mount_namespace* are inode numbers; the rest is as in the plan.
    """

    pid: int
    user_namespace: int
    mount_namespace: int
    become: tuple[int, int] | None
    early_mounts: bool
    idmapped: bool
    tree: bool


@dataclass(frozen=True)
class Adjustment:
    """What is asked of the zygote."""

    place: Place
    changes: tuple[MountChange, ...]


class Adjuster:
    """To be used once, in a process that ends then. *current* is the place of the change being made."""

    def __init__(self, wanted: Adjustment) -> None:
        self.current = 0
        self._wanted = wanted

    def run(self) -> None:
        """Raises SyscallError; the changes before *current* are made."""
        place, changes = self._wanted.place, self._wanted.changes
        user = self._open(b"user", place.user_namespace)
        mount = self._open(b"mnt", place.mount_namespace)
        trees: dict[int, int] = {}
        if place.early_mounts:
            trees = self._take(user if place.idmapped else None)
        processes.enter(user, processes.CLONE_NEWUSER)
        if not place.early_mounts and any(change.action is MountAction.ATTACH for change in changes):
            # As at launch: the host's mounts, with the rights that the jail's user namespace gives over a copy of them.
            processes.unshare(processes.CLONE_NEWNS)
            mounts.make_all_private()
            trees = self._take(None)
        if place.become:
            uid, gid = place.become
            named("setresgid", os.setresgid, gid, gid, gid)
            named("setresuid", os.setresuid, uid, uid, uid)
        processes.enter(mount, processes.CLONE_NEWNS)
        share = mounting.open_share()
        for index, change in enumerate(changes):
            self.current = index
            _make(share, change, trees.get(index))

    def _open(self, kind: bytes, expected: int) -> int:
        path = b"/proc/%d/ns/%s" % (self._wanted.place.pid, kind)
        namespace = named("open(namespace)", os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(namespace).st_ino != expected:
            raise SyscallError(0, "compare(namespace)")
        return namespace

    def _take(self, user_namespace: int | None) -> dict[int, int]:
        """The directories to attach, by the place of their change."""
        taken = {}
        for place, change in enumerate(self._wanted.changes):
            self.current = place
            if change.action is MountAction.ATTACH:
                taken[place] = mounting.take_directory(change.source, change.attributes, user_namespace)
        return taken


def _make(share: int, change: MountChange, tree: int | None) -> None:
    match change.action:
        case MountAction.ATTACH if tree is not None:
            mounting.add_place(share, change.path)
            try:
                mounting.attach_beneath(share, change.path, tree)
            except SyscallError:
                mounting.remove_place(share, change.path)
                raise
        case MountAction.DETACH:
            mounting.uncover(share, change.path)
            mounting.remove_place(share, change.path)
        case MountAction.FREEZE | MountAction.MASK:
            place = mounts.open_beneath(share, change.path)
            mounting.cover(place, hide=change.action is MountAction.MASK)
            os.close(place)
        case MountAction.THAW | MountAction.UNMASK:
            mounting.uncover(share, change.path)
