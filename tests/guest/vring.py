"""The driver's side of a split virtqueue, in memory that a test owns (virtio 1.3, section 2.7).

Tests may write any descriptor they like: nothing here checks what it is told to put on the ring.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

NEXT, WRITE, INDIRECT = 1, 2, 4
DESCRIPTOR = struct.Struct("<QIHH")
USED_ELEMENT = struct.Struct("<II")
PAGE = 4096


@dataclass(frozen=True)
class Buffer:
    """Guest-physical range."""

    address: int
    length: int


@dataclass(frozen=True)
class Descriptor:
    address: int
    length: int
    flags: int = 0
    next: int = 0


class GuestMemory:
    """One region of shared memory; guest-physical addresses start at *base*, the monitor's own at *user*."""

    def __init__(self, size: int = 32 << 20, base: int = 0x1000_0000, user: int = 0x7000_0000_0000) -> None:
        self.size, self.base, self.user = size, base, user
        self.fd = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self._free = 0

    def allocate(self, length: int, align: int = PAGE) -> Buffer:
        start = -(-self._free // align) * align
        if start + length > self.size:
            raise MemoryError("the test's guest memory is full")
        self._free = start + length
        return Buffer(self.base + start, length)

    def mark(self) -> int:
        return self._free

    def release(self, mark: int) -> None:
        """Give back everything allocated since `mark`."""
        self._free = mark

    def write(self, address: int, data: bytes) -> None:
        at = address - self.base
        self.map[at : at + len(data)] = data

    def read(self, address: int, length: int) -> bytes:
        at = address - self.base
        return self.map[at : at + length]

    def user_address(self, address: int) -> int:
        return address - self.base + self.user

    def close(self) -> None:
        self.map.close()
        os.close(self.fd)


class Ring:
    """One virtqueue. Owns its kick, call and error eventfds."""

    def __init__(self, memory: GuestMemory, size: int = 128) -> None:
        self.memory, self.size = memory, size
        self.table = memory.allocate(16 * size).address
        self.avail = memory.allocate(6 + 2 * size).address
        self.used = memory.allocate(6 + 8 * size).address
        self._parts = ((self.table, 16 * size), (self.avail, 6 + 2 * size), (self.used, 6 + 8 * size))
        for address, length in self._parts:
            memory.write(address, bytes(length))
        self.kick_fd, self.call_fd, self.error_fd = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(3))
        self.avail_index = 0
        self.used_index = 0
        self._next_slot = 0

    def put(self, descriptors: Sequence[Descriptor]) -> int:
        """Write descriptors to consecutive free slots, chained; return the first slot. Publishes nothing."""
        head = self._next_slot
        for number, descriptor in enumerate(descriptors):
            last = number == len(descriptors) - 1
            slot, following = (head + number) % self.size, (head + number + 1) % self.size
            flags = descriptor.flags if last else descriptor.flags | NEXT
            self.put_at(slot, Descriptor(descriptor.address, descriptor.length, flags, 0 if last else following))
        self._next_slot = (head + len(descriptors)) % self.size
        return head

    def put_at(self, slot: int, descriptor: Descriptor) -> None:
        """Write one descriptor exactly as given."""
        packed = DESCRIPTOR.pack(descriptor.address, descriptor.length, descriptor.flags, descriptor.next)
        self.memory.write(self.table + 16 * slot, packed)

    def publish(self, *heads: int) -> None:
        for head in heads:
            self.memory.write(self.avail + 4 + 2 * (self.avail_index % self.size), struct.pack("<H", head & 0xFFFF))
            self.avail_index = (self.avail_index + 1) & 0xFFFF
        self.memory.write(self.avail + 2, struct.pack("<H", self.avail_index))

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def wait_used(self, connection: socket.socket, seconds: float = 10) -> tuple[int, int]:
        """Return the next used element: head and bytes written.

        Raises TimeoutError, RingError (the error eventfd fired), ConnectionError (*connection* was closed).
        """
        deadline = time.monotonic() + seconds
        while self._device_index() == self.used_index:
            # used_event asks for the very next element, for devices with EVENT_IDX.
            self.memory.write(self.avail + 4 + 2 * self.size, struct.pack("<H", self.used_index))
            if self._device_index() != self.used_index:
                break
            left = deadline - time.monotonic()
            readable = self._readable(connection, max(left, 0))
            if self.call_fd in readable:
                os.eventfd_read(self.call_fd)
            elif self.error_fd in readable:
                raise RingError("the device stopped the ring")
            elif connection.fileno() in readable:
                raise ConnectionError("the vhost-user connection was closed while a request was on its way")
            elif left <= 0:
                raise TimeoutError("no used element in time")
        return self._take_used()

    def wait_used_unsignalled(self, seconds: float = 10) -> tuple[int, int]:
        """As `wait_used`, by looking at the used ring only: for tests that spoil the call eventfd."""
        deadline = time.monotonic() + seconds
        while self._device_index() == self.used_index:
            if time.monotonic() > deadline:
                raise TimeoutError("no used element in time")
            time.sleep(0.001)
        return self._take_used()

    def renew(self) -> None:
        """Start over at index 0, as a driver does after a reset."""
        for address, length in self._parts:
            self.memory.write(address, bytes(length))
        self.avail_index = self.used_index = self._next_slot = 0
        for fd in (self.kick_fd, self.call_fd, self.error_fd):
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)

    def _take_used(self) -> tuple[int, int]:
        at = self.used + 4 + 8 * (self.used_index % self.size)
        head, length = USED_ELEMENT.unpack(self.memory.read(at, 8))
        self.used_index = (self.used_index + 1) & 0xFFFF
        return head, length

    def _readable(self, connection: socket.socket, seconds: float) -> list[int]:
        poll = select.poll()
        for number in (self.call_fd, self.error_fd, connection.fileno()):
            poll.register(number, select.POLLIN)
        return [number for number, _ in poll.poll(seconds * 1000)]

    def _device_index(self) -> int:
        (index,) = struct.unpack("<H", self.memory.read(self.used + 2, 2))
        return int(index)

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.error_fd):
            os.close(fd)


class RingError(Exception):
    """The ring's error eventfd fired."""
