"""A machine of its own as far as files and processes go: what libvirt, QEMU and we write goes to a work directory.

    python -m tests.libvirt.namespace WORK [LAYER...]

Everything is read-only, but for WORK and what of it is mounted over the places in WRITABLE. The directories usr, etc
and var of each LAYER (and of WORK/layer) lie over those of the machine, the first uppermost; so a copy installed below
a DESTDIR is at its real paths. Processes are numbered anew and end when this one does. Prints "ready", and waits.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import prctl
from virtiofs_sandbox.syscalls import mounts, processes

from tests import guard

WRITABLE = (
    "/etc/libvirt",
    "/etc/qemu",
    "/etc/virtiofs-sandbox",
    "/home",
    "/run",
    "/srv",
    "/var/cache/libvirt",
    "/var/lib/libvirt",
    "/var/log/libvirt",
)
HYBRID = "/sys/fs/cgroup/unified"
LAYERED = ("usr", "etc", "var")


def main() -> None:
    work, *layers = (Path(word) for word in sys.argv[1:])
    prctl.set_pdeathsig(signal.SIGKILL)
    guard.own_namespace()
    if os.path.ismount(HYBRID):
        # Beside groups of version 1 the second version has next to no controllers, and libvirt takes it for the better.
        mounts.detach(HYBRID.encode())
    processes.unshare(processes.CLONE_NEWPID)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    prctl.set_pdeathsig(signal.SIGKILL)
    guard.read_only_but(os.fspath(work))
    for name in LAYERED:
        _overlay(f"/{name}", [layer / name for layer in (work / "layer", *layers)])
    for place in WRITABLE:
        mounts.attach(mounts.clone_tree(os.fsencode(work / "files" / place.lstrip("/")), False), place.encode())
    _own_procfs()
    guard.spare_procfs(os.fspath(work))
    guard.verify(os.fspath(work))
    print("ready", flush=True)
    while True:
        # The first process of a pid namespace inherits everybody's orphans.
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


def _overlay(place: str, layers: list[Path]) -> None:
    lower = [os.fspath(layer) for layer in layers if layer.is_dir()]
    if lower:
        options = ((b"lowerdir", os.fsencode(":".join([*lower, place]))),)
        mounts.attach(mounts.new_filesystem(b"overlay", options, mounts.MOUNT_ATTR_RDONLY), place.encode())


def _own_procfs() -> None:
    """That of the new pid namespace, its switches for the whole machine read-only."""
    mounts.attach(mounts.new_filesystem(b"proc", (), 0), b"/proc")
    for path in guard.MACHINE_WIDE:
        if os.path.exists(path):
            tree = mounts.clone_tree(os.fsencode(path), False)
            mounts.restrict_tree(tree, mounts.MOUNT_ATTR_RDONLY)
            mounts.attach(tree, os.fsencode(path))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    main()
