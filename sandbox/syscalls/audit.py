"""The kernel's audit records, for a bystander: netlink's audit family has a multicast group that only reads."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from virtiofs_sandbox.syscalls.base import named

NETLINK_AUDIT = 9
AUDIT_NLGRP_READLOG = 1
MAX_RECORD_BYTES = 8970
_SO_ATTACH_FILTER = 26
# Classic BPF: load the half word of nlmsghdr.nlmsg_type, jump if it equals, return so many bytes of the message.
_LOAD_TYPE, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x15, 0x06
_TYPE_OFFSET, _ALL_BYTES = 4, 0xFFFFFFFF
_INSTRUCTION = struct.Struct("=HBBI")
_KIND = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def open_records(kinds: Sequence[int]) -> socket.socket:
    """A socket on which each record of these *kinds* arrives as one datagram; it never waits, and sends nothing.

    Needs CAP_AUDIT_READ in the initial user namespace; records come to the initial network namespace only. Raises
    SyscallError. netlink(7), audit_multicast_bind in kernel/audit.c.
    """
    records: socket.socket = named("socket(NETLINK_AUDIT)", socket.socket, socket.AF_NETLINK, _KIND, NETLINK_AUDIT)
    try:
        keep_only(records, kinds)
        named("bind(NETLINK_AUDIT)", records.bind, (0, 1 << (AUDIT_NLGRP_READLOG - 1)))
    except OSError:
        records.close()
        raise
    return records


def keep_only(records: socket.socket, kinds: Sequence[int]) -> None:
    """Has the kernel drop all other messages: where a machine is audited there are thousands, each of which would wake
    us. Raises SyscallError. socket(7), SO_ATTACH_FILTER.
    """
    # A load takes the bytes as the network's, and nlmsg_type is in the order of the machine.
    compare = ((_JUMP_IF_EQUAL, len(kinds) - at, 0, socket.htons(kind)) for at, kind in enumerate(kinds))
    program = ((_LOAD_TYPE, 0, 0, _TYPE_OFFSET), *compare, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, _ALL_BYTES))
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*line) for line in program))
    described = struct.pack("@HP", len(program), ctypes.addressof(code))
    named("setsockopt(SO_ATTACH_FILTER)", records.setsockopt, socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)
