"""A cheap guest on one share, which knows what each of its answers has to be."""

from __future__ import annotations

import errno
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from tests.guest import fuse
from tests.guest.frontend import FIRST_REQUEST_QUEUE, FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.vring import WRITE, Descriptor

# A worker that was killed again and again is launched again after half a minute at most.
PATIENCE = 60.0
_ROOM = 64
_PIPELINED = 24
_CHURN_BYTES = 2048


class WrongAnswerError(AssertionError):
    """A request was answered as no request of a share may be."""


@dataclass(frozen=True)
class _Flying:
    """A READ that was sent: where its answer will be."""

    unique: int
    address: int


class Client:
    """Connected when made; `begin` makes it a guest that has mounted. What ends the connection is a ConnectionError.

    *readonly* and *hidden* are what the policy said when it came.
    """

    _names = itertools.count(1)

    def __init__(self, share: str, source: Path, socket: Path, *, readonly: bool, hidden: bool) -> None:
        self.share, self.readonly, self.hidden = share, readonly, hidden
        # Why its connection is made to end.
        self.doomed: str | None = None
        self._source = source
        self._front = FrontEnd.connect(socket, PATIENCE)
        self._flying: dict[int, _Flying] = {}
        self._mark = 0
        self._uniques = itertools.count(1 << 32, 2)

    def begin(self) -> None:
        self._front.start()
        self._front.init()
        self._node = self._front.lookup(b"who").node
        self._handle = self._front.open(self._node)

    def look(self) -> None:
        """Reads what says whose share it is, lists, and asks for what may be hidden."""
        self.collect()
        self._expect(self._front.read(self._node, self._handle, 0, _ROOM), self.share.encode(), "READ")
        listed = set(self._front.list())
        wanted = {b"who"} if self.hidden else {b"who", b"secret"}
        if not wanted <= listed or (self.hidden and b"secret" in listed):
            raise WrongAnswerError(f"{self.share}: READDIR says {listed}, wanted {wanted}")
        error = self._front.request(Opcode.LOOKUP, fuse.name(b"secret")).error
        self._expect(error, errno.ENOENT if self.hidden else 0, "LOOKUP of what a rule may hide")

    def change(self) -> None:
        """Makes a file, looks at it from the host, and removes it; on a read-only share it must be refused."""
        self.collect()
        name = f"churn-{os.getpid()}-{next(self._names)}".encode()
        reply = self._front.request(Opcode.CREATE, fuse.create(name, os.O_RDWR))
        if self.readonly:
            self._expect(reply.error, errno.EROFS, "CREATE on a read-only share")
            return
        self._expect(reply.error, 0, "CREATE")
        node, handle = (
            fuse.Entry.parse(reply.body).node,
            fuse.parse_handle(reply.body[fuse.ENTRY.size + fuse.ATTR.size :]),
        )
        data = (self.share.encode() + b" ") * (_CHURN_BYTES // (len(self.share) + 1))
        written = self._front.call(Opcode.WRITE, fuse.write(handle, 0, data), node)
        self._expect(int.from_bytes(written[:4], "little"), len(data), "WRITE")
        self._expect((self._source / os.fsdecode(name)).read_bytes(), data, "what the host sees of a WRITE")
        self._front.call(Opcode.RELEASE, fuse.release(handle), node)
        self._front.call(Opcode.UNLINK, fuse.name(name))
        self._front.request(Opcode.FORGET, fuse.forget(1), node, room=0)
        if (self._source / os.fsdecode(name)).exists():
            raise WrongAnswerError(f"{self.share}: a file that was unlinked is there")

    def send(self) -> None:
        """Puts many READs on the ring and does not wait."""
        ring, memory = self._front.rings[FIRST_REQUEST_QUEUE], self._front.memory
        heads = []
        if not self._flying:
            self._mark = memory.mark()
        for _ in range(_PIPELINED - len(self._flying)):
            unique, body = next(self._uniques), fuse.read(self._handle, 0, _ROOM)
            request = fuse.header(Opcode.READ, unique, self._node, fuse.IN_HEADER.size + len(body)) + body
            source = memory.allocate(len(request), 8)
            answer = memory.allocate(fuse.OUT_HEADER.size + _ROOM, 8)
            memory.write(source.address, request)
            chain = [Descriptor(source.address, len(request)), Descriptor(answer.address, answer.length, WRITE)]
            head = ring.put(chain)
            self._flying[head] = _Flying(unique, answer.address)
            heads.append(head)
        ring.publish(*heads)
        ring.kick()

    def collect(self) -> None:
        """Waits for the answers of all that was sent: each comes once, to the request that it names."""
        if not self._flying:
            return
        ring, memory = self._front.rings[FIRST_REQUEST_QUEUE], self._front.memory
        while self._flying:
            head, length = ring.wait_used(self._front.channel.line, PATIENCE)
            sent = self._flying.pop(head, None)
            if sent is None:
                raise WrongAnswerError(f"{self.share}: chain {head} came back, which was not out")
            answer = memory.read(sent.address, length)
            total, error, unique = fuse.OUT_HEADER.unpack_from(answer)
            self._expect((error, unique), (0, sent.unique), "READ in flight")
            self._expect(answer[fuse.OUT_HEADER.size : total], self.share.encode(), "READ in flight")
        memory.release(self._mark)

    def is_closed(self) -> bool:
        """Waits until the other end has closed the connection."""
        return self._front.channel.is_closed()

    def close(self) -> None:
        """Without a word, whatever is in flight."""
        self._front.close()

    def _expect(self, found: object, wanted: object, what: str) -> None:
        if found != wanted:
            raise WrongAnswerError(f"{self.share}: {what} gave {found!r}, not {wanted!r}")
