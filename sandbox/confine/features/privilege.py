"""Who we are and what we may: ids, capabilities, limits."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.confine.features.feature import Answer, Probe, missing, restricted, there, unknown
from virtiofs_sandbox.confine.features.reading import number, status
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.planning import FEW_DESCRIPTORS

# Capabilities whose absence is noticed, with what goes: number, name, loss.
_CAPABILITIES = (
    (0, "CAP_CHOWN", "squash to another id than the caller's"),
    (1, "CAP_DAC_OVERRIDE", "shares of files that the caller cannot read"),
    (5, "CAP_KILL", "ending jails that run as other ids"),
    (6, "CAP_SETGID", "the identity map: guests' gids on what they create"),
    (7, "CAP_SETUID", "the identity map: guests' uids on what they create"),
    (21, "CAP_SYS_ADMIN", "mounts outside a user namespace; id-mapped mounts"),
    (24, "CAP_SYS_RESOURCE", "raising the hard limit of open files to a million"),
    (31, "CAP_SETFCAP", "the identity map: root may map id 0 only with it (Linux 5.12)"),
    (37, "CAP_AUDIT_READ", "denials from the kernel's audit records; the worker's own report remains"),
)
_FEW_PROCESSES = 64
_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")


def probes(host: HostProbe) -> tuple[Probe, ...]:
    return (*_who(host), *_limits(host))


def _who(host: HostProbe) -> tuple[Probe, ...]:
    capabilities = tuple(
        Probe(
            "privilege", name.lower().replace("_", "-"), name, _capability(host.capabilities, bit),
            lost, "run as root, or grant it (AmbientCapabilities=, securityContext.capabilities.add)",
        )
        for bit, name, lost in _CAPABILITIES
    )  # fmt: skip
    return (
        Probe(
            "privilege", "root", "running as root", lambda: _root(host),
            "tier full; guests' own ids, unless a range is mapped", "run as root, or map a range with newuidmap",
        ),
        *capabilities,
        Probe(
            "privilege", "no-new-privs", "set-user-ID helpers can be used", _new_privileges,
            "newuidmap and newgidmap gain no rights: no range map as an ordinary user",
            "NoNewPrivileges=no; allowPrivilegeEscalation: true",
        ),
    )  # fmt: skip


def _limits(host: HostProbe) -> tuple[Probe, ...]:
    def probe(key: str, name: str, attempt: Callable[[], Answer], lost: str, remedy: str) -> Probe:
        return Probe("limits", key, name, attempt, lost, remedy)

    return (
        probe(
            "open-files", f"open files, {FEW_DESCRIPTORS} or more", lambda: _open_files(host),
            "a guest that keeps more files open gets ENFILE", f"LimitNOFILE=, ulimit -Hn {FEW_DESCRIPTORS}",
        ),
        probe(
            "processes", f"processes, {_FEW_PROCESSES} or more", _process_limit,
            "jails beyond it are not built: each has two processes and a thread per queue", "LimitNPROC=, ulimit -u",
        ),
        *(
            probe(
                f"max-{kind}-namespaces", f"user.max_{kind}_namespaces", _namespace_limit(kind),
                "each jail has one; beyond the limit none is built", f"sysctl user.max_{kind}_namespaces=10000",
            )
            for kind in _NAMESPACES
        ),
    )  # fmt: skip


def _root(host: HostProbe) -> Answer:
    said = f"uid {host.uid}, gid {host.gid}"
    return there(said) if host.uid == 0 else missing(said)


def _capability(held: int, bit: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        return there("permitted") if held >> bit & 1 else missing("not permitted")

    return attempt


def _new_privileges() -> Answer:
    value = status().get("NoNewPrivs")
    if value is None:
        return unknown("/proc/self/status says nothing")
    return there("NoNewPrivs 0") if value == "0" else restricted(f"NoNewPrivs {value}")


def _open_files(host: HostProbe) -> Answer:
    said = f"RLIMIT_NOFILE hard {host.nofile_hard}, fs.nr_open {host.nr_open}"
    return there(said) if host.nofile_hard >= FEW_DESCRIPTORS else restricted(said)


def _process_limit() -> Answer:
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if hard == resource.RLIM_INFINITY:
        return there("RLIMIT_NPROC unlimited")
    said = f"RLIMIT_NPROC hard {hard}"
    if os.geteuid() == 0:
        said += ", which does not bind root"
    return there(said) if hard >= _FEW_PROCESSES or os.geteuid() == 0 else restricted(said)


def _namespace_limit(kind: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        value = number(Path(f"/proc/sys/user/max_{kind}_namespaces"))
        if value is None:
            return unknown("cannot be read")
        return there(str(value)) if value else restricted("0")

    return attempt
