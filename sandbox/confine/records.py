"""Audit records of what seccomp and Landlock refused: their text, and whether it can be read on this host.

The kernel writes the text, but names in it are chosen by the refused process. It writes them in quotes where they hold
nothing but visible ASCII, and as hexadecimal digits otherwise: audit_log_untrustedstring in kernel/audit.c.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import prctl
from virtiofs_sandbox.syscalls import audit, processes
from virtiofs_sandbox.syscalls.base import SyscallError

SECCOMP, LANDLOCK_ACCESS, LANDLOCK_DOMAIN = 1326, 1423, 1424
ERRNO, TRAP, KILL_THREAD, KILL_PROCESS, LOG = 0x50000, 0x30000, 0, 0x80000000, 0x7FFC0000

_HEADER = struct.Struct("=IHHII")
_TEXT = re.compile(rb"audit\(\d{1,20}\.\d{3}:\d{1,20}\): (.*)", re.DOTALL)
_FIELD = re.compile(rb'(\w+)=("[^"]*"|[^\s"]*)(?: |$)')
_TRY_SECONDS = 0.5
_GETPPID = 110
# Refuses getppid(2) alone.
_REFUSES_ONE = ((0x20, 0, 0, 0), (0x15, 0, 1, _GETPPID), (6, 0, 0, ERRNO | errno.EPERM), (6, 0, 0, 0x7FFF0000))


class Source(enum.Enum):
    """Where denials are learnt from."""

    RECORDS = "audit records"
    OWN_REPORT = "the worker's own report"


def source(audit_errno: int) -> tuple[Source, str]:
    """Which source a host has, and the sentence about it; *audit_errno* is the host probe's."""
    if not audit_errno:
        return Source.RECORDS, (
            "denials by seccomp are read from the kernel's audit records; those by Landlock come there only while "
            "auditing is switched on for the whole machine"
        )
    hint = (
        "run in the initial network and pid namespace" if audit_errno == errno.ENODATA else "CAP_AUDIT_READ is missing"
    )
    return Source.OWN_REPORT, (
        f"the kernel's audit records cannot be read ({os.strerror(audit_errno)}; {hint}): denials by seccomp are "
        "reported by the worker itself, those by Landlock by nobody"
    )


@dataclass(frozen=True)
class CallRecord:
    """seccomp did not simply allow a call. *pid* is the process, not the thread, in the initial pid namespace."""

    pid: int
    thread: str
    architecture: int
    number: int
    action: int


@dataclass(frozen=True)
class AccessRecord:
    """Landlock refused an access. *rights*: what was missing, "fs.write_file" for instance; *path* where it has one."""

    domain: int
    rights: str
    path: str | None


@dataclass(frozen=True)
class DomainRecord:
    """Who made a Landlock domain; comes after its first refusal, and at its end with *pid* None."""

    domain: int
    pid: int | None


Record = CallRecord | AccessRecord | DomainRecord


def parse(datagram: bytes) -> Record | None:
    """The record in *datagram*, a netlink message; None for other kinds, and for text that is not the kernel's."""
    if len(datagram) < _HEADER.size:
        return None
    _, kind, *_ = _HEADER.unpack_from(datagram)
    if kind not in _PARSERS:
        return None
    try:
        return _PARSERS[kind](_fields(datagram[_HEADER.size :]))
    except (KeyError, ValueError):
        return None


def open_source() -> socket.socket:
    """Where the records come that `parse` knows, and no others. Raises SyscallError."""
    return audit.open_records(tuple(_PARSERS))


def try_reading() -> int:
    """0 if a refusal made here and now is seen to arrive; else the errno: ENODATA when nothing comes.

    Only trying tells: the socket opens in a network namespace of its own too, where no record ever comes, and in a pid
    namespace the records name other numbers than ours. Forks, and leaves one record in the machine's log.
    """
    try:
        records = open_source()
    except SyscallError as error:
        return error.errno or errno.EPERM
    with records:
        child = os.fork()
        if child == 0:
            _be_refused()
        os.waitpid(child, 0)
        return 0 if _arrives(records.fileno(), child) else errno.ENODATA


def _be_refused() -> None:
    try:
        prctl.set_no_new_privs(1)
        program = b"".join(struct.pack("<HBBI", *instruction) for instruction in _REFUSES_ONE)
        processes.load_seccomp(program, processes.SECCOMP_FILTER_FLAG_LOG)
        os.getppid()
    finally:
        os._exit(0)


def _arrives(records: int, pid: int) -> bool:
    deadline = time.monotonic() + _TRY_SECONDS
    # Not select(2): a supervisor of many shares looks again when it has more descriptors than that can name.
    poll = select.poll()
    poll.register(records, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            break
        record = parse(os.read(records, audit.MAX_RECORD_BYTES))
        if isinstance(record, CallRecord) and (record.pid, record.number) == (pid, _GETPPID):
            return True
    return False


def _call(fields: dict[str, bytes]) -> CallRecord:
    return CallRecord(
        pid=_number(fields["pid"]),
        thread=_untrusted(fields["comm"]),
        architecture=_number(fields["arch"], 16),
        number=_number(fields["syscall"]),
        action=_number(fields["code"].removeprefix(b"0x"), 16),
    )


def _access(fields: dict[str, bytes]) -> AccessRecord:
    rights, path = fields["blockers"], fields.get("path")
    if not re.fullmatch(rb"[a-z_.,]{1,512}", rights):
        raise ValueError(rights)
    return AccessRecord(_number(fields["domain"], 16), rights.decode(), None if path is None else _untrusted(path))


def _domain(fields: dict[str, bytes]) -> DomainRecord:
    pid = _number(fields["pid"]) if fields["status"] == b"allocated" else None
    return DomainRecord(_number(fields["domain"], 16), pid)


_PARSERS: dict[int, Callable[[dict[str, bytes]], Record]] = {
    SECCOMP: _call,
    LANDLOCK_ACCESS: _access,
    LANDLOCK_DOMAIN: _domain,
}


def _fields(text: bytes) -> dict[str, bytes]:
    """key=value pairs; none at all where anything else stands between them, or a key stands twice."""
    whole = _TEXT.fullmatch(text.rstrip(b"\0\n"))
    if whole is None:
        return {}
    found: dict[str, bytes] = {}
    place = 0
    while place < len(whole[1]):
        field = _FIELD.match(whole[1], place)
        if field is None or field[1].decode("ascii", "replace") in found:
            return {}
        found[field[1].decode("ascii", "replace")] = field[2]
        place = field.end()
    return found


def _number(text: bytes, base: int = 10) -> int:
    digits = rb"[0-9a-f]{1,16}" if base == 16 else rb"-?[0-9]{1,20}"
    if not re.fullmatch(digits, text):
        raise ValueError(text)
    return int(text, base)


def _untrusted(text: bytes) -> str:
    """A name as its process chose it, with everything spelled out that could change how the log looks."""
    if text.startswith(b'"'):
        raw = text[1:-1]
    elif re.fullmatch(rb"(?:[0-9A-F]{2})+", text):
        raw = bytes.fromhex(text.decode("ascii"))
    else:
        raw = text
    shown = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
