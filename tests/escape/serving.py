"""Every kind of request a worker answers, one after the other, from a monitor and guest made of bytes."""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.ipc import messages
from virtiofs_sandbox.ipc.config import Filters, LiveSettings, Rules, WorkerConfig, encode_config, encode_settings
from virtiofs_sandbox.ipc.memfds import sealed_document
from virtiofs_sandbox.ipc.messages import Direction, Kind, Message

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import ROOT, Opcode
from tests.guest.vhost import Channel, Request

GENERATION = 1
READ_WRITE = os.O_RDWR
UPDATE_MODE, UPDATE_OWNER, UPDATE_SIZE, UPDATE_TIMES = 1 << 0, 1 << 1 | 1 << 2, 1 << 3, 1 << 4 | 1 << 5
READ_SECONDS = 10.0
QUEUES = 3


def document(plan: LaunchPlan, rules: Rules = Rules(), *, tree: bool = False) -> bytes:  # noqa: B008 (immutable)
    programs = plan.filters
    config = WorkerConfig(
        version=2,
        share=plan.share,
        generation=GENERATION,
        tag="tag",
        readonly=False,
        cache="auto",
        writeback=False,
        xattr=True,
        timeout_ms=None,
        ids=plan.ids,
        unmapped="forbid",
        attributes=plan.attributes,
        tree=tree,
        rules=rules,
        filters=Filters.of_programs(programs.keeper, programs.control, programs.queue) if programs else None,
        limits=None,
        queues=2,
        log_level="debug",
    )
    return encode_config(config)


def connect(control: socket.socket) -> FrontEnd:
    """Waits for READY and hands over a connection; its other end, as a monitor that has not spoken yet."""
    control.settimeout(READ_SECONDS)
    ready = messages.decode(control.recv(messages.SIZE), 0, Direction.TO_SUPERVISOR)
    assert ready.kind is Kind.READY
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(control, [messages.encode(Message(Kind.START, GENERATION))], [theirs.fileno()])
    return FrontEnd(Channel(ours))


def every_request(control: socket.socket, ending: str) -> dict[str, Any]:
    """Uses a worker from several queues, across a reset and changes of guest memory and rules; it ends by *ending*.

    Returns the opcodes that were refused, with the errno.
    """
    with connect(control) as guest:
        guest.start(queues=QUEUES)
        guest.init()
        refused = {name: errno for queue in range(1, QUEUES) for name, errno in _requests(guest, queue).items()}
        odd = _odd_values(guest)
        guest.reset()
        guest.init()
        _replace_memory(guest)
        _hide_a_file(guest, control)
        serves = guest.serves()
        _end(guest, control, ending)
        return {"refused": refused, "odd": odd, "serves": serves}


def _replace_memory(guest: FrontEnd) -> None:
    """Takes the guest's memory away under stopped rings, and gives it back."""
    bases = [guest.stop_ring(index) for index in range(len(guest.rings))]
    region = struct.pack("<QQQQQ", 0, guest.memory.base, guest.memory.size, guest.memory.user, 0)
    assert guest.channel.acked(Request.REM_MEM_REG, region) == 0
    guest.share_memory()
    for index, base in enumerate(bases):
        guest.set_up_ring(index, base)
        guest.enable(index, True)


def _hide_a_file(guest: FrontEnd, control: socket.socket) -> None:
    """Live settings close what is open of a file that they hide."""
    guest.open(guest.lookup(b"file").node)
    settings = LiveSettings(rules=Rules(hide=("file",)), limits=None, log_level="debug")
    with sealed_document("settings", encode_settings(settings)) as memfd:
        message = messages.encode(Message(Kind.SETTINGS, GENERATION, a=1))
        socket.send_fds(control, [message], [memfd.fileno()])
    while (said := messages.decode(control.recv(messages.SIZE), 0, Direction.TO_SUPERVISOR)).kind is not Kind.APPLIED:
        pass
    assert (said.code, said.a, said.b) == (0, 1, 1)


def _end(guest: FrontEnd, control: socket.socket, ending: str) -> None:
    match ending:
        case "stopped":
            control.send(messages.encode(Message(Kind.STOP, GENERATION, a=1000)))
        case "refused":
            guest.channel.line.send(struct.pack("<III", 0xFFFF, 1, 0))
        case "memory gone":
            os.ftruncate(guest.memory.fd, 0)
            guest.rings[1].kick()
        case _:
            return
    # Until the worker's end of the connection is closed: leaving first would be another ending.
    while guest.channel.line.recv(4096):
        pass


def _requests(guest: FrontEnd, queue: int) -> dict[str, int]:
    """One of each kind, on one queue; the names it makes are that queue's own."""
    refused: dict[str, int] = {}

    def ask(opcode: Opcode, body: bytes = b"", node: int = ROOT) -> bytes:
        reply = guest.request(opcode, body, node, queue=queue)
        if reply.error:
            refused[opcode.name] = reply.error
        return reply.body

    def own(name: bytes) -> bytes:
        return b"%s-%d" % (name, queue)

    created = ask(Opcode.CREATE, fuse.create(own(b"made"), READ_WRITE))
    node = fuse.Entry.parse(created).node
    handle = fuse.parse_handle(created[-16:])
    other = fuse.Entry.parse(ask(Opcode.LOOKUP, fuse.name(b"file"))).node
    directory = fuse.Entry.parse(ask(Opcode.MKDIR, fuse.mkdir(own(b"directory-made")))).node
    ask(Opcode.WRITE, fuse.write(handle, 0, b"x" * 4096), node)
    ask(Opcode.READ, fuse.read(handle, 0, 4096), node)
    ask(Opcode.FALLOCATE, struct.pack("<QQQII", handle, 0, 8192, 0, 0), node)
    ask(Opcode.LSEEK, struct.pack("<QQII", handle, 0, os.SEEK_DATA, 0), node)
    ask(Opcode.COPY_FILE_RANGE, struct.pack("<7Q", handle, 0, node, handle, 8192, 100, 0), node)
    ask(Opcode.FLUSH, struct.pack("<QIIQ", handle, 0, 0, 0), node)
    for flags in (0, 1):
        ask(Opcode.FSYNC, struct.pack("<QII", handle, flags, 0), node)
    for valid in (UPDATE_MODE, UPDATE_OWNER, UPDATE_SIZE, UPDATE_TIMES):
        ask(Opcode.SETATTR, _setattr(valid), node)
    ask(Opcode.GETATTR, fuse.getattr_of(), node)
    ask(Opcode.GETATTR, fuse.getattr_of(handle), node)
    ask(Opcode.ACCESS, struct.pack("<II", os.R_OK, 0), node)
    ask(Opcode.STATFS)
    ask(Opcode.SETXATTR, struct.pack("<II", 5, 0) + fuse.name(b"user.probe") + b"value", node)
    ask(Opcode.GETXATTR, struct.pack("<II", 64, 0) + fuse.name(b"user.probe"), node)
    ask(Opcode.LISTXATTR, struct.pack("<II", 64, 0), node)
    ask(Opcode.REMOVEXATTR, fuse.name(b"user.probe"), node)
    ask(Opcode.RELEASE, fuse.release(handle), node)
    opened = fuse.parse_handle(ask(Opcode.OPEN, fuse.open_flags(READ_WRITE | os.O_TRUNC), node))
    ask(Opcode.RELEASE, fuse.release(opened), node)
    listed = fuse.parse_handle(ask(Opcode.OPENDIR, fuse.open_flags(os.O_RDONLY)))
    ask(Opcode.READDIR, fuse.read(listed, 0, 4096))
    ask(Opcode.READDIRPLUS, fuse.read(listed, 0, 4096))
    ask(Opcode.FSYNCDIR, struct.pack("<QII", listed, 0, 0))
    ask(Opcode.RELEASEDIR, fuse.release(listed))
    ask(Opcode.SYMLINK, fuse.name(own(b"link-made")) + fuse.name(b"anywhere"))
    ask(Opcode.READLINK, b"", fuse.Entry.parse(ask(Opcode.LOOKUP, fuse.name(own(b"link-made")))).node)
    for kind, name in ((0o100644, b"regular"), (0o010644, b"fifo"), (0o140644, b"socket")):
        ask(Opcode.MKNOD, struct.pack("<IIII", kind, 0, 0, 0) + fuse.name(own(name)))
    ask(Opcode.LINK, struct.pack("<Q", other) + fuse.name(own(b"second-name")), directory)
    ask(Opcode.RENAME, fuse.rename(own(b"made"), directory, own(b"moved")))
    ask(Opcode.UNLINK, fuse.name(own(b"moved")), directory)
    ask(Opcode.UNLINK, fuse.name(own(b"second-name")), directory)
    ask(Opcode.RMDIR, fuse.name(own(b"directory-made")))
    ask(Opcode.SYNCFS, struct.pack("<Q", 0))
    # FORGET has no answer, and goes by the queue of high priority.
    head = fuse.header(Opcode.FORGET, 0, other, fuse.IN_HEADER.size + 8)
    guest.send_raw(head + fuse.forget(1), 0, queue=0)
    return refused


def _odd_values(guest: FrontEnd) -> dict[str, int]:
    """Values that no filter has: the worker answers them itself. Opcode -> errno."""
    node = guest.lookup(b"file").node
    handle = guest.open(node, READ_WRITE)
    bodies = {
        Opcode.FALLOCATE: (struct.pack("<QQQII", handle, 0, 4096, 1 << 8, 0), node),
        Opcode.LSEEK: (struct.pack("<QQII", handle, 0, 9, 0), node),
        Opcode.COPY_FILE_RANGE: (struct.pack("<7Q", handle, 0, node, handle, 8192, 100, 1), node),
        Opcode.SETXATTR: (struct.pack("<II", 5, 1 << 4) + fuse.name(b"user.probe") + b"value", node),
        Opcode.MKNOD: (struct.pack("<IIII", 0o020644, 0x0103, 0, 0) + fuse.name(b"device"), ROOT),
        Opcode.RENAME2: (struct.pack("<QII", ROOT, 1 << 3, 0) + fuse.name(b"file") + fuse.name(b"moved"), ROOT),
    }
    answers = {opcode.name: guest.request(opcode, body, of).error for opcode, (body, of) in bodies.items()}
    guest.call(Opcode.RELEASE, fuse.release(handle), node)
    return answers


def _setattr(valid: int) -> bytes:
    """struct fuse_setattr_in: mode 0600, owner 0 or that of a single-id map's root, 100 bytes, both times 1."""
    owner = os.geteuid()
    return struct.pack("<IIQQQQQQIIIIIIII", valid, 0, 0, 100, 0, 1, 1, 0, 0, 0, 0, 0o600, 0, owner, owner, 0)
