"""A hostile guest with every opcode in its hands stays in the share, and on the files it was given (I2, I5)."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator

import pytest

from tests.guest import attackers, fuse
from tests.guest.attackers import Attack, Ground
from tests.guest.frontend import HIPRIO, FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import Service
from tests.pictures import pictures

SEED = 20261125
# EPERM: a device node is refused before it is asked where it should be.
UNKNOWN = {errno.ENOENT, errno.EBADF, errno.ESTALE, errno.EINVAL, errno.EPERM}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("attacked"), ["--xattr"]) as service:
        yield service.start()


@pytest.fixture(scope="module")
def ground(service: Service) -> Ground:
    return Ground.prepare(service.work)


@pytest.fixture
def untouched(service: Service, ground: Ground, client: FrontEnd) -> Iterator[None]:
    """Neither the share nor what lies beside it is changed, and the same worker serves when the test is over."""
    (pid,) = service.wait_worker().workers
    before = pictures(ground.share), pictures(ground.outside)
    yield
    assert (pictures(ground.share), pictures(ground.outside)) == before
    assert service.processes().workers == (pid,)
    assert client.serves()


def made(client: FrontEnd, attack: Attack, node: int) -> int:
    """The errno that *attack* on *node* is answered with."""
    opcode, body, header = attackers.aimed(attack, node)
    return client.request(opcode, body, header).error


@pytest.mark.usefixtures("untouched")
def test_no_opcode_takes_a_name_that_is_no_single_component(client: FrontEnd, ground: Ground) -> None:
    victim = client.lookup(b"file").node
    inner = client.lookup(b"inner").node
    taken = []
    for text in attackers.hostile_names(ground):
        for attack in attackers.with_name(text, victim):
            taken += [(attack.opcode.name, text) for node in (fuse.ROOT, inner) if not made(client, attack, node)]
    # A NUL ends a name early: what is left is one component, and LOOKUP of it is no harm.
    assert [(opcode, text) for opcode, text in taken if opcode != "LOOKUP"] == []
    assert {text for _, text in taken} <= {b"file\0"}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("text", [b".", b".."])
def test_no_opcode_changes_anything_by_a_dot_name(client: FrontEnd, text: bytes) -> None:
    victim = client.lookup(b"file").node
    inner = client.lookup(b"inner").node
    for attack in attackers.changes_with_name(text, victim):
        for node in (fuse.ROOT, inner):
            assert made(client, attack, node) != 0, attack


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("link", [b"to-secret", b"up", b"to-outside", b"up-directory"])
def test_a_link_is_a_link_to_every_opcode(client: FrontEnd, ground: Ground, link: bytes) -> None:
    entry = client.lookup(link)
    assert entry.attr.inode == (ground.share / link.decode()).lstat().st_ino
    for below in (b"secret", b"directory", b"target"):
        for attack in attackers.with_name(below, entry.node):
            if attack.opcode not in (Opcode.RENAME, Opcode.RENAME2):
                assert made(client, attack, entry.node) != 0, attack
    opens = [Attack(Opcode.OPENDIR, fuse.open_flags(os.O_RDONLY)), Attack(Opcode.OPEN, fuse.open_flags(os.O_RDONLY))]
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_PATH):
        opens.append(Attack(Opcode.OPEN, fuse.open_flags(flags)))
        opens.append(Attack(Opcode.CREATE, fuse.create(link, flags | os.O_CREAT), fuse.ROOT))
    sized = fuse.setattr_of(fuse.SetAttr.SIZE, size=0)
    for attack in (*opens, Attack(Opcode.SETATTR, sized), Attack(Opcode.SETXATTR, fuse.setxattr(b"user.mark", b"x"))):
        assert made(client, attack, entry.node) != 0, attack


def test_a_link_to_anywhere_may_be_made_and_leads_nowhere(client: FrontEnd, ground: Ground) -> None:
    before = pictures(ground.outside)
    targets = [os.fsencode(ground.outside), b"/", b"..", b"../outside", b"/proc/self/root", b"x" * 4000]
    for number, target in enumerate(targets):
        name = b"made-%d" % number
        entry = fuse.Entry.parse(client.call(Opcode.SYMLINK, fuse.symlink(name, target)))
        assert client.call(Opcode.READLINK, b"", entry.node) == target
        assert client.request(Opcode.LOOKUP, fuse.name(b"secret"), entry.node).error == errno.ENOTDIR
        assert client.request(Opcode.OPENDIR, fuse.open_flags(0), entry.node).error != 0
        client.call(Opcode.UNLINK, fuse.name(name))
    assert pictures(ground.outside) == before


def forged(client: FrontEnd, real: int) -> list[int]:
    """Numbers near a *real* one (another generation, another slot), at the edges, and anywhere."""
    chance = random.Random(SEED)  # noqa: S311  # repeatable on purpose
    near = [real ^ 1 << bit for bit in range(64)] + [real + step for step in (-1, 1, 1 << 32, -(1 << 32))]
    edges = [0, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1]
    anywhere = [chance.getrandbits(64) for _ in range(20)]
    return [number % 2**64 for number in (*near, *edges, *anywhere)]


@pytest.mark.usefixtures("untouched")
def test_a_forged_node_is_unknown_to_every_opcode(client: FrontEnd, ground: Ground) -> None:
    victim = client.lookup(b"file").node
    known = {fuse.ROOT, victim}
    for node in forged(client, victim):
        if node not in known:
            for attack in attackers.on_node(victim):
                error = made(client, attack, node)
                assert error in UNKNOWN or attack.opcode is Opcode.STATFS, (hex(node), attack, error)


@pytest.mark.usefixtures("untouched")
def test_a_forgotten_node_is_unknown_to_every_opcode_and_never_comes_back(client: FrontEnd) -> None:
    victim = client.lookup(b"file").node
    gone = client.lookup(b"inner").node
    forget(client, gone)
    again = client.lookup(b"inner").node
    assert again != gone
    for attack in attackers.on_node(victim):
        error = made(client, attack, gone)
        assert error in UNKNOWN or attack.opcode is Opcode.STATFS, (attack, error)


@pytest.mark.usefixtures("untouched")
def test_a_forged_handle_is_unknown_to_every_opcode(client: FrontEnd) -> None:
    node = client.lookup(b"file").node
    good = client.open(node, os.O_RDWR)
    for handle in forged(client, good):
        if handle != good:
            for attack in attackers.on_handle(handle, node, good):
                error = made(client, attack, node)
                assert error in UNKNOWN | {errno.EISDIR, errno.ENOTDIR}, (hex(handle), attack, error)
    client.call(Opcode.RELEASE, fuse.release(good), node)
    for attack in attackers.on_handle(good, node, good):
        assert made(client, attack, node) in UNKNOWN, attack


@pytest.mark.usefixtures("untouched")
def test_a_handle_of_one_file_is_none_of_another(client: FrontEnd) -> None:
    """Whatever node stands in the header: what is changed is what the handle was opened for, or nothing."""
    mine, other = client.lookup(b"file").node, client.lookup(b"file", client.lookup(b"inner").node).node
    reading = client.open(mine, os.O_RDONLY)
    for attack in attackers.on_handle(reading, mine, reading):
        if attack.opcode in (Opcode.WRITE, Opcode.FALLOCATE, Opcode.COPY_FILE_RANGE):
            assert made(client, attack, other) != 0, attack
    client.call(Opcode.RELEASE, fuse.release(reading), mine)


@pytest.mark.usefixtures("untouched")
def test_nodes_and_handles_of_another_session_are_worth_nothing_in_this_one(service: Service, client: FrontEnd) -> None:
    node = client.lookup(b"file", client.lookup(b"inner").node).node
    handle = client.open(node, os.O_RDWR)
    client.request(Opcode.DESTROY, node=0)
    client.init()
    victim = client.lookup(b"file").node
    for attack in attackers.on_node(victim):
        error = made(client, attack, node)
        assert error in UNKNOWN or attack.opcode is Opcode.STATFS or node == victim, (attack, error)
    for attack in attackers.on_handle(handle, victim, handle):
        assert made(client, attack, victim) in UNKNOWN, attack


def forget(client: FrontEnd, node: int, count: int = 1) -> None:
    request = fuse.header(Opcode.FORGET, 0, node, fuse.IN_HEADER.size + 8) + fuse.forget(count)
    client.send_raw(request, 0, queue=HIPRIO)


@pytest.mark.parametrize("becomes", ["another file", "a link out", "a directory", "nothing"])
def test_a_stale_node_never_reaches_what_the_host_put_in_its_place(
    service: Service, ground: Ground, client: FrontEnd, becomes: str
) -> None:
    """Looked up, then renamed or removed by the host, which makes something else under the name."""
    outside = pictures(ground.outside)
    place = ground.share / "replaced"
    place.mkdir()
    directory = client.lookup(b"replaced").node
    victim = client.lookup(b"file").node
    for number, attack in enumerate((*attackers.changes_on_node(), Attack(Opcode.LINK, b"")) * 2):
        path, away = place / f"name-{number}", place / f"away-{number}"
        path.write_text("first")
        node = client.lookup(path.name.encode(), directory).node
        if number % 2:
            path.rename(away)
        else:
            path.unlink()
        if becomes == "another file":
            path.write_text("second")
        elif becomes == "a link out":
            path.symlink_to(ground.outside / "target")
        elif becomes == "a directory":
            path.mkdir()
        before = pictures(path) if becomes != "nothing" else {}
        link = Attack(Opcode.LINK, fuse.link(node, b"linked-%d" % number), directory)
        made(client, link if attack.opcode is Opcode.LINK else attack, node)
        assert (pictures(path) if before else {}) == before, attack
    assert pictures(ground.outside) == outside
    assert client.request(Opcode.GETATTR, fuse.getattr_of(), victim).error == 0
    shutil.rmtree(place)


@pytest.mark.parametrize("write", ["WRITE", "SETATTR", "FALLOCATE"])
def test_an_open_handle_stays_with_its_file_when_the_host_puts_another_in_its_place(
    ground: Ground, client: FrontEnd, write: str
) -> None:
    path, away = ground.share / "opened", ground.share / "opened-away"
    path.write_text("first")
    node = client.lookup(b"opened").node
    handle = client.open(node, os.O_RDWR)
    path.rename(away)
    path.write_text("second")
    before = pictures(path)
    body = {
        "WRITE": fuse.write(handle, 0, b"mine!"),
        "SETATTR": fuse.setattr_of(fuse.SetAttr.SIZE | fuse.SetAttr.FH, handle=handle, size=2),
        "FALLOCATE": fuse.fallocate(handle, 0, 100),
    }[write]
    client.call(Opcode[write], body, node)
    assert pictures(path) == before
    assert away.stat().st_size == {"WRITE": 5, "SETATTR": 2, "FALLOCATE": 100}[write]
    client.call(Opcode.RELEASE, fuse.release(handle), node)
    path.unlink()
    away.unlink()
