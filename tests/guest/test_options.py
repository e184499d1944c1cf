"""What the options of `run` change for a guest. Read-only holds for contents, attributes and access times (I4)."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import fuse
from tests.guest.conftest import new_machine
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import TAG, Service

LONG_AGO = 1_000_000_000


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A read-only share with one file and one directory, last read long ago."""
    service = Service(tmp_path_factory.mktemp("frozen"), ["--readonly"])
    service.share.mkdir()
    (service.share / "file").write_text("text\n")
    (service.share / "directory").mkdir()
    for path in (service.share / "file", service.share / "directory"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    with service:
        yield service.start()


def everything(share: Path) -> dict[str, tuple[int, ...]]:
    """Each name below *share* with what a change would show in."""
    found: dict[str, tuple[int, ...]] = {}
    for path in [share, *share.rglob("*")]:
        status = path.lstat()
        kept = (
            status.st_mode,
            status.st_uid,
            status.st_size,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        found[str(path)] = kept
    return found


def test_a_guest_reads_a_read_only_share_and_changes_nothing_in_it_not_even_access_times(
    frozen: Service, tmp_path: Path
) -> None:
    """I4."""
    before = everything(frozen.share)
    with new_machine("uml", tmp_path, frozen.socket) as guest:
        guest.boot().check(f"mount -t virtiofs {TAG} /mnt")
        assert guest.check("cat /mnt/file; ls /mnt/directory") == "text\n"
        for script in ("echo x >/mnt/new", "echo x >>/mnt/file", "rm /mnt/file", "mkdir /mnt/d", "mv /mnt/file /mnt/g"):
            outcome = guest.run(script)
            assert outcome.status != 0
            assert "Read-only file system" in outcome.output
        guest.power_off()
    assert everything(frozen.share) == before


def test_every_changing_request_to_a_read_only_share_answers_erofs(frozen: Service) -> None:
    """I4: a client that never asked whether it may."""
    before = everything(frozen.share)
    with FrontEnd.connect(frozen.socket) as client:
        client.start().init()
        node = client.lookup(b"file").node
        mode = struct.pack("<IIQQQQQQIIIIIIII", 1, *[0] * 10, 0o777, *[0] * 4)
        for opcode, body, target in (
            (Opcode.MKDIR, fuse.mkdir(b"d"), fuse.ROOT),
            (Opcode.CREATE, fuse.create(b"c", os.O_RDWR), fuse.ROOT),
            (Opcode.SYMLINK, fuse.name(b"s") + fuse.name(b"t"), fuse.ROOT),
            (Opcode.MKNOD, struct.pack("<IIII", 0o100644, 0, 0, 0) + fuse.name(b"n"), fuse.ROOT),
            (Opcode.LINK, struct.pack("<Q", node) + fuse.name(b"l"), fuse.ROOT),
            (Opcode.UNLINK, fuse.name(b"file"), fuse.ROOT),
            (Opcode.RMDIR, fuse.name(b"directory"), fuse.ROOT),
            (Opcode.RENAME, fuse.rename(b"file", fuse.ROOT, b"other"), fuse.ROOT),
            (Opcode.RENAME2, struct.pack("<QII", 1, 0, 0) + fuse.name(b"file") + fuse.name(b"other"), fuse.ROOT),
            (Opcode.SETATTR, mode, node),
            (Opcode.OPEN, fuse.open_flags(os.O_RDWR), node),
            (Opcode.OPEN, fuse.open_flags(os.O_WRONLY | os.O_TRUNC), node),
        ):
            assert client.request(opcode, body, target).error == errno.EROFS, opcode.name
    assert everything(frozen.share) == before


def set_attribute(client: FrontEnd) -> int:
    body = struct.pack("<II", 5, 0) + fuse.name(b"user.colour") + b"green"
    return client.request(Opcode.SETXATTR, body, client.lookup(b"file").node).error


def test_extended_attributes_are_the_guests_only_where_they_were_asked_for(tmp_path: Path) -> None:
    for options, expected in (([], errno.ENOSYS), (["--xattr"], 0)):
        with Service(tmp_path / f"with{len(options)}", options) as service:
            service.share.mkdir(parents=True)
            (service.share / "file").touch()
            service.start()
            with FrontEnd.connect(service.socket) as client:
                client.start().init()
                assert set_attribute(client) == expected
    assert os.getxattr(tmp_path / "with1" / "share" / "file", "user.colour") == b"green"


@pytest.mark.parametrize("mode", ["never", "auto", "metadata", "always"])
def test_every_cache_mode_serves_a_guest(tmp_path: Path, mode: str) -> None:
    with Service(tmp_path / "served", ["--cache", mode]) as service:
        service.start()
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt; echo text >/mnt/a; mv /mnt/a /mnt/b; cp /mnt/b /mnt/c")
            assert guest.check("cat /mnt/c; ls /mnt") == "text\nb\nc\n"
            guest.power_off()
        assert (service.share / "c").read_text() == "text\n"
