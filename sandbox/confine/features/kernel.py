"""System calls and mechanisms of the running kernel, each tried once."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import prctl
from virtiofs_sandbox.confine.features.feature import Answer, Probe, by_errno, missing, restricted, there, unknown
from virtiofs_sandbox.confine.features.reading import number, text
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.landlock import BROUGHT, NEWEST_ABI
from virtiofs_sandbox.syscalls import files, filtering, mounts, processes
from virtiofs_sandbox.syscalls.base import named
from virtiofs_sandbox.syscalls.landlock import abi_version

OLDEST = (6, 1)
MFD_NOEXEC_SEAL = 0x08
_ACTIONS_LOGGED = Path("/proc/sys/kernel/seccomp/actions_logged")
_IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
_AUDIT_DENIALS_LOST = (
    "denials by seccomp and Landlock do not reach the supervisor's log; the worker's own report remains"
)


def probes(host: HostProbe) -> tuple[Probe, ...]:
    return (*_calls(), *_optional(host), *_landlock(), *_seccomp())


def _calls() -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("kernel", key, name, attempt, lost, remedy)

    return (
        probe(
            "kernel-version", "Linux 6.1 or newer", _version,
            "nothing that is known; nothing older is tested", "a newer kernel",
        ),
        probe(
            "openat2", "openat2 within a directory", _openat2,
            "every open by name: nothing is served", "Linux 5.6, and a container profile that allows openat2",
        ),
        probe(
            "statx-mount-id", "mount id in statx", _mount_id,
            "files of two mounts inside a share cannot be told apart for certain", "Linux 5.8",
        ),
        probe(
            "statx-birth-time", "birth time in statx", _birth_time,
            "identity rests on file handles or on descriptors kept open; judged here by /, `check` asks the share",
            "a file system that keeps birth times: ext4, xfs, btrfs, tmpfs",
        ),
        probe(
            "file-handles", "file handles", _handles,
            "a new file with an old inode number is told apart only by a descriptor kept open",
            "a file system with handles, and a container profile that allows name_to_handle_at",
        ),
        probe(
            "xattrat", "extended attributes without opening", _xattrat,
            "attributes of files that cannot be opened: FIFOs, sockets, links, files without read permission",
            "Linux 6.13",
        ),
        probe("close-range", "close_range", _close_range, "no jail is built: descriptors could leak in", "Linux 5.9"),
        probe("pidfd", "process descriptors", _pidfd, "no jail is built: processes are followed by pidfd", "Linux 5.4"),
        probe(
            "memfd-noexec", "memory files sealed against execution", _memfd,
            "nothing: memory files are sealed against change all the same, and seccomp forbids executing one",
            "Linux 6.3",
        ),
    )  # fmt: skip


def _optional(host: HostProbe) -> tuple[Probe, ...]:
    return (
        Probe(
            "kernel", "io-uring", "io_uring", _io_uring,
            "nothing: the worker makes no ring, and its filter forbids one", "sysctl kernel.io_uring_disabled=0",
        ),
        Probe(
            "kernel", "audit-multicast", "audit records of refusals",
            lambda: by_errno(host.audit_errno, "reading a record"),
            _AUDIT_DENIALS_LOST,
            "CAP_AUDIT_READ, in the first user, network and pid namespaces (as root, outside containers)",
        ),
    )  # fmt: skip


def _landlock() -> tuple[Probe, ...]:
    lost = "the second wall: the empty root, the mounts and seccomp hold alone"
    remedy = (
        "a kernel built with Landlock and started with landlock in its lsm= list; a container profile that allows it"
    )
    by_abi = tuple(
        Probe(
            "landlock", f"landlock-abi-{abi}", f"ABI {abi}: {what}", _landlock_abi(abi),
            f"Landlock does not bound {what}; the other layers do", f"a kernel with Landlock ABI {abi}",
        )
        for abi, what in BROUGHT.items()
    )  # fmt: skip
    return (Probe("landlock", "landlock", "Landlock", _landlock_abi(1), lost, remedy), *by_abi)


def _seccomp() -> tuple[Probe, ...]:
    return (
        Probe(
            "seccomp", "seccomp-filter", "filter loaded with the log flag", _filter,
            "no jail is built: the system call table is never left out",
            "a kernel with CONFIG_SECCOMP_FILTER, and a container profile that allows seccomp",
        ),
        Probe(
            "seccomp", "seccomp-actions", "actions kill_process, errno and log", _actions,
            "sandbox.seccomp modes that need the missing action", "Linux 4.14",
        ),
        Probe(
            "seccomp", "seccomp-logged", "refusals by errno are logged", _logged,
            _AUDIT_DENIALS_LOST, f"add errno to {_ACTIONS_LOGGED} (for the whole machine)",
        ),
    )  # fmt: skip


def _version() -> Answer:
    release = os.uname().release
    major, minor = (int(part.split("-")[0]) for part in release.split(".")[:2])
    return there(release) if (major, minor) >= OLDEST else missing(release)


def _openat2() -> Answer:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.close(mounts.open_beneath(root, b"."))
    return there("opened with RESOLVE_BENEATH")


def _mount_id() -> Answer:
    mount = files.facts(b"/").mount
    return missing("statx gives none") if mount is None else there(f"/ is mount {mount}")


def _birth_time() -> Answer:
    return missing("/ has none") if files.facts(b"/").birth_ns is None else there("/ has one")


def _handles() -> Answer:
    return there(f"/ has one of {len(files.file_handle(b'/'))} bytes")


def _xattrat() -> Answer:
    try:
        files.attribute_size(b"/", b"user.none")
    except OSError as error:
        # Without such an attribute, or without any: the call was there to say so.
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES):
            raise
    return there("getxattrat answers")


def _close_range() -> Answer:
    processes.close_from(processes.LAST_DESCRIPTOR)
    return there("close_range answers")


def _pidfd() -> Answer:
    descriptor = named("pidfd_open", os.pidfd_open, os.getpid())
    os.close(descriptor)
    return there("pidfd_open answers")


def _memfd() -> Answer:
    os.close(named("memfd_create(MFD_NOEXEC_SEAL)", os.memfd_create, "probe", os.MFD_CLOEXEC | MFD_NOEXEC_SEAL))
    enforced = number(Path("/proc/sys/vm/memfd_noexec"))
    return there("memfd_create takes MFD_NOEXEC_SEAL" + ("" if enforced is None else f", vm.memfd_noexec {enforced}"))


def _landlock_abi(wanted: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        abi = abi_version()
        said = f"ABI {abi}" + (f", of which {NEWEST_ABI} are used" if abi > NEWEST_ABI else "")
        return there(said) if abi >= wanted else missing(said)

    return attempt


def _filter() -> Answer:
    named("prctl(PR_SET_NO_NEW_PRIVS)", prctl.set_no_new_privs, 1)
    processes.load_seccomp(filtering.ALLOW_EVERYTHING, processes.SECCOMP_FILTER_FLAG_LOG)
    return there("loaded one that allows everything")


def _actions() -> Answer:
    has = []
    for name, value in filtering.ACTIONS.items():
        try:
            filtering.action_available(value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        else:
            has.append(name)
    said = " ".join(has)
    return there(said) if {"kill_process", "errno", "log"} <= set(has) else missing(said)


def _logged() -> Answer:
    logged = text(_ACTIONS_LOGGED)
    if logged is None:
        return unknown(f"{_ACTIONS_LOGGED} cannot be read")
    return there(logged) if "errno" in logged.split() else restricted(f"only {logged}")


def _io_uring() -> Answer:
    switch = number(_IO_URING_DISABLED)
    said = "" if switch is None else f", kernel.io_uring_disabled {switch}"
    os.close(filtering.new_ring())
    return there(f"a ring was made{said}")
