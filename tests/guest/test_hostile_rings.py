"""A ring that breaks the rules stops, or ends its own connection; the next client is served (I5)."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

import pytest

from tests.guest import fuse
from tests.guest.frontend import FIRST_REQUEST_QUEUE, FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import Service
from tests.guest.vring import DESCRIPTOR, INDIRECT, NEXT, WRITE, Descriptor, Ring, RingError

Attack = Callable[[FrontEnd, Ring], None]
LIMIT = 5.0


def request_at(client: FrontEnd) -> tuple[int, int]:
    """A good GETATTR in guest memory: its address and length."""
    body = fuse.getattr_of()
    data = fuse.header(Opcode.GETATTR, 1, fuse.ROOT, fuse.IN_HEADER.size + len(body)) + body
    buffer = client.memory.allocate(len(data))
    client.memory.write(buffer.address, data)
    return buffer.address, len(data)


def chain(*descriptors: tuple[int, Descriptor]) -> Attack:
    """Publishes slot 0 after writing descriptors exactly as given."""

    def attack(client: FrontEnd, ring: Ring) -> None:
        for slot, descriptor in descriptors:
            ring.put_at(slot, descriptor)
        ring.publish(0)

    return attack


def good_then(last: Descriptor) -> Attack:
    """A good readable part, then a descriptor that is not."""

    def attack(client: FrontEnd, ring: Ring) -> None:
        address, length = request_at(client)
        ring.put_at(0, Descriptor(address, length, NEXT, 1))
        ring.put_at(1, last)
        ring.publish(0)

    return attack


def indirect(length: int, content: Callable[[int], bytes], flags: int = INDIRECT) -> Attack:
    def attack(client: FrontEnd, ring: Ring) -> None:
        table = client.memory.allocate(4096).address
        client.memory.write(table, content(table))
        ring.put_at(0, Descriptor(table, length, flags, 0))
        ring.publish(0)

    return attack


def available_index(ahead: int) -> Attack:
    def attack(client: FrontEnd, ring: Ring) -> None:
        client.memory.write(ring.avail + 2, struct.pack("<H", (ring.avail_index + ahead) & 0xFFFF))

    return attack


def available_head(value: int) -> Attack:
    return lambda client, ring: ring.publish(value)


def twice_the_same_head(client: FrontEnd, ring: Ring) -> None:
    address, length = request_at(client)
    ring.publish(*[ring.put([Descriptor(address, length)])] * 3)


def answer_over_the_ring(client: FrontEnd, ring: Ring) -> None:
    address, length = request_at(client)
    ring.publish(ring.put([Descriptor(address, length), Descriptor(ring.table, 16 * ring.size, WRITE)]))


OUTSIDE = 0x10
# The ring cannot be gone on with.
STOPPING: dict[str, Attack] = {
    "a loop of one": chain((0, Descriptor(0x1000_0000, 16, NEXT, 0))),
    "a loop of two": chain((0, Descriptor(0x1000_0000, 16, NEXT, 1)), (1, Descriptor(0x1000_0000, 16, NEXT, 0))),
    "next outside the table": chain((0, Descriptor(0x1000_0000, 16, NEXT, 0xFFFF))),
    "head outside the table": available_head(0xFFFF),
    "head one past the table": available_head(128),
    "available index far ahead": available_index(0x8000),
    "available index one too far": available_index(129),
    "available index backwards": available_index(-1),
    "address outside memory": chain((0, Descriptor(OUTSIDE, 64))),
    "address at the top": chain((0, Descriptor(2**64 - 8, 64))),
    "length past the end": chain((0, Descriptor(0x1000_0000, 0xFFFF_FFFF))),
    "answer outside memory": good_then(Descriptor(OUTSIDE, 4096, WRITE)),
    "answer past the end": good_then(Descriptor(0x1000_0000, 0xFFFF_F000, WRITE)),
    "readable after writable": chain(
        (0, Descriptor(0x1000_0000, 64, WRITE | NEXT, 1)), (1, Descriptor(0x1000_0000, 64))
    ),
    "indirect of odd length": indirect(17, lambda table: bytes(17)),
    "indirect of no length": indirect(0, lambda table: b""),
    "indirect longer than memory": indirect(0xFFFF_FFF0, lambda table: bytes(16)),
    "indirect and next": indirect(16, lambda table: bytes(16), INDIRECT | NEXT),
    "indirect within indirect": indirect(16, lambda table: DESCRIPTOR.pack(table, 16, INDIRECT, 0)),
    "indirect looping": indirect(32, lambda table: DESCRIPTOR.pack(table, 16, NEXT, 0) * 2),
    "indirect next outside": indirect(16, lambda table: DESCRIPTOR.pack(table, 16, NEXT, 500)),
    "indirect pointing outside": indirect(16, lambda table: DESCRIPTOR.pack(OUTSIDE, 64, 0, 0)),
}
# Odd, but each chain can be told from the next: the request is refused, or read as far as it goes.
RETURNED: dict[str, Attack] = {
    "zero length": chain((0, Descriptor(0x1000_0000, 0))),
    "unknown flags": chain((0, Descriptor(0x1000_0000, 64, 0xFFF8))),
    "only writable": chain((0, Descriptor(0x1000_0000 + (16 << 20), 4096, WRITE))),
    "one head three times": twice_the_same_head,
    "answer over the ring itself": answer_over_the_ring,
}


def settle(client: FrontEnd) -> str:
    """Wait for what the device does about it: one of the things it may do. Raises TimeoutError on none."""
    ring = client.rings[FIRST_REQUEST_QUEUE]
    try:
        ring.wait_used(client.channel.line, LIMIT)
    except RingError:
        return "ring stopped"
    except ConnectionError:
        return "connection closed"
    return "request returned"


def attacked(client: FrontEnd, attack: Attack) -> str:
    ring = client.rings[FIRST_REQUEST_QUEUE]
    attack(client, ring)
    ring.kick()
    return settle(client)


def assert_next_is_served(service: Service) -> None:
    with FrontEnd.connect(service.socket) as following:
        following.start().init()
        assert following.serves()


@pytest.mark.parametrize("attack", STOPPING.values(), ids=STOPPING.keys())
def test_a_broken_ring_stops_with_its_error_event_and_the_next_client_is_served(
    service: Service, client: FrontEnd, attack: Attack
) -> None:
    assert attacked(client, attack) == "ring stopped"
    client.channel.close()
    assert_next_is_served(service)


@pytest.mark.parametrize("attack", STOPPING.values(), ids=STOPPING.keys())
def test_a_broken_ring_leaves_the_other_rings_of_its_guest_alone(client: FrontEnd, attack: Attack) -> None:
    client.add_ring()
    attacked(client, attack)
    assert client.request(Opcode.GETATTR, fuse.getattr_of(), queue=FIRST_REQUEST_QUEUE + 1).error == 0


@pytest.mark.parametrize("attack", RETURNED.values(), ids=RETURNED.keys())
def test_an_odd_chain_is_given_back_and_the_next_client_is_served(
    service: Service, client: FrontEnd, attack: Attack
) -> None:
    assert attacked(client, attack) == "request returned"
    client.channel.close()
    assert_next_is_served(service)


def test_a_stopped_ring_serves_again_after_a_reset(service: Service, client: FrontEnd) -> None:
    ring = client.rings[FIRST_REQUEST_QUEUE]
    ring.publish(0xFFFF)
    ring.kick()
    with pytest.raises(RingError):
        ring.wait_used(client.channel.line, LIMIT)
    client.reset()
    client.init()
    assert client.serves()


def test_guest_memory_cut_short_ends_only_its_own_connection(service: Service, client: FrontEnd) -> None:
    os.ftruncate(client.memory.fd, 0)
    client.rings[FIRST_REQUEST_QUEUE].kick()
    assert client.channel.is_closed()
    assert_next_is_served(service)


def test_a_full_call_eventfd_blocks_nobody(client: FrontEnd) -> None:
    ring = client.rings[FIRST_REQUEST_QUEUE]
    os.set_blocking(ring.call_fd, True)
    address, length = request_at(client)
    for _ in range(3):
        os.eventfd_write(ring.call_fd, 2**64 - 2)
        ring.publish(ring.put([Descriptor(address, length)]))
        ring.kick()
        ring.wait_used_unsignalled(LIMIT)
        os.eventfd_read(ring.call_fd)
    assert client.serves()
