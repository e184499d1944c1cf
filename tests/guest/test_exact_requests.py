"""What single requests answer, byte for byte."""

from __future__ import annotations

import errno
import os

import pytest

from tests.guest import fuse
from tests.guest.frontend import HIPRIO, FrontEnd, FuseError
from tests.guest.fuse import Opcode
from tests.guest.service import Service
from tests.guest.vring import DESCRIPTOR, INDIRECT, NEXT, WRITE, Descriptor

UNKNOWN_OPCODES = (0, 7, 19, 53, 62, 63, 64, 4095, 4096, 0xFFFF_FFFF)


def test_init_answers_this_protocol_and_limits_a_guest_can_use(service: Service) -> None:
    with FrontEnd.connect(service.socket) as client:
        reply = client.start().init()
        assert reply.major == fuse.MAJOR
        assert 27 <= reply.minor <= fuse.MINOR
        assert reply.max_write >= 4096
        assert reply.max_write % 4096 == 0


def test_init_grants_no_flag_that_was_not_offered(service: Service) -> None:
    offered = 1 << 0 | 1 << 3 | 1 << 5  # ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES
    with FrontEnd.connect(service.socket) as client:
        assert client.start().init(flags=offered).flags & ~offered == 0


def test_init_of_a_later_major_is_told_this_one(service: Service) -> None:
    with FrontEnd.connect(service.socket) as client:
        body = client.start().call(Opcode.INIT, b"\x08\0\0\0" + fuse.init()[4:], node=0)
        assert int.from_bytes(body[:4], "little") == fuse.MAJOR


def test_a_request_before_init_is_refused(service: Service) -> None:
    with FrontEnd.connect(service.socket) as client:
        assert client.start().request(Opcode.LOOKUP, fuse.name(b"x")).error != 0
        client.init()
        assert client.serves()


def test_lookup_answers_the_attributes_of_the_file(client: FrontEnd, service: Service) -> None:
    path = service.share / "looked-up"
    path.write_bytes(b"x" * 1234)
    path.chmod(0o604)
    status = path.stat()
    entry = client.lookup(b"looked-up")
    assert entry.node > fuse.ROOT
    attr = entry.attr
    assert (attr.inode, attr.size, attr.mode) == (status.st_ino, 1234, 0o100604)
    assert (attr.nlink, attr.uid, attr.gid) == (1, status.st_uid, status.st_gid)


def test_two_lookups_of_one_file_give_one_node(client: FrontEnd, service: Service) -> None:
    (service.share / "one").write_bytes(b"")
    os.link(service.share / "one", service.share / "other")
    assert client.lookup(b"one").node == client.lookup(b"other").node


def test_read_answers_exactly_the_bytes_asked_for(client: FrontEnd, service: Service) -> None:
    data = os.urandom(300_000)
    (service.share / "data").write_bytes(data)
    node = client.lookup(b"data").node
    handle = client.open(node)
    for offset, size in ((0, 1), (0, 4096), (4095, 2), (100_001, 131_072), (299_999, 4096), (300_000, 1), (1 << 40, 1)):
        assert client.read(node, handle, offset, size) == data[offset : offset + size]
    client.call(Opcode.RELEASE, fuse.release(handle), node)


def test_write_changes_exactly_the_bytes_sent(client: FrontEnd, service: Service) -> None:
    path = service.share / "written"
    path.write_bytes(b"0123456789")
    node = client.lookup(b"written").node
    handle = client.open(node, os.O_RDWR)
    reply = client.call(Opcode.WRITE, fuse.write(handle, 3, b"abc"), node)
    assert int.from_bytes(reply[:4], "little") == 3
    assert path.read_bytes() == b"012abc6789"


def test_a_listing_has_every_name_once(client: FrontEnd, service: Service) -> None:
    directory = service.share / "listed"
    directory.mkdir()
    expected = {f"name-{number:04}" for number in range(500)}
    for text in expected:
        (directory / text).touch()
    names = client.list(client.lookup(b"listed").node)
    assert sorted(names) == sorted([b".", b"..", *(text.encode() for text in expected)])


def test_every_reply_carries_the_number_of_its_request_and_its_own_length(client: FrontEnd) -> None:
    for opcode, body in ((Opcode.GETATTR, fuse.getattr_of()), (Opcode.LOOKUP, fuse.name(b"not there"))):
        request = fuse.header(opcode, 0xDEAD_BEEF_0000 + opcode, fuse.ROOT, fuse.IN_HEADER.size + len(body)) + body
        reply = client.send_raw(request, 4096)
        assert reply.unique == 0xDEAD_BEEF_0000 + opcode
        assert reply.length == fuse.OUT_HEADER.size + len(reply.body)


@pytest.mark.parametrize("opcode", UNKNOWN_OPCODES)
def test_an_unknown_operation_is_not_implemented(client: FrontEnd, opcode: int) -> None:
    assert client.request(opcode, bytes(64)).error == errno.ENOSYS


@pytest.mark.parametrize(
    "text", [b"", b"a/b", b"/", b"../x", b"..\0x", b"x" * 256], ids=["empty", "slash", "root", "up", "nul", "long"]
)
def test_a_name_that_is_no_single_component_is_refused(client: FrontEnd, service: Service, text: bytes) -> None:
    for opcode, body in (
        (Opcode.LOOKUP, fuse.name(text)),
        (Opcode.UNLINK, fuse.name(text)),
        (Opcode.MKDIR, fuse.mkdir(text)),
        (Opcode.CREATE, fuse.create(text, os.O_RDWR)),
        (Opcode.RENAME, fuse.rename(b"one", fuse.ROOT, text)),
    ):
        assert client.request(opcode, body).error in (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOENT)


@pytest.mark.parametrize("text", [b".", b".."])
def test_dot_names_are_answered_from_the_table_and_never_changed(client: FrontEnd, text: bytes) -> None:
    assert client.lookup(text).node == fuse.ROOT
    for opcode, body in (
        (Opcode.UNLINK, fuse.name(text)),
        (Opcode.RMDIR, fuse.name(text)),
        (Opcode.MKDIR, fuse.mkdir(text)),
        (Opcode.CREATE, fuse.create(text, os.O_RDWR)),
        (Opcode.RENAME, fuse.rename(text, fuse.ROOT, b"elsewhere")),
    ):
        assert client.request(opcode, body).error != 0


def test_dot_dot_of_a_directory_is_its_parent(client: FrontEnd, service: Service) -> None:
    (service.share / "up" / "down").mkdir(parents=True)
    up = client.lookup(b"up").node
    assert client.lookup(b"..", client.lookup(b"down", up).node).node == up


@pytest.mark.parametrize("node", [0, 2**32, 2**63, 2**64 - 1])
def test_a_node_that_was_never_given_out_is_refused(client: FrontEnd, node: int) -> None:
    for opcode, body in (
        (Opcode.GETATTR, fuse.getattr_of()),
        (Opcode.LOOKUP, fuse.name(b"x")),
        (Opcode.OPEN, bytes(8)),
    ):
        assert client.request(opcode, body, node).error in (errno.ENOENT, errno.EBADF, errno.ESTALE, errno.EINVAL)


def test_a_handle_that_was_never_given_out_is_refused(client: FrontEnd, service: Service) -> None:
    (service.share / "f").touch()
    node = client.lookup(b"f").node
    for handle in (0, 1, 99, 2**63, 2**64 - 1):
        assert client.request(Opcode.READ, fuse.read(handle, 0, 10), node).error == errno.EBADF


def test_forget_is_silent_and_the_node_is_gone(client: FrontEnd, service: Service) -> None:
    (service.share / "forgotten").touch()
    node = client.lookup(b"forgotten").node
    request = fuse.header(Opcode.FORGET, 0, node, fuse.IN_HEADER.size + 8) + fuse.forget(1)
    assert client.send_raw(request, 0, queue=HIPRIO).length == 0
    assert client.request(Opcode.GETATTR, fuse.getattr_of(), node).error in (errno.ENOENT, errno.ESTALE, errno.EBADF)


def test_a_request_in_pieces_is_one_request(client: FrontEnd, service: Service) -> None:
    (service.share / "pieces").touch()
    body = fuse.name(b"pieces")
    request = fuse.header(Opcode.LOOKUP, 7, fuse.ROOT, fuse.IN_HEADER.size + len(body)) + body
    reply = client.send_raw(request, 4096, pieces=[1] * (len(request) - 1))
    assert reply.error == 0
    assert reply.unique == 7


def test_a_request_in_an_indirect_table_is_answered(client: FrontEnd) -> None:
    ring, memory = client.rings[1], client.memory
    body = fuse.getattr_of()
    request = fuse.header(Opcode.GETATTR, 9, fuse.ROOT, fuse.IN_HEADER.size + len(body)) + body
    source, answer, table = memory.allocate(len(request)), memory.allocate(4096), memory.allocate(32)
    memory.write(source.address, request)
    first = DESCRIPTOR.pack(source.address, len(request), NEXT, 1)
    memory.write(table.address, first + DESCRIPTOR.pack(answer.address, 4096, WRITE, 0))
    ring.publish(ring.put([Descriptor(table.address, 32, INDIRECT)]))
    ring.kick()
    _, length = ring.wait_used(client.channel.line)
    total, error, unique = fuse.OUT_HEADER.unpack(memory.read(answer.address, fuse.OUT_HEADER.size))
    assert (total, error, unique) == (length, 0, 9)


def test_many_requests_published_at_once_are_all_answered(client: FrontEnd) -> None:
    ring, memory = client.rings[1], client.memory
    body = fuse.getattr_of()
    heads = []
    for number in range(60):
        request = fuse.header(Opcode.GETATTR, number, fuse.ROOT, fuse.IN_HEADER.size + len(body)) + body
        source, answer = memory.allocate(len(request)), memory.allocate(256)
        memory.write(source.address, request)
        chain = [Descriptor(source.address, len(request)), Descriptor(answer.address, 256, WRITE)]
        heads.append(ring.put(chain))
    ring.publish(*heads)
    ring.kick()
    assert sorted(ring.wait_used(client.channel.line)[0] for _ in heads) == sorted(heads)


def test_a_share_mounted_again_after_destroy_serves(client: FrontEnd) -> None:
    client.request(Opcode.DESTROY, node=0)
    client.init()
    assert client.serves()


def test_errors_of_the_host_reach_the_guest(client: FrontEnd, service: Service) -> None:
    (service.share / "dir").mkdir()
    with pytest.raises(FuseError) as caught:
        client.call(Opcode.UNLINK, fuse.name(b"dir"))
    assert caught.value.errno == errno.EISDIR
