"""A hostile guest whose policy freezes and hides parts of the share, alone and with a second guest that has no rules
and moves directories under it: what is frozen stays as it is, and what is hidden stays unseen.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.guest import attackers, fuse
from tests.guest.attackers import RENAME_EXCHANGE, Attack, Ground
from tests.guest.frontend import FrontEnd, FuseError
from tests.guest.fuse import Opcode
from tests.guest.service import TAG, Service
from tests.guest.test_attackers_racing import meanwhile, node_of
from tests.pictures import Picture, picture

ROUNDS = 500
POLICY = """\
[share]
source = "{share}"
tag = "{tag}"
socket = "{socket}"
xattr = true
[paths]
readonly = ["above/frozen", "**/still"]
hide = ["masked", "**/hidden"]
"""
# By an exact rule, which a mount holds too, and by a pattern, which the worker holds alone.
FROZEN = ("above/frozen", "one/still")
HIDDEN = ("masked", "one/hidden")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    work = tmp_path_factory.mktemp("ruled")
    ground = Ground.prepare(work)
    for place in (*FROZEN, *HIDDEN, "two/still", "two/hidden"):
        (ground.share / place / "below").mkdir(parents=True)
        for name in ("file", "below/file"):
            (ground.share / place / name).write_text(f"of {place}")
            os.setxattr(ground.share / place / name, "user.mark", b"of the host")
    policies = work / "policies"
    policies.mkdir()
    text = POLICY.format(share=ground.share, tag=TAG, socket=work / "fs.sock")
    (policies / "ruled.toml").write_text(text)
    with Service(work, ["--policy-dir", str(policies)]) as service:
        yield service.start()


@pytest.fixture(scope="module")
def ground(service: Service) -> Ground:
    return Ground(service.work / "share", service.work / "outside")


@pytest.fixture
def rival(service: Service) -> Iterator[FrontEnd]:
    """A guest of another sandbox on the same directory, with no rules."""
    second = Service(service.work, ["--xattr"])
    second.socket, second.log_path = service.work / "second.sock", service.work / "second.log"
    with second, FrontEnd.connect(second.start().socket) as client:
        client.start()
        client.init()
        yield client


@pytest.fixture
def untouched(service: Service, ground: Ground, client: FrontEnd) -> Iterator[None]:
    """What is frozen or hidden is as it was, and the same worker serves when the test is over."""
    (pid,) = service.wait_worker().workers
    before = ruled(ground)
    yield
    assert ruled(ground) == before
    assert service.processes().workers == (pid,)
    assert client.serves()


def ruled(ground: Ground) -> dict[int, Picture]:
    """Pictures of everything frozen or hidden, by inode: its parents may move."""
    places = [path for name in ("frozen", "still", "masked", "hidden") for path in ground.share.rglob(name)]
    assert len(places) == 6
    return {path.lstat().st_ino: picture(path) for place in places for path in (place, *place.rglob("*"))}


def path(text: str) -> list[bytes]:
    return text.encode().split(b"/")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", FROZEN)
def test_no_opcode_changes_a_frozen_node(client: FrontEnd, place: str) -> None:
    file = node_of(client, b"file")
    for name in ("", "/below", "/file", "/below/file"):
        node = node_of(client, *path(place + name))
        for attack in attackers.changes_on_node():
            opcode, body, header = attackers.aimed(attack, node)
            directory = not name.endswith("file") and opcode is Opcode.OPEN
            assert client.request(opcode, body, header).error in (
                {errno.EROFS, errno.EISDIR} if directory else {errno.EROFS}
            )
        for attack in attackers.as_target():
            opcode, body, header = attackers.aimed(attack, node)
            assert client.request(opcode, body, header).error in {
                errno.EROFS,
                errno.ENOTDIR,
                errno.EXDEV,
                errno.EPERM,
            }, attack
    assert client.request(Opcode.GETATTR, fuse.getattr_of(), file).error == 0


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", FROZEN)
@pytest.mark.parametrize("name", [b"file", b"below", b"planted"])
def test_no_opcode_makes_moves_or_removes_a_name_in_a_frozen_directory(
    client: FrontEnd, place: str, name: bytes
) -> None:
    directory, file = node_of(client, *path(place)), node_of(client, b"file")
    for attack in attackers.changes_with_name(name, file):
        error = client.request(attack.opcode, attack.body, directory).error
        device = attack.opcode is Opcode.MKNOD and error == errno.EPERM
        # An existing file may be opened by CREATE where nothing is made or changed; these all ask to write.
        assert error == errno.EROFS or device, (attack, error)
    for old, new in (((directory, name), (fuse.ROOT, b"moved")), ((fuse.ROOT, b"file"), (directory, name))):
        body = fuse.rename(old[1], new[0], new[1])
        assert client.request(Opcode.RENAME, body, old[0]).error in {errno.EROFS, errno.ENOENT}
        for flags in (0, attackers.RENAME_NOREPLACE, RENAME_EXCHANGE):
            body = fuse.rename2(old[1], new[0], new[1], flags)
            assert client.request(Opcode.RENAME2, body, old[0]).error in {errno.EROFS, errno.ENOENT}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", FROZEN)
def test_a_handle_on_a_frozen_file_reads_and_does_nothing_else(client: FrontEnd, place: str) -> None:
    node, other = node_of(client, *path(place + "/file")), node_of(client, b"file")
    handle, writable = client.open(node), client.open(other, os.O_RDWR)
    assert client.read(node, handle, 0, 64) == f"of {place}".encode()
    for target in (node, other):
        for attack in attackers.on_handle(handle, node, writable):
            if attack.opcode in (Opcode.WRITE, Opcode.FALLOCATE, Opcode.SETATTR):
                assert client.request(attack.opcode, attack.body, target).error in {errno.EROFS, errno.EBADF}, attack
        copy = fuse.copy_file_range(writable, node, handle, 4)
        assert client.request(Opcode.COPY_FILE_RANGE, copy, target).error in {errno.EROFS, errno.EBADF}
    for opened, of in ((handle, node), (writable, other)):
        client.call(Opcode.RELEASE, fuse.release(opened), of)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("parent", ["above", "one"])
def test_the_parent_of_a_frozen_directory_stays_where_its_rule_holds(client: FrontEnd, parent: str) -> None:
    for flags, new in ((0, b"renamed"), (RENAME_EXCHANGE, b"inner")):
        error = client.request(Opcode.RENAME2, fuse.rename2(parent.encode(), fuse.ROOT, new, flags)).error
        if parent == "above" or error:
            assert error == errno.EXDEV
        else:
            back = fuse.rename2(new, fuse.ROOT, parent.encode(), flags)
            assert client.request(Opcode.RENAME2, back).error == 0


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", HIDDEN)
def test_a_hidden_name_is_neither_seen_nor_taken_by_any_opcode(client: FrontEnd, place: str) -> None:
    *above, name = path(place)
    directory, file = node_of(client, *above), node_of(client, b"file")
    assert name not in client.list(directory)
    assert client.request(Opcode.LOOKUP, fuse.name(name), directory).error == errno.ENOENT
    for attack in attackers.changes_with_name(name, file):
        error = client.request(attack.opcode, attack.body, directory).error
        assert error in {errno.EACCES, errno.ENOENT, errno.EPERM}, (attack, error)
    plus = fuse.parse_handle(client.call(Opcode.OPENDIR, fuse.open_flags(0), directory))
    listed = client.call(Opcode.READDIRPLUS, fuse.read(plus, 0, 8192), directory)
    assert name not in listed
    client.call(Opcode.RELEASEDIR, fuse.release(plus), directory)


def test_a_second_name_that_another_guest_made_is_as_frozen_as_the_first(
    client: FrontEnd, rival: FrontEnd, ground: Ground
) -> None:
    """Known under its frozen name, the file is frozen under each that is found later."""
    seen = node_of(client, b"one", b"still", b"file")
    rival.call(Opcode.LINK, fuse.link(node_of(rival, b"one", b"still", b"file"), b"second"))
    before = picture(ground.share / "second")
    assert client.lookup(b"second").node == seen
    for attack in attackers.changes_on_node():
        opcode, body, header = attackers.aimed(attack, seen)
        assert client.request(opcode, body, header).error == errno.EROFS, attack
    assert picture(ground.share / "second") == before
    rival.call(Opcode.UNLINK, fuse.name(b"second"))


@pytest.mark.usefixtures("untouched")
def test_parents_renamed_by_another_guest_open_no_way_in(client: FrontEnd, rival: FrontEnd, ground: Ground) -> None:
    """The rival exchanges the parents of two frozen and two hidden directories while every way in is tried."""
    outcomes: Counter[str] = Counter()
    old = [node_of(client, parent, b"still", b"file") for parent in (b"one", b"two")]
    old += [node_of(client, parent, b"still") for parent in (b"one", b"two")]

    def exchange() -> None:
        rival.call(Opcode.RENAME2, fuse.rename2(b"one", fuse.ROOT, b"two", RENAME_EXCHANGE))

    with meanwhile(exchange):
        for _ in range(ROUNDS):
            for parent in (b"one", b"two"):
                try:
                    directory = node_of(client, parent)
                    assert client.request(Opcode.LOOKUP, fuse.name(b"hidden"), directory).error != 0
                    assert b"hidden" not in client.list(directory)
                    still = client.lookup(b"still", directory).node
                    file = client.lookup(b"file", still).node
                except FuseError:
                    outcomes["lost"] += 1
                    continue
                tried = [
                    attackers.aimed(attack, node) for node in (file, *old[:2]) for attack in attackers.changes_on_node()
                ]
                tried += [
                    (attack.opcode, attack.body, node)
                    for node in (still, *old[2:])
                    for attack in changes_in(b"file", b"planted", file)
                ]
                for opcode, body, node in tried:
                    error = client.request(opcode, body, node).error
                    assert error != 0, (opcode, body)
                    outcomes[errno.errorcode[error]] += 1
    print(dict(outcomes))
    assert outcomes["EROFS"] > 0


def changes_in(there: bytes, new: bytes, file: int) -> list[Attack]:
    """A few of the changes of a directory: one of each kind."""
    return [
        Attack(Opcode.UNLINK, fuse.name(there)),
        Attack(Opcode.RENAME, fuse.rename(there, fuse.ROOT, new)),
        Attack(Opcode.CREATE, fuse.create(new, os.O_RDWR | os.O_CREAT)),
        Attack(Opcode.MKDIR, fuse.mkdir(new)),
        Attack(Opcode.SYMLINK, fuse.symlink(new, b"anywhere")),
        Attack(Opcode.LINK, struct.pack("<Q", file) + fuse.name(new)),
    ]
