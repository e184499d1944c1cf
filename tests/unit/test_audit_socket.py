"""A supervisor is woken by the audit records it can use, and by no others."""

from __future__ import annotations

import socket
import struct

from virtiofs_sandbox.confine import records
from virtiofs_sandbox.syscalls import audit

# A user's login, a program that is executed: what an audited machine has thousands of.
FOREIGN = (1112, 1300, 1309, 1302)


def message(kind: int) -> bytes:
    """struct nlmsghdr, and a text."""
    return struct.pack("=IHHII", 20, kind, 0, 0, 0) + b"text"


def test_records_of_other_kinds_never_arrive() -> None:
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        reading.setblocking(False)
        kinds = (records.SECCOMP, records.LANDLOCK_ACCESS, records.LANDLOCK_DOMAIN)
        audit.keep_only(reading, kinds)
        for kind in (*FOREIGN, records.SECCOMP, *FOREIGN, records.LANDLOCK_ACCESS, records.LANDLOCK_DOMAIN):
            writing.send(message(kind))
        assert [reading.recv(100) for _ in kinds] == [message(kind) for kind in kinds]
        try:
            left = reading.recv(100)
        except BlockingIOError:
            left = b""
        assert left == b""
