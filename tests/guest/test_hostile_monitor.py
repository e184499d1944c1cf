"""A monitor that breaks the protocol loses its own connection; the supervisor goes on and serves the next (I5)."""

from __future__ import annotations

import os
import random
import socket
import struct
import tempfile
from collections.abc import Callable

import pytest

from tests.guest.frontend import FrontEnd
from tests.guest.service import Service
from tests.guest.vhost import HEADER, NEED_REPLY, REPLY, VERSION, Channel, ProtocolFeature, Request

Attack = Callable[[Channel, FrontEnd], None]
SEED = 20260729
SECONDS = 5.0


def message(request: int, payload: bytes = b"", flags: int = VERSION, size: int | None = None) -> Attack:
    data = HEADER.pack(request, flags, len(payload) if size is None else size) + payload
    return lambda channel, _client: channel.send_bytes(data)


def with_fds(request: int, payload: bytes, count: int) -> Attack:
    """Sends *count* descriptors of /dev/null, where an eventfd, a memfd or nothing is due."""

    def attack(channel: Channel, _client: FrontEnd) -> None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            channel.send(request, payload, [null] * count)
        finally:
            os.close(null)

    return attack


def region(base: int, size: int, user: int, offset: int = 0) -> bytes:
    return struct.pack("<QQQQ", base, size, user, offset)


def slot(*fields: int) -> Attack:
    """Adds a memory region with the client's own memory behind it."""
    payload = struct.pack("<Q", 0) + region(*fields)
    return lambda channel, client: channel.send(Request.ADD_MEM_REG, payload, [client.memory.fd])


def file_as_memory(size: int) -> Attack:
    """A memory region larger than the file behind it."""

    def attack(channel: Channel, _client: FrontEnd) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(4096)
            payload = struct.pack("<Q", 0) + region(0x2000_0000, size, 0x6000_0000_0000)
            channel.send(Request.ADD_MEM_REG, payload, [file.fileno()])

    return attack


def overlapping(channel: Channel, client: FrontEnd) -> None:
    slot(client.memory.base + 4096, 8192, 0x6000_0000_0000)(channel, client)


def ring_outside_memory(channel: Channel, client: FrontEnd) -> None:
    channel.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, 0x10, 0x20, 0x30, 0))
    channel.send(Request.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
    os.eventfd_write(client.rings[0].kick_fd, 1)


def ring_at_the_end_of_memory(channel: Channel, client: FrontEnd) -> None:
    last = client.memory.user + client.memory.size - 16
    channel.send(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, last, last, last, 0))
    channel.send(Request.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
    os.eventfd_write(client.rings[0].kick_fd, 1)


def memory_taken_away(channel: Channel, client: FrontEnd) -> None:
    memory = client.memory
    payload = struct.pack("<Q", 0) + region(memory.base, memory.size, memory.user)
    channel.send(Request.REM_MEM_REG, payload)
    os.eventfd_write(client.rings[0].kick_fd, 1)


def half_a_header(channel: Channel, _client: FrontEnd) -> None:
    channel.send_bytes(HEADER.pack(Request.GET_FEATURES, VERSION, 0)[:7])
    channel.line.shutdown(socket.SHUT_WR)


def half_a_payload(channel: Channel, _client: FrontEnd) -> None:
    channel.send_bytes(HEADER.pack(Request.SET_FEATURES, VERSION, 8) + bytes(3))
    channel.line.shutdown(socket.SHUT_WR)


TOP = 2**64 - 1
QUEUES = 64
# What must be refused: the connection ends, or an asked-for acknowledgement says no.
REFUSED: dict[str, Attack] = {
    "version 0": message(Request.GET_FEATURES, flags=0),
    "version 2": message(Request.GET_FEATURES, flags=2),
    "a reply nobody asked for": message(Request.GET_FEATURES, flags=VERSION | REPLY),
    "request 0": message(0),
    "unknown request": message(9999),
    "longest size": message(Request.SET_FEATURES, bytes(8), size=0xFFFF_FFFF),
    "size too small": message(Request.SET_FEATURES, bytes(4)),
    "size too large": message(Request.SET_FEATURES, bytes(64)),
    "features never offered": message(Request.SET_FEATURES, struct.pack("<Q", TOP)),
    "ring number too large": message(Request.SET_VRING_NUM, struct.pack("<II", QUEUES, 128)),
    "enable of no ring": message(Request.SET_VRING_ENABLE, struct.pack("<II", 0xFFFF_FFFF, 1)),
    "addresses of no ring": message(Request.SET_VRING_ADDR, struct.pack("<IIQQQQ", QUEUES, 0, 0, 0, 0, 0)),
    "ring of 0": message(Request.SET_VRING_NUM, struct.pack("<II", 0, 0)),
    "ring of 3": message(Request.SET_VRING_NUM, struct.pack("<II", 0, 3)),
    "ring of 65536": message(Request.SET_VRING_NUM, struct.pack("<II", 0, 65536)),
    "base beyond 16 bit": message(Request.SET_VRING_BASE, struct.pack("<II", 0, 0x10000)),
    "get base of no ring": message(Request.GET_VRING_BASE, struct.pack("<II", QUEUES, 0)),
    "memory without a file": message(
        Request.ADD_MEM_REG, struct.pack("<Q", 0) + region(0x2000_0000, 4096, 0x6000_0000_0000)
    ),
    "memory in two files": with_fds(
        Request.ADD_MEM_REG, struct.pack("<Q", 0) + region(0x2000_0000, 4096, 0x6000_0000_0000), 2
    ),
    "memory on a device": with_fds(
        Request.ADD_MEM_REG, struct.pack("<Q", 0) + region(0x2000_0000, 4096, 0x6000_0000_0000), 1
    ),
    "memory of size 0": slot(0x2000_0000, 0, 0x6000_0000_0000),
    "memory that wraps": slot(TOP - 4095, 8192, 0x6000_0000_0000),
    "monitor addresses that wrap": slot(0x2000_0000, 8192, TOP - 4095),
    "memory offset at the top": slot(0x2000_0000, 4096, 0x6000_0000_0000, TOP - 4095),
    "memory beyond its file": slot(0x2000_0000, 1 << 40, 0x6000_0000_0000),
    "memory larger than a short file": file_as_memory(1 << 20),
    "memory over other memory": overlapping,
    "table of too many regions": message(Request.SET_MEM_TABLE, struct.pack("<II", 9, 0) + bytes(9 * 32)),
    "table of 2^32 regions": message(Request.SET_MEM_TABLE, struct.pack("<II", 0xFFFF_FFFF, 0) + bytes(32)),
    "table with fewer files than regions": message(
        Request.SET_MEM_TABLE, struct.pack("<II", 1, 0) + region(0x1000_0000, 4096, 0x6000_0000_0000)
    ),
    "removal of memory never added": message(
        Request.REM_MEM_REG, struct.pack("<Q", 0) + region(0x9000_0000, 4096, 0x5000_0000_0000)
    ),
    "kick that is no eventfd": with_fds(Request.SET_VRING_KICK, struct.pack("<Q", 0), 1),
    "call that is no eventfd": with_fds(Request.SET_VRING_CALL, struct.pack("<Q", 0), 1),
    "error that is no eventfd": with_fds(Request.SET_VRING_ERR, struct.pack("<Q", 0), 1),
    "kick in three files": with_fds(Request.SET_VRING_KICK, struct.pack("<Q", 0), 3),
    "kick promised and not sent": message(Request.SET_VRING_KICK, struct.pack("<Q", 0)),
    "descriptors where none belong": with_fds(Request.GET_FEATURES, b"", 5),
    "owner in a file": with_fds(Request.SET_OWNER, b"", 1),
    "configuration far outside": message(Request.GET_CONFIG, struct.pack("<III", 0xFFFF_FFF0, 64, 0) + bytes(64)),
    "half a header": half_a_header,
    "half a payload": half_a_payload,
}
# What a device may also take and survive.
SURVIVED: dict[str, Attack] = {
    "ring outside memory": ring_outside_memory,
    "ring at the end of memory": ring_at_the_end_of_memory,
    "memory taken away under the rings": memory_taken_away,
    "configuration written": message(Request.SET_CONFIG, struct.pack("<III", 0, 36, 0) + b"A" * 36),
    "configuration of nothing": message(Request.GET_CONFIG, struct.pack("<III", 0, 0, 0)),
    "owner a second time": message(Request.SET_OWNER),
    "owner given up": message(Request.RESET_OWNER),
    "reset of a running device": message(Request.RESET_DEVICE),
    "rings enabled twice": message(Request.SET_VRING_ENABLE, struct.pack("<II", 0, 1)),
}


def refused(channel: Channel, attack: Attack, client: FrontEnd) -> bool:
    """Whether the connection ended. A device that answers a later question has taken the message."""
    try:
        attack(channel, client)
        channel.ask_u64(Request.GET_FEATURES)
    except (ConnectionError, AssertionError):
        # Another reply than the one asked for: an acknowledgement or a refusal came first.
        return True
    return False


def assert_next_is_served(service: Service) -> None:
    with FrontEnd.connect(service.socket) as following:
        following.start().init()
        assert following.serves()


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED.keys())
def test_a_broken_message_is_refused_and_the_next_monitor_served(
    service: Service, client: FrontEnd, attack: Attack
) -> None:
    assert refused(client.channel, attack, client)
    client.channel.close()
    assert_next_is_served(service)


@pytest.mark.parametrize("attack", SURVIVED.values(), ids=SURVIVED.keys())
def test_an_odd_message_costs_at_most_its_own_connection(service: Service, client: FrontEnd, attack: Attack) -> None:
    refused(client.channel, attack, client)
    client.channel.close()
    assert_next_is_served(service)


@pytest.mark.parametrize("request_", list(Request), ids=lambda request: request.name)
def test_every_message_with_every_wrong_length_costs_at_most_its_own_connection(
    service: Service, request_: Request
) -> None:
    for size in (0, 1, 4, 7, 9, 39, 41, 71, 73, 4096):
        with FrontEnd.connect(service.socket, SECONDS) as client:
            client.negotiate()
            refused(client.channel, message(request_, bytes(size), VERSION | NEED_REPLY), client)
    assert_next_is_served(service)


def test_a_refused_acknowledged_message_says_so_or_ends_the_connection(service: Service, client: FrontEnd) -> None:
    assert client.offered.protocol_features & ProtocolFeature.REPLY_ACK
    try:
        assert client.channel.acked(Request.SET_VRING_NUM, struct.pack("<II", 0, 3)) != 0
    except ConnectionError:
        assert_next_is_served(service)


def test_noise_on_the_socket_costs_at_most_its_own_connection(service: Service) -> None:
    chance = random.Random(SEED)  # noqa: S311  # repeatable on purpose
    for _ in range(30):
        channel = Channel.connect(service.socket, SECONDS)
        try:
            channel.send_bytes(chance.randbytes(chance.randint(1, 400)))
            channel.line.shutdown(socket.SHUT_WR)
            channel.is_closed()
        except ConnectionError:
            pass
        finally:
            channel.close()
    assert_next_is_served(service)


def test_a_monitor_that_connects_and_says_nothing_is_forgotten_when_it_goes(service: Service) -> None:
    for _ in range(10):
        Channel.connect(service.socket, SECONDS).close()
    assert_next_is_served(service)
