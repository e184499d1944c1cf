"""The kernel's audit records, for a bystander: netlink's audit family has a multicast group that only reads."""

from __future__ import annotations

import socket

from virtiofs_sandbox.syscalls.base import named

NETLINK_AUDIT = 9
AUDIT_NLGRP_READLOG = 1
MAX_RECORD_BYTES = 8970
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def open_records() -> socket.socket:
    """A socket on which each record of the machine arrives as one datagram; it never waits, and sends nothing.

    Needs CAP_AUDIT_READ in the initial user namespace; records come to the initial network namespace only. Raises
    SyscallError. netlink(7), audit_multicast_bind in kernel/audit.c.
    """
    records: socket.socket = named("socket(NETLINK_AUDIT)", socket.socket, socket.AF_NETLINK, _KIND, NETLINK_AUDIT)
    try:
        named("bind(NETLINK_AUDIT)", records.bind, (0, 1 << (AUDIT_NLGRP_READLOG - 1)))
    except OSError:
        records.close()
        raise
    return records
