"""A monitor and its guest in one object: negotiates, owns the rings, and sends FUSE requests byte for byte.

    with FrontEnd.connect(socket_path) as client:
        client.start()
        client.init()
        reply = client.call(Opcode.LOOKUP, fuse.name(b"file"), node=fuse.ROOT)

What tests need to do wrong they do on `channel` (vhost-user messages) and on `rings` (descriptors).
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest import fuse
from tests.guest.fuse import Opcode, Reply
from tests.guest.vhost import Channel, Feature, ProtocolFeature, Request
from tests.guest.vring import WRITE, Descriptor, GuestMemory, Ring

FEATURES = Feature.VERSION_1 | Feature.PROTOCOL_FEATURES | Feature.INDIRECT_DESC | Feature.EVENT_IDX
PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.CONFIG
)
HIPRIO, FIRST_REQUEST_QUEUE = 0, 1


class FuseError(OSError):
    """The file system answered with an errno."""


@dataclass(frozen=True)
class Offered:
    features: int
    protocol_features: int
    queues: int


class FrontEnd:
    """One vhost-user connection with its guest memory and rings. Every wait is bounded by *seconds*."""

    def __init__(self, channel: Channel, seconds: float = 10) -> None:
        self.channel = channel
        self.seconds = seconds
        self.memory = GuestMemory()
        self.rings: list[Ring] = []
        self.offered = Offered(0, 0, 0)
        self._unique = itertools.count(2, 2)

    @classmethod
    def connect(cls, path: Path, seconds: float = 10) -> Self:
        return cls(Channel.connect(path, seconds), seconds)

    def negotiate(self, features: int = FEATURES, protocol_features: int = PROTOCOL_FEATURES) -> Offered:
        """Agree on everything wanted that is offered."""
        channel = self.channel
        offered = channel.ask_u64(Request.GET_FEATURES)
        protocol = channel.ask_u64(Request.GET_PROTOCOL_FEATURES)
        channel.send(Request.SET_PROTOCOL_FEATURES, struct.pack("<Q", protocol & protocol_features))
        queues = channel.ask_u64(Request.GET_QUEUE_NUM) if protocol & ProtocolFeature.MQ else 2
        channel.send(Request.SET_OWNER)
        channel.send(Request.SET_FEATURES, struct.pack("<Q", offered & features))
        self.offered = Offered(offered & features, protocol & protocol_features, queues)
        return self.offered

    def share_memory(self) -> None:
        memory = self.memory
        region = struct.pack("<QQQQ", memory.base, memory.size, memory.user, 0)
        if self.offered.protocol_features & ProtocolFeature.CONFIGURE_MEM_SLOTS:
            payload = struct.pack("<Q", 0) + region
            status = self.channel.acked(Request.ADD_MEM_REG, payload, [memory.fd])
            if status != 0:
                raise AssertionError(f"ADD_MEM_REG was refused: {status}")
        else:
            self.channel.send(Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region, [memory.fd])

    def add_ring(self, size: int = 128) -> Ring:
        """Set up and start the next queue."""
        index = len(self.rings)
        ring = Ring(self.memory, size)
        self.rings.append(ring)
        self.set_up_ring(index)
        self.enable(index, True)
        return ring

    def set_up_ring(self, index: int, base: int = 0) -> None:
        """Send everything about ring *index* but ENABLE."""
        ring, user = self.rings[index], self.memory.user_address
        send = self.channel.send
        send(Request.SET_VRING_NUM, struct.pack("<II", index, ring.size))
        send(Request.SET_VRING_BASE, struct.pack("<II", index, base))
        addresses = (user(ring.table), user(ring.used), user(ring.avail), 0)
        send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", index, 0, *addresses))
        send(Request.SET_VRING_KICK, struct.pack("<Q", index), [ring.kick_fd])
        send(Request.SET_VRING_CALL, struct.pack("<Q", index), [ring.call_fd])
        send(Request.SET_VRING_ERR, struct.pack("<Q", index), [ring.error_fd])

    def enable(self, index: int, on: bool) -> None:
        payload = struct.pack("<II", index, int(on))
        if self.offered.protocol_features & ProtocolFeature.REPLY_ACK:
            status = self.channel.acked(Request.SET_VRING_ENABLE, payload)
            if status != 0:
                raise AssertionError(f"SET_VRING_ENABLE was refused: {status}")
        else:
            self.channel.send(Request.SET_VRING_ENABLE, payload)

    def start(self, queues: int = 2) -> Self:
        """Negotiate, share the memory, start the high-priority queue and request queues: *queues* in all."""
        self.negotiate()
        self.share_memory()
        for _ in range(queues):
            self.add_ring()
        return self

    def stop_ring(self, index: int) -> int:
        """Disable a ring and return the index the device got to."""
        self.enable(index, False)
        payload = self.channel.ask(Request.GET_VRING_BASE, struct.pack("<II", index, 0))
        (_, base) = struct.unpack("<II", payload)
        return int(base)

    def reset(self) -> None:
        """Reset the device and start it again, as a rebooting guest does on the same connection."""
        for index in range(len(self.rings)):
            self.stop_ring(index)
        self.channel.acked(Request.RESET_DEVICE)
        for index, ring in enumerate(self.rings):
            ring.renew()
            self.set_up_ring(index)
            self.enable(index, True)

    def init(self, flags: int = 0, minor: int = fuse.MINOR) -> fuse.InitReply:
        return fuse.InitReply.parse(self.call(Opcode.INIT, fuse.init(minor, flags), node=0))

    def call(self, opcode: int, body: bytes = b"", node: int = fuse.ROOT, *, room: int = 8192, uid: int = 0) -> bytes:
        """Send a well-formed request and return the reply's body. Raises FuseError, RingError, TimeoutError."""
        reply = self.request(opcode, body, node, room=room, uid=uid)
        if reply.error:
            raise FuseError(reply.error, f"{Opcode(opcode).name}: {os.strerror(reply.error)}")
        return reply.body

    def request(
        self,
        opcode: int,
        body: bytes = b"",
        node: int = fuse.ROOT,
        *,
        room: int = 8192,
        uid: int = 0,
        queue: int = FIRST_REQUEST_QUEUE,
    ) -> Reply:
        """Send a well-formed request, room for *room* bytes of answer, and return the reply whatever it is."""
        length = fuse.IN_HEADER.size + len(body)
        head = fuse.header(opcode, next(self._unique), node, length, uid=uid, gid=uid)
        return self.send_raw(head + body, fuse.OUT_HEADER.size + room, queue)

    def send_raw(
        self, request: bytes, room: int, queue: int = FIRST_REQUEST_QUEUE, pieces: Sequence[int] = ()
    ) -> Reply:
        """Put any bytes on a ring and return what came back; `length` 0 if nothing did.

        *pieces* cuts the request into descriptors of these lengths (the last takes the rest).
        """
        ring, mark = self.rings[queue], self.memory.mark()
        source = self.memory.allocate(max(len(request), 1))
        answer = self.memory.allocate(max(room, 1))
        self.memory.write(source.address, request)
        self.memory.write(answer.address, bytes(min(room, fuse.OUT_HEADER.size)))
        chain, at = [], 0
        for length in [*pieces, len(request) - sum(pieces)]:
            if length:
                chain.append(Descriptor(source.address + at, length))
                at += length
        if room:
            chain.append(Descriptor(answer.address, room, WRITE))
        head = ring.put(chain)
        ring.publish(head)
        ring.kick()
        used_head, length = ring.wait_used(self.channel.line, self.seconds)
        if used_head != head:
            raise AssertionError(f"the device returned chain {used_head}, not {head}")
        data = self.memory.read(answer.address, min(length, room))
        self.memory.release(mark)
        if length < fuse.OUT_HEADER.size:
            return Reply(length, 0, 0, b"")
        total, error, unique = fuse.OUT_HEADER.unpack_from(data)
        return Reply(length, -error, unique, data[fuse.OUT_HEADER.size : total])

    def serves(self) -> bool:
        """Whether a plain request is answered as it should be."""
        return self.request(Opcode.GETATTR, fuse.getattr_of()).error == 0

    def lookup(self, text: bytes, node: int = fuse.ROOT) -> fuse.Entry:
        return fuse.Entry.parse(self.call(Opcode.LOOKUP, fuse.name(text), node))

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        return fuse.parse_handle(self.call(Opcode.OPEN, fuse.open_flags(flags), node))

    def read(self, node: int, handle: int, offset: int, size: int) -> bytes:
        return self.call(Opcode.READ, fuse.read(handle, offset, size), node, room=size)

    def list(self, node: int = fuse.ROOT) -> list[bytes]:
        """The names in a directory, through READDIR."""
        handle = fuse.parse_handle(self.call(Opcode.OPENDIR, fuse.open_flags(os.O_RDONLY), node))
        names: list[bytes] = []
        offset = 0
        while entries := list(
            fuse.parse_directory(self.call(Opcode.READDIR, fuse.read(handle, offset, 4096), node, room=4096))
        ):
            names += [entry.name for entry in entries]
            offset = entries[-1].offset
        self.call(Opcode.RELEASEDIR, fuse.release(handle), node)
        return names

    def close(self) -> None:
        self.channel.close()
        for ring in self.rings:
            ring.close()
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
