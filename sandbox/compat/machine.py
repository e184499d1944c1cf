"""Which virtual machine a daemon is started for, as far as that can be seen.

libvirt passes no name. It binds the socket in a directory that has the name in it, though only its first 20 characters,
and opens a log file beside the machine's own for standard error (virtlogd, where it is used, passes a pipe instead).
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.policies.machines import CUT, Machine

_SOCKET = re.compile(r"/domain-[0-9]+-(?P<name>[^/]+)/(?P<device>[^/]+)-fs\.sock\Z")
_LOG = re.compile(r"/(?P<name>[^/]+)-(?P<device>fs[0-9]+|ua-[^/]+)-virtiofsd\.log\Z")
_STANDARD_ERROR = 2


@dataclass(frozen=True)
class Seen:
    """*device* is the file system's name in the machine, "fs0" for the first."""

    machine: Machine
    device: str | None = None


def seen(address: str, log: str) -> Seen:
    """From the address of the listening socket and the file behind standard error, either of which may be anything."""
    by_socket, by_log = _SOCKET.search(address), _LOG.search(log)
    if by_socket is None:
        return Seen(Machine()) if by_log is None else Seen(Machine(by_log["name"]), by_log["device"])
    name = by_socket["name"]
    if by_log is not None and by_log["name"][:CUT] == name:
        return Seen(Machine(by_log["name"]), by_socket["device"])
    return Seen(Machine(name, cut=len(name) >= CUT), by_socket["device"])


def address_of(descriptor: int | None, path: Path | None) -> str:
    """The address of an inherited socket, or the path of the one to make; empty where there is none."""
    if descriptor is None:
        return "" if path is None else os.fspath(path)
    try:
        # A duplicate: what is wrong with the descriptor is said where it is adopted.
        with socket.socket(fileno=os.dup(descriptor)) as listening:
            name = listening.getsockname()
    except OSError:
        return ""
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def log_of() -> str:
    try:
        return os.readlink(f"/proc/self/fd/{_STANDARD_ERROR}")
    except OSError:
        return ""


def instance(name: str, machine: Seen) -> str:
    """What one of several daemons of a policy is called: POLICY@MACHINE-DEVICE, else POLICY@PID."""
    if machine.machine.name is None:
        return f"{name}@{os.getpid()}"
    where = f"{machine.machine.name}-{machine.device}"
    return f"{name}@{''.join(character if character.isprintable() else '?' for character in where)}"
