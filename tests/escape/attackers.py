"""What a compromised worker would have found out about its surroundings, and the filters it stands under."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
from collections.abc import Iterable
from pathlib import Path

from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.syscalls import mounts
from virtiofs_sandbox.syscalls.capabilities import permitted_set

from tests.escape.decoys import Decoys

# Numbers of families beyond the common ones, by the name of a protocol of theirs in /proc/net/protocols.
FAMILIES = {
    "PFKEY": 15, "RDS": 21, "LLC": 26, "CAN_RAW": 29, "TIPC": 30, "BT": 31, "PHONET": 35, "IEEE-802.15.4-MAC": 36,
    "ALG": 38, "NFC": 39, "KCM": 41, "QIPCRTR": 42, "SMC": 43, "XDP": 44, "MCTP": 45,
}  # fmt: skip
SEGMENT_KEY = 0x70726F62
IPC_CREAT = 0o1000
# What is tried where no limit of memory or processes is planned: nothing that a machine would notice.
MEMORY_BYTES = 4 << 30
PROCESSES = 200
SYS_ADMIN = 1 << 21
PIECE_BYTES = 64 << 20


class Facts:
    """Makes what there is to be found: listeners, a System V segment. They stay while this object does."""

    def __init__(self, work: Path, decoys: Decoys, plan: LaunchPlan) -> None:
        self._decoys = decoys
        self._plan = plan
        self._abstract, self._pathname = f"probe-{os.getpid()}", str(work / "listener")
        local = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        for listener, address in zip(local, ("\0" + self._abstract, self._pathname), strict=True):
            listener.bind(address)
            listener.listen()
        self._listeners = [*local, socket.create_server(("127.0.0.1", 0))]
        ctypes.CDLL(None).shmget(SEGMENT_KEY, 4096, IPC_CREAT | 0o600)

    def told(self) -> dict[str, str]:
        limits = dict(self._plan.limits)
        memory = limits.get(resource.RLIMIT_DATA, MEMORY_BYTES) + PIECE_BYTES
        processes = (self._plan.process_limit or PROCESSES) + 1
        return {
            "outside": str(self._decoys.outside),
            "mountpoint": str(self._decoys.mountpoint),
            "mounted": str(self._decoys.mounted),
            "supervisor": str(os.getpid()),
            "nice": str(os.nice(0)),
            "id": str(os.geteuid()),
            "capabilities": str(permitted_set() or SYS_ADMIN),
            "handle": file_handle(self._decoys.outside / "secret").hex(),
            "abstract": self._abstract,
            "pathname": self._pathname,
            "port": str(self._listeners[2].getsockname()[1]),
            "segment": str(SEGMENT_KEY),
            "families": ",".join(str(family) for family in families()),
            "core": "program" if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|") else "file",
            "nofile": str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
            "memory": str(memory),
            "processes": str(processes),
        }


def families() -> list[int]:
    """Families this kernel has, beyond the common ones, without asking it for one it would have to load."""
    protocols = {line.split()[0] for line in Path("/proc/net/protocols").read_text().splitlines()}
    return [number for name, number in FAMILIES.items() if name in protocols]


def file_handle(path: Path) -> bytes:
    """struct file_handle of *path*, name_to_handle_at(2)."""
    room = 128
    buffer = ctypes.create_string_buffer(room.to_bytes(4, "little"), 8 + room)
    mount = ctypes.c_int()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.name_to_handle_at(mounts.AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), 0) != 0:
        return b""
    return buffer.raw[: 8 + int.from_bytes(buffer.raw[:4], "little")]


def second_filters(plan: LaunchPlan, roles: Iterable[str]) -> str:
    """Hexadecimal digits of the program that each of *roles* loads after its start-up; empty if the plan has none."""
    if plan.filters is None:
        return ""
    programs = {"keeper": plan.filters.keeper, "control": plan.filters.control, "queue": plan.filters.queue}
    return ",".join(programs[role].hex() for role in roles)
