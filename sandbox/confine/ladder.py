"""The rungs of the ladder to a jail, each tried for real in a child that ends at once.

What is tried is what a launch does later, call by call, so that a policy of the host that no version number shows (a
container's seccomp profile, an AppArmor restriction, a masked /proc) is found here and not in the middle of a launch.
Every function forks: to be called while the process has one thread.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from virtiofs_sandbox.confine import ids
from virtiofs_sandbox.syscalls import mounts, processes
from virtiofs_sandbox.syscalls.base import SyscallError, named

NAMESPACES = {
    "CLONE_NEWNS": processes.CLONE_NEWNS,
    "CLONE_NEWPID": processes.CLONE_NEWPID,
    "CLONE_NEWNET": processes.CLONE_NEWNET,
    "CLONE_NEWIPC": processes.CLONE_NEWIPC,
    "CLONE_NEWUTS": processes.CLONE_NEWUTS,
    "CLONE_NEWCGROUP": processes.CLONE_NEWCGROUP,
}
_HARMLESS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
_READ_ONLY = _HARMLESS | mounts.MOUNT_ATTR_RDONLY
_ANY_RANGE = ids.single(0, 100_000, 65_536)
_UNREADABLE_ANSWER = "read(answer of a try)"


@dataclass(frozen=True)
class Refusal:
    """*errno* 0 and no *call* where the try succeeded."""

    errno: int = 0
    call: str = ""


def user_namespace() -> int:
    """The errno of making a user namespace."""
    return _in_child(lambda: processes.unshare(processes.CLONE_NEWUSER)).errno


def all_ids(uid_map: bytes, gid_map: bytes) -> int:
    """The errno of mapping all our ids to themselves; the maps are our own, as the kernel prints them."""
    with _Mapped(ids.identity(uid_map), ids.identity(gid_map), deny_setgroups=False) as mapped:
        return mapped.refusal.errno


def mount_rights(uid: int, gid: int) -> Refusal:
    """The first refused call on the way from a new user namespace, with one id, to namespaces and a root of its own."""
    with _Mapped(ids.single(uid, uid), ids.single(gid, gid), deny_setgroups=True, then=_own_root) as mapped:
        return mapped.refusal


def id_mapped_mount() -> int:
    """The errno of id-mapping a mount: of a tmpfs, or where the kernel cannot do that (before 6.3), of the root."""
    with _Mapped(_ANY_RANGE, _ANY_RANGE, deny_setgroups=False) as mapped:
        if mapped.refusal.errno:
            return mapped.refusal.errno
        namespace = os.open(f"/proc/{mapped.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _in_child(lambda: _translate(namespace)).errno
        finally:
            os.close(namespace)


def _translate(namespace: int) -> None:
    try:
        mounts.translate_ids(mounts.new_filesystem(b"tmpfs", (), _HARMLESS), namespace)
    except SyscallError as error:
        if error.errno != errno.EINVAL:
            raise
        mounts.translate_ids(mounts.clone_tree(b"/", False), namespace)


def _own_root() -> None:
    """The calls of a launch, with nothing in the new root."""
    for name, flag in NAMESPACES.items():
        named(f"unshare({name})", processes.unshare, flag)
    # The pid namespace begins with the next child, and with it the right to a procfs of one's own.
    refusal = _in_child(_own_mounts)
    if refusal.call:
        raise SyscallError(refusal.errno, refusal.call)


def _own_mounts() -> None:
    mounts.make_all_private()
    tree = named("open_tree", mounts.clone_tree, b"/", True)
    mounts.restrict_tree(tree, _READ_ONLY)
    # Read-only as the jail's: where the procfs in sight is read-only, the kernel allows no other.
    named("fsmount(procfs)", mounts.new_filesystem, b"proc", ((b"subset", b"pid"),), _READ_ONLY)
    root = named("fsmount(tmpfs)", mounts.new_filesystem, b"tmpfs", ((b"size", b"4096"),), _HARMLESS)
    mounts.attach(root, b"/")
    os.fchdir(root)
    mounts.pivot_root(b".", b".")
    mounts.detach(b".")


class _Mapped:
    """A child in a user namespace of its own with these maps, for as long as the context lasts; it then runs *then*."""

    def __init__(
        self, uid_map: bytes, gid_map: bytes, *, deny_setgroups: bool, then: Callable[[], None] | None = None
    ) -> None:
        self.pid = 0
        self.refusal = Refusal()
        self._maps = (uid_map, gid_map)
        self._deny_setgroups = deny_setgroups
        self._then = then

    def __enter__(self) -> _Mapped:
        answers, answering = os.pipe()
        going, go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(go)
            _end_with(lambda: self._be_mapped(answering, going), answering)
        os.close(answering)
        os.close(going)
        try:
            self.refusal = _read(answers)
            if not self.refusal.call:
                self._write_maps()
            if not self.refusal.call and self._then:
                os.write(go, b"g")
                self.refusal = _read(answers)
        finally:
            os.close(answers)
            os.close(go)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _write_maps(self) -> None:
        try:
            ids.write_maps(self.pid, *self._maps, deny_setgroups=self._deny_setgroups)
        except SyscallError as error:
            self.refusal = Refusal(error.errno or 0, error.call)

    def _be_mapped(self, answering: int, going: int) -> None:
        processes.unshare(processes.CLONE_NEWUSER)
        os.write(answering, _DONE)
        # Until the word comes, or the end of file because whoever was to say it is gone.
        if os.read(going, 1) and self._then:
            self._then()


_DONE = b"0 \n"


def _in_child(attempt: Callable[[], None]) -> Refusal:
    """Runs *attempt* in a child; the call that failed in it."""
    answers, answering = os.pipe()
    child = os.fork()
    if child == 0:
        _end_with(attempt, answering)
    os.close(answering)
    try:
        return _read(answers)
    finally:
        os.close(answers)
        os.waitpid(child, 0)


def _end_with(attempt: Callable[[], None], answering: int) -> NoReturn:
    """In a child: makes the *attempt*, tells how it ended, and ends."""
    try:
        attempt()
        os.write(answering, _DONE)
    except SyscallError as error:
        os.write(answering, b"%d %s\n" % (error.errno or 0, error.call.encode()))
    finally:
        os._exit(0)


def _read(answers: int) -> Refusal:
    """The next line of a child; one that ended without any was killed by what it tried (a filter, for example)."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(answers, 1)
        if not byte:
            return Refusal(errno.EPERM, _UNREADABLE_ANSWER)
        line += byte
    with suppress(ValueError):
        number, _, call = line[:-1].partition(b" ")
        return Refusal(int(number), call.decode(errors="replace"))
    return Refusal(errno.EPERM, _UNREADABLE_ANSWER)
