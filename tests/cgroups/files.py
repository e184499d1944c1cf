"""A byte-level guest that writes and reads files of a share, and says how fast it was."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode

CHUNK = 128 << 10


class Guest:
    """A byte-level guest that works on one file at a time."""

    def __init__(self, client: FrontEnd) -> None:
        self._client = client
        client.start()
        client.init()

    def write(self, name: bytes, size: int, flags: int = 0, chunk: int = CHUNK, sync_every: int | None = None) -> float:
        """Writes, and syncs at the end or oftener; returns bytes a second."""
        body = self._client.call(Opcode.CREATE, fuse.create(name, os.O_RDWR | flags))
        node, handle = fuse.Entry.parse(body).node, fuse.parse_handle(body[-16:])
        data = os.urandom(chunk)
        start = time.monotonic()
        for offset in range(0, size, chunk):
            self._client.call(Opcode.WRITE, fuse.write(handle, offset, data), node)
            if sync_every and (offset + chunk) % sync_every == 0:
                self._client.call(Opcode.FSYNC, fuse.release(handle)[:16], node)
        self._client.call(Opcode.FSYNC, fuse.release(handle)[:16], node)
        return size / (time.monotonic() - start)

    def read(self, name: bytes, size: int) -> float:
        """Reads; returns bytes a second."""
        node = self._client.lookup(name).node
        handle = self._client.open(node)
        start = time.monotonic()
        for offset in range(0, size, CHUNK):
            assert len(self._client.read(node, handle, offset, CHUNK)) == CHUNK
        return size / (time.monotonic() - start)


def forget(path: Path) -> None:
    """Drops its pages from the cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
