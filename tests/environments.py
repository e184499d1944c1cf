#!/usr/bin/env python3
"""Runs a command as the people and places that start us: root, a user, a container; each as tight as the real one.

    python -m tests.environments NAME --work DIR -- COMMAND [ARG ...]

DIR is given to the user the command runs as, who has it as home. Nothing outside this process and DIR is changed: an
environment with accounts of its own has copies of /etc/passwd, subuid and subgid mounted over them in a mount namespace
of its own. Needs root, since everything here is given up and nothing won.

For tests: ENVIRONMENTS by name, and `unavailable` for the reason to skip one.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import prctl
import pyseccomp
from virtiofs_sandbox.confine import ids
from virtiofs_sandbox.syscalls import capabilities, mounts, processes

# What a container's default profile leaves out: namespaces, mounts, and kernel surfaces of their own.
NAMESPACE_CALLS = ("unshare", "setns")
MOUNT_CALLS = (
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr",
)  # fmt: skip
SURFACE_CALLS = (
    "add_key", "keyctl", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
    "io_uring_register", "open_by_handle_at", "personality", "acct", "chroot",
)  # fmt: skip
CLONE_INTO_NAMESPACES = 0x7E020000
LAST_CAPABILITY = 40


@dataclass(frozen=True)
class Environment:
    """*uid* is also the gid; *tier* is what a launch in it gets; *become* puts this process into it."""

    name: str
    uid: int
    tier: str
    become: Callable[[Path], None]

    def command(self, work: Path) -> list[str]:
        """The start of a command line that runs the rest in it; to be run in the repository's root."""
        return [sys.executable, "-m", "tests.environments", self.name, "--work", os.fspath(work), "--"]


def _root(_: Path) -> None:
    """Stays what it is."""


def _user(_: Path) -> None:
    _give_up(NOBODY)


def _user_with_range(work: Path) -> None:
    """An account of its own, with 65536 ids from 300000 on besides its own."""
    account = f"{SHARER_NAME}:x:{SHARER}:{SHARER}::{work}:/bin/sh\n"
    grant = f"# a comment\nroot:100000:65536\n{SHARER_NAME}:300000:65536\n"
    replaced = {
        "/etc/passwd": Path("/etc/passwd").read_text() + account,
        "/etc/group": Path("/etc/group").read_text() + f"{SHARER_NAME}:x:{SHARER}:\n",
        "/etc/subuid": grant,
        "/etc/subgid": grant,
    }
    processes.unshare(processes.CLONE_NEWNS)
    mounts.make_all_private()
    for place, content in replaced.items():
        copy = work / f".{Path(place).name}"
        copy.write_text(content)
        copy.chmod(0o644)
        os.chown(copy, 0, 0)
        mounts.attach(mounts.clone_tree(os.fsencode(copy), False), os.fsencode(place))
    _give_up(SHARER)


def _user_without_mounts(_: Path) -> None:
    """As where a security module lets a user namespace be made and then grants nothing in it."""
    _give_up(NOBODY)
    _refuse(MOUNT_CALLS, clone_flags=0)


def _root_without_namespaces(_: Path) -> None:
    """As root in a container that may do to files what root may, and make nothing."""
    _refuse((*NAMESPACE_CALLS, *MOUNT_CALLS), clone_flags=CLONE_INTO_NAMESPACES)


def _container(_: Path) -> None:
    """As the compute container of a KubeVirt pod: no capability, no namespace, no mount, uid 107."""
    for capability in range(LAST_CAPABILITY + 1):
        capabilities.drop_bounding(capability)
    _give_up(QEMU)
    prctl.set_no_new_privs(1)
    _refuse((*NAMESPACE_CALLS, *MOUNT_CALLS, *SURFACE_CALLS), clone_flags=CLONE_INTO_NAMESPACES)


NOBODY, SHARER, QEMU = 65534, 61234, 107
SHARER_NAME = "sharer"
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("root", 0, "full", _root),
        Environment("user", NOBODY, "userns", _user),
        Environment("user-with-range", SHARER, "userns", _user_with_range),
        Environment("user-without-mounts", NOBODY, "bare", _user_without_mounts),
        Environment("root-without-namespaces", 0, "bare", _root_without_namespaces),
        Environment("container", QEMU, "bare", _container),
    )
}


def unavailable(name: str) -> str | None:
    """Why environment *name* cannot be had here; None where it can."""
    if os.geteuid() != 0:
        return "environments are made by root"
    if name == "user-with-range":
        missing = [file for file in ("/etc/subuid", "/etc/subgid") if not Path(file).exists()]
        if missing or not ids.helpers_installed():
            return f"there is no {missing[0] if missing else 'newuidmap'} (Debian package uidmap)"
    uid = ENVIRONMENTS[name].uid
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", sys.executable]
    tried = subprocess.run(
        [*command, "-c", "import virtiofs_sandbox, tests"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    return f"uid {uid} cannot run {sys.executable}: {tried.stderr[-200:]}" if tried.returncode else None


def _hand_over(work: Path, uid: int) -> None:
    """Gives *work* to *uid*, without what others mounted in it."""
    for folder, folders, files in os.walk(work):
        folders[:] = [name for name in folders if not os.path.ismount(os.path.join(folder, name))]
        for name in (".", *files):
            os.chown(os.path.join(folder, name), uid, uid, follow_symlinks=False)


def _give_up(uid: int) -> None:
    """Becomes *uid*; its capabilities end with the next exec, for which they are kept: our interpreter may lie in
    a directory of root's, from where nobody else could start it.
    """
    held = capabilities.permitted_set()
    prctl.set_keepcaps(True)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    capabilities.set_capabilities(held, held, 0)


def _refuse(calls: tuple[str, ...], clone_flags: int) -> None:
    """EPERM for *calls* and for a clone with any of *clone_flags*; ENOSYS for clone3, whose flags no filter sees."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in calls:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    if clone_flags:
        rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        for bit in (1 << number for number in range(32) if clone_flags >> number & 1):
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, bit, bit))
    rules.load()


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description="Run a command as somebody else, somewhere else.")
    parser.add_argument("name", choices=ENVIRONMENTS)
    parser.add_argument("--work", type=Path, required=True, help="a directory that becomes the user's")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    environment = ENVIRONMENTS[options.name]
    work = options.work.resolve(strict=True)
    _hand_over(work, environment.uid)
    os.environ["HOME"] = os.environ["TMPDIR"] = os.fspath(work)
    environment.become(work)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
