"""No request, however malformed, kills or hangs the worker: each gets an errno or silence (I5)."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import Service

SEED = 20260729
ROOMS = (0, 1, 15, 16, 17, 4096)
# Each operation's arguments as short as they may be. Those with none have only a header to cut.
ARGUMENTS: dict[Opcode, bytes] = {
    Opcode.LOOKUP: fuse.name(b"file"),
    Opcode.FORGET: fuse.forget(0),
    Opcode.GETATTR: fuse.getattr_of(),
    Opcode.SETATTR: bytes(88),
    Opcode.READLINK: b"",
    Opcode.SYMLINK: fuse.name(b"link") + fuse.name(b"target"),
    Opcode.MKNOD: struct.pack("<IIII", 0o100644, 0, 0, 0) + fuse.name(b"node"),
    Opcode.MKDIR: fuse.mkdir(b"made"),
    Opcode.UNLINK: fuse.name(b"none"),
    Opcode.RMDIR: fuse.name(b"none"),
    Opcode.RENAME: fuse.rename(b"none", fuse.ROOT, b"other"),
    Opcode.LINK: struct.pack("<Q", 1) + fuse.name(b"hard"),
    Opcode.OPEN: fuse.open_flags(os.O_RDONLY),
    Opcode.READ: fuse.read(1, 0, 4096),
    Opcode.WRITE: fuse.write(1, 0, b"some data"),
    Opcode.STATFS: b"",
    Opcode.RELEASE: fuse.release(1),
    Opcode.FSYNC: struct.pack("<QII", 1, 0, 0),
    Opcode.SETXATTR: struct.pack("<IIII", 4, 0, 0, 0) + fuse.name(b"user.a") + b"data",
    Opcode.GETXATTR: struct.pack("<II", 64, 0) + fuse.name(b"user.a"),
    Opcode.LISTXATTR: struct.pack("<II", 64, 0),
    Opcode.REMOVEXATTR: fuse.name(b"user.a"),
    Opcode.FLUSH: struct.pack("<QIIQ", 1, 0, 0, 0),
    Opcode.INIT: fuse.init(),
    Opcode.OPENDIR: fuse.open_flags(os.O_RDONLY),
    Opcode.READDIR: fuse.read(1, 0, 4096),
    Opcode.RELEASEDIR: fuse.release(1),
    Opcode.FSYNCDIR: struct.pack("<QII", 1, 0, 0),
    Opcode.GETLK: bytes(48),
    Opcode.SETLK: bytes(48),
    Opcode.SETLKW: bytes(48),
    Opcode.ACCESS: struct.pack("<II", 4, 0),
    Opcode.CREATE: fuse.create(b"created", os.O_RDWR),
    Opcode.INTERRUPT: struct.pack("<Q", 2),
    Opcode.BMAP: bytes(16),
    Opcode.DESTROY: b"",
    Opcode.IOCTL: bytes(32),
    Opcode.POLL: bytes(24),
    Opcode.NOTIFY_REPLY: bytes(40),
    Opcode.BATCH_FORGET: struct.pack("<IIQQ", 1, 0, 2, 0),
    Opcode.FALLOCATE: struct.pack("<QQQII", 1, 0, 1, 0, 0),
    Opcode.READDIRPLUS: fuse.read(1, 0, 4096),
    Opcode.RENAME2: struct.pack("<QII", 1, 0, 0) + fuse.name(b"none") + fuse.name(b"other"),
    Opcode.LSEEK: struct.pack("<QQII", 1, 0, 0, 0),
    Opcode.COPY_FILE_RANGE: struct.pack("<QQQQQQQ", 1, 0, 1, 1, 0, 1, 0),
    Opcode.SETUPMAPPING: bytes(40),
    Opcode.REMOVEMAPPING: bytes(20),
    Opcode.SYNCFS: bytes(8),
    Opcode.TMPFILE: struct.pack("<IIII", os.O_RDWR, 0o644, 0, 0),
    Opcode.STATX: bytes(24),
}
# A shorter INIT is an older guest's; of the others only fields are cut off that mean nothing.
MAY_BE_SHORTER = frozenset({Opcode.INIT, Opcode.OPENDIR, Opcode.GETATTR, Opcode.SYNCFS, Opcode.ACCESS})


def whole(opcode: int, body: bytes, node: int = fuse.ROOT, claimed: int | None = None) -> bytes:
    """A request whose header claims *claimed* bytes, by default as many as it has."""
    length = fuse.IN_HEADER.size + len(body)
    return fuse.header(opcode, 1000 + opcode, node, length if claimed is None else claimed) + body


def assert_serves(client: FrontEnd) -> None:
    """The session still works, mounted anew if the bytes just sent unmounted it."""
    if not client.serves():
        client.init()
        assert client.serves()


@pytest.fixture
def worker(service: Service, client: FrontEnd) -> Iterator[int]:
    """The worker behind the connection; it must be the same process when the test is over."""
    (pid,) = service.wait_worker().workers
    yield pid
    assert service.processes().workers == (pid,)
    assert_serves(client)


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_a_request_cut_at_any_length_gets_an_error_or_nothing(client: FrontEnd, worker: int, opcode: Opcode) -> None:
    body = ARGUMENTS[opcode]
    request = whole(opcode, body)
    for length in range(1, len(request)):
        for claimed in (length, len(request)):
            cut = fuse.header(opcode, 1, fuse.ROOT, claimed) + body
            reply = client.send_raw(cut[:length], 4096)
            if opcode not in MAY_BE_SHORTER or length < fuse.IN_HEADER.size:
                assert reply.error != 0 or reply.length == 0, f"{length} of {len(request)} bytes were accepted"
    assert_serves(client)


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_any_room_for_the_answer_is_survived(client: FrontEnd, worker: int, opcode: Opcode) -> None:
    for room in ROOMS:
        reply = client.send_raw(whole(opcode, ARGUMENTS[opcode]), room)
        assert reply.length <= room
    assert_serves(client)


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_a_request_far_longer_than_its_arguments_is_survived(client: FrontEnd, worker: int, opcode: Opcode) -> None:
    for filler in (b"\0", b"A", b"\xff"):
        body = ARGUMENTS[opcode] + filler * (1 << 17)
        client.send_raw(whole(opcode, body), 4096)
        client.send_raw(whole(opcode, body, claimed=0xFFFF_FFFF), 4096)
        client.send_raw(whole(opcode, body, claimed=0), 4096)
    assert_serves(client)


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_random_arguments_are_survived(client: FrontEnd, worker: int, opcode: Opcode) -> None:
    chance = random.Random(f"{SEED}-{opcode}")  # noqa: S311  # repeatable on purpose
    for _ in range(60):
        body = bytearray(ARGUMENTS[opcode])
        for _ in range(chance.randint(1, 8)):
            if body:
                body[chance.randrange(len(body))] = chance.choice((0, 1, 0x2F, 0x7F, 0x80, 0xFF))
        client.send_raw(whole(opcode, bytes(body), chance.choice((0, 1, 2, 2**64 - 1))), chance.choice(ROOMS))
    for _ in range(60):
        client.send_raw(whole(opcode, chance.randbytes(chance.randint(0, 200))), chance.choice(ROOMS))
    assert_serves(client)


def test_pure_noise_is_survived(client: FrontEnd, worker: int) -> None:
    chance = random.Random(SEED)  # noqa: S311
    for _ in range(500):
        client.send_raw(chance.randbytes(chance.randint(1, 300)), chance.choice(ROOMS))
    assert_serves(client)


def test_sizes_beyond_every_limit_get_an_error_or_what_there_is(
    client: FrontEnd, worker: int, service: Service
) -> None:
    (service.share / "small").write_bytes(b"0123456789")
    node = client.lookup(b"small").node
    handle = client.open(node, os.O_RDWR)
    directory = fuse.parse_handle(client.call(Opcode.OPENDIR, fuse.open_flags(0)))
    huge = 0xFFFF_FFFF
    assert client.send_raw(whole(Opcode.READ, fuse.read(handle, 0, huge), node), 4096).body in (b"", b"0123456789")
    assert client.send_raw(whole(Opcode.READ, fuse.read(handle, 2**64 - 1, 4096), node), 4096).body == b""
    lying = struct.pack("<QQIIQII", handle, 0, huge, 0, 0, 0, 0) + b"few"
    assert client.send_raw(whole(Opcode.WRITE, lying, node), 4096).error != 0
    assert client.send_raw(whole(Opcode.WRITE, fuse.write(handle, 2**63, b"far"), node), 4096).error != 0
    assert client.send_raw(whole(Opcode.READDIR, fuse.read(directory, 0, huge)), 64).length <= 64
    assert client.send_raw(whole(Opcode.READDIRPLUS, fuse.read(directory, 2**64 - 1, huge)), 64).length <= 64
    assert client.send_raw(whole(Opcode.GETXATTR, struct.pack("<II", huge, 0) + b"user.a\0", node), 64).length <= 64
    forgets = struct.pack("<II", huge, 0) + struct.pack("<QQ", node, 2**63)
    assert client.send_raw(whole(Opcode.BATCH_FORGET, forgets), 64).length == 0
    assert (service.share / "small").read_bytes() == b"0123456789"


def test_forgetting_more_than_was_looked_up_is_survived(client: FrontEnd, worker: int, service: Service) -> None:
    (service.share / "often").touch()
    node = client.lookup(b"often").node
    for target, count in ((node, 2**64 - 1), (node, 1), (fuse.ROOT, 2**64 - 1), (2**64 - 1, 1), (0, 1)):
        client.send_raw(whole(Opcode.FORGET, fuse.forget(count), target), 0)
    assert client.lookup(b"often").node != 0
    assert client.serves()
