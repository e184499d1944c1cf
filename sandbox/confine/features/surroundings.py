"""What stands around us: security modules, control groups, the marks of a container, programs and libraries."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.confine.features.feature import Answer, Probe, missing, restricted, there, unknown
from virtiofs_sandbox.confine.features.reading import number, status, text
from virtiofs_sandbox.confine.host import HostProbe

_LSM = Path("/sys/kernel/security/lsm")
_APPARMOR = (Path("/proc/self/attr/apparmor/current"), Path("/proc/self/attr/current"))
_SELINUX = Path("/sys/fs/selinux/enforce")
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_CONTROLLERS = {
    "memory": "limits.memory",
    "pids": "limits.pids: a bound on the processes of a jail",
    "cpu": "limits.cpu",
    "io": "limits.disk",
}
_FIRST_USER_NAMESPACE = ["0", "0", "4294967295"]
_SECCOMP_MODES = {"0": "none", "1": "strict", "2": "filter"}
_MARKS = (Path("/run/.containerenv"), Path("/.dockerenv"), Path("/run/systemd/container"))
_LIBRARIES = {
    "pyseccomp": "libseccomp, from which the filters are compiled",
    "prctl": "python-prctl, by which capabilities are dropped",
    "landlock": "the landlock package",
}


def probes(host: HostProbe) -> tuple[Probe, ...]:
    return (*_modules(), *_groups(), *_container(host), *_programs())


def _modules() -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("security modules", key, name, attempt, lost, remedy)

    return (
        probe(
            "lsm-list", "active modules", _active, "nothing: it only cannot be said which are active",
            "mount securityfs on /sys/kernel/security",
        ),
        probe(
            "apparmor", "AppArmor leaves us free", _apparmor,
            "whatever the profile denies: mounts and user namespaces, most often",
            "a profile for virtiofs-sandbox that allows userns, mount and pivot_root",
        ),
        probe(
            "selinux", "SELinux leaves us free", _selinux,
            "whatever the policy denies: files whose type the daemon's domain may not read",
            "label the share for the daemon's domain; ausearch -m avc names what was denied",
        ),
        probe(
            "yama", "Yama ptrace scope", _yama,
            "nothing: no jail depends on it; with 0 processes of one uid may trace each other outside of jails",
            "sysctl kernel.yama.ptrace_scope=1",
        ),
    )  # fmt: skip


def _groups() -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("control groups", key, name, attempt, lost, remedy)

    return (
        probe(
            "cgroup-v2", "cgroup v2 mounted", _v2,
            "limits by control group", "mount cgroup2 on /sys/fs/cgroup (systemd.unified_cgroup_hierarchy=1)",
        ),
        probe(
            "cgroup-delegated", "our cgroup v2 group may be divided", _delegated,
            "limits by control group", "Delegate=yes in the unit, or run as root outside a container",
        ),
        *(
            probe(
                f"cgroup-{controller}", f"cgroup v2 controller {controller}", _controller(controller),
                lost, "enable it in cgroup.subtree_control of the groups above; a v1 hierarchy must not hold it",
            )
            for controller, lost in _CONTROLLERS.items()
        ),
        probe(
            "cgroup-v1", "no controller is held by cgroup v1", _v1,
            "the controllers named are not to be had in cgroup v2", "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    )  # fmt: skip


def _container(host: HostProbe) -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("surroundings", key, name, attempt, lost, remedy)

    return (
        probe(
            "first-user-namespace", "in the first user namespace", lambda: _first_namespace(host),
            "denials from the kernel's audit records; ids beyond our own map", "run outside of the container",
        ),
        probe(
            "seccomp-around", "no seccomp filter around us", _around,
            "what that filter refuses, in the jail too", "a profile that allows unshare, mounts, seccomp and landlock",
        ),
        probe(
            "proc-unmasked", "nothing mounted over parts of /proc", _proc_masks,
            "a procfs of the jail's own in a user namespace, since the kernel wants an unmasked one first",
            "procMount: Unmasked, --security-opt unmask=ALL",
        ),
        probe(
            "container-marks", "no mark of a container", _marks,
            "what the runtime takes away: see the lines that are not there", "run on the host itself",
        ),
    )  # fmt: skip


def _programs() -> tuple[Probe, ...]:
    return tuple(
        Probe(
            "programs",
            f"library-{name}",
            what,
            _library(name),
            "no jail is built",
            f"install it: pip install {name}, libseccomp2",
        )
        for name, what in _LIBRARIES.items()
    )


def _active() -> Answer:
    active = text(_LSM)
    return unknown(f"{_LSM} cannot be read") if active is None else there(active.replace(",", " "))


def _apparmor() -> Answer:
    if text(Path("/sys/module/apparmor/parameters/enabled")) != "Y":
        return there("not active")
    profile = next((found for found in map(text, _APPARMOR) if found), None)
    if profile is None:
        return unknown("active; our profile cannot be read")
    return there(f"active; we are {profile}") if profile.startswith("unconfined") else restricted(f"profile {profile}")


def _selinux() -> Answer:
    enforcing = number(_SELINUX)
    if enforcing is None:
        return there("not active")
    context = (text(Path("/proc/self/attr/current")) or "unknown").rstrip("\0")
    if not enforcing:
        return there(f"permissive; we are {context}")
    return (there if "unconfined" in context else restricted)(f"enforcing; we are {context}")


def _yama() -> Answer:
    scope = number(_YAMA)
    return there("not active") if scope is None else there(f"ptrace_scope {scope}")


def _own_group() -> Path | None:
    """The directory of our group in the cgroup v2 hierarchy; None if it is not mounted or not visible."""
    mounted = next((Path(fields[4]) for fields in _mounts() if "cgroup2" in fields), None)
    entry = next(
        (line for line in (text(Path("/proc/self/cgroup")) or "").splitlines() if line.startswith("0::")), None
    )
    if mounted is None or entry is None:
        return None
    group = mounted / entry.removeprefix("0::").lstrip("/")
    return group if group.is_dir() else mounted


def _mounts() -> list[list[str]]:
    return [line.split() for line in (text(Path("/proc/self/mountinfo")) or "").splitlines()]


def _v2() -> Answer:
    group = _own_group()
    return missing("not mounted") if group is None else there(str(group))


def _delegated() -> Answer:
    group = _own_group()
    if group is None:
        return missing("not mounted")
    kept = [name for name in ("", "cgroup.procs", "cgroup.subtree_control") if not os.access(group / name, os.W_OK)]
    if kept:
        return restricted(f"not writable: {', '.join(str(group / name) for name in kept)}")
    return there(f"{group} is writable")


def _controller(name: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        group = _own_group()
        available = None if group is None else text(group / "cgroup.controllers")
        if available is None:
            return missing("cgroup v2 is not mounted")
        said = f"available: {available or 'none'}"
        return there(said) if name in available.split() else missing(said)

    return attempt


def _v1() -> Answer:
    lines = (text(Path("/proc/self/cgroup")) or "").splitlines()
    held = [fields[1] for fields in (line.split(":", 2) for line in lines) if fields[1]]
    controllers = [name for name in held if not name.startswith("name=")]
    if controllers:
        return restricted(f"held by v1: {' '.join(controllers)}")
    return there("v1 holds none")


def _first_namespace(host: HostProbe) -> Answer:
    said = f"uid_map {' '.join(host.uid_map.decode().split())}"
    # A nested namespace may have the same map; its inode number says which one it is (PROC_USER_INIT_INO).
    first = os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD
    return there(said) if first else restricted(said)


def _around() -> Answer:
    mode = status().get("Seccomp")
    if mode is None:
        return unknown("/proc/self/status says nothing")
    said = f"mode {_SECCOMP_MODES.get(mode, mode)}"
    return there(said) if mode == "0" else restricted(f"{said}, {status().get('Seccomp_filters', '?')} program(s)")


def _proc_masks() -> Answer:
    over = sorted({fields[4] for fields in _mounts() if fields[4].startswith("/proc/")} - {"/proc/sys/fs/binfmt_misc"})
    return restricted(", ".join(over)) if over else there("/proc is whole")


def _marks() -> Answer:
    marks = [str(mark) for mark in _MARKS if mark.exists()]
    if kind := os.environ.get("container"):  # noqa: SIM112 - systemd, Container Interface
        marks.append(f"container={kind}")
    return restricted(" ".join(marks)) if marks else there("none found")


def _library(name: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        importlib.import_module(name)
        return there(f"loaded by Python {sys.version_info.major}.{sys.version_info.minor}")

    return attempt
