"""A guest works on a share as people do; what it wrote is compared from the host, and the other way round."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import KINDS, new_machine
from tests.guest.machine import Machine
from tests.guest.service import TAG, Service

MIB = 1 << 20
FILES = 3000


@pytest.fixture(scope="module", params=list(KINDS))
def guest(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A guest of each kind with the share on /mnt, in a directory of its own: the current one of each script."""
    with new_machine(request.param, tmp_path_factory.mktemp(request.param), service.socket) as machine:
        machine.boot()
        machine.check(f"mount -t virtiofs {TAG} /mnt")
        yield machine
        machine.power_off()


@pytest.fixture
def here(guest: Machine, service: Service, request: pytest.FixtureRequest) -> Path:
    """An empty directory of the share, seen from the host; in the guest it is /mnt/<its name>."""
    path = service.share / f"{guest.kind}-{request.node.name.partition('[')[0]}"
    guest.check(f"mkdir /mnt/{path.name}")
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_guest(guest: Machine, here: Path, script: str, seconds: float = 120) -> str:
    return guest.check(f"set -e; cd /mnt/{here.name}\n{script}", seconds)


def test_a_file_written_in_the_guest_has_the_same_bytes_on_the_host(guest: Machine, here: Path) -> None:
    printed = in_guest(guest, here, "dd if=/dev/urandom of=big bs=1M count=64 2>/dev/null; sync; sha256sum <big")
    assert (here / "big").stat().st_size == 64 * MIB
    assert printed.split()[0] == sha256(here / "big")


def test_a_file_written_on_the_host_has_the_same_bytes_in_the_guest(guest: Machine, here: Path) -> None:
    (here / "big").write_bytes(os.urandom(16 * MIB + 4321))
    assert in_guest(guest, here, "sha256sum <big").split()[0] == sha256(here / "big")


def test_three_thousand_small_files_arrive_with_their_content(guest: Machine, here: Path) -> None:
    in_guest(guest, here, f"i=0; while [ $i -lt {FILES} ]; do echo content $i >f$i; i=$((i+1)); done", 300)
    assert {path.name for path in here.iterdir()} == {f"f{i}" for i in range(FILES)}
    assert all((here / f"f{i}").read_text() == f"content {i}\n" for i in range(FILES))
    assert in_guest(guest, here, "ls | wc -l; cat f* | wc -l").split() == [str(FILES)] * 2


def test_append_and_overwrite_keep_the_rest_of_the_file(guest: Machine, here: Path) -> None:
    in_guest(
        guest, here, "printf 0123456789 >f; printf abc >>f; printf XY | dd of=f bs=1 seek=3 conv=notrunc 2>/dev/null"
    )
    assert (here / "f").read_bytes() == b"012XY56789abc"


def test_truncation_shortens_and_extends_with_zeros(guest: Machine, here: Path) -> None:
    in_guest(guest, here, "printf 0123456789 >f; truncate -s 4 f; truncate -s 8 f; : >empty; printf x >gone; : >gone")
    assert (here / "f").read_bytes() == b"0123\0\0\0\0"
    assert (here / "gone").read_bytes() == b""


def test_renames_replace_and_cross_directories(guest: Machine, here: Path) -> None:
    in_guest(guest, here, "mkdir a b; echo one >a/f; echo two >b/g; mv a/f b/g; mv b c; cat c/g")
    assert (here / "c" / "g").read_text() == "one\n"
    assert sorted(path.name for path in here.rglob("*")) == ["a", "c", "g"]


def test_hard_links_are_one_file_and_symlinks_keep_their_text(guest: Machine, here: Path) -> None:
    printed = in_guest(
        guest, here, "echo x >f; ln f g; echo y >>g; stat -c %h f; ln -s ../outside s; readlink s; rm f; cat g"
    )
    assert printed.split() == ["2", "../outside", "x", "y"]
    assert os.readlink(here / "s") == "../outside"
    assert (here / "g").stat().st_nlink == 1


def test_a_removed_tree_is_gone_and_an_open_deleted_file_stays_readable(guest: Machine, here: Path) -> None:
    printed = in_guest(guest, here, "mkdir -p a/b/c; echo x >a/b/c/f; exec 5<a/b/c/f; rm -r a; cat <&5; ls")
    assert printed == "x\n"
    assert list(here.iterdir()) == []


def test_modes_owners_and_times_set_in_the_guest_are_those_on_the_host(guest: Machine, here: Path) -> None:
    in_guest(guest, here, "echo x >f; chmod 4751 f; chown 1234:5678 f; chmod 640 f; touch -d '2001-02-03 04:05:06' f")
    status = (here / "f").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 1234, 5678)
    assert int(status.st_mtime) == 981173106


def test_a_program_on_the_share_runs_from_its_mapped_pages(guest: Machine, here: Path) -> None:
    assert (
        in_guest(guest, here, "cp /bin/busybox busybox; sync; echo 3 >/proc/sys/vm/drop_caches; ./busybox echo ran")
        == "ran\n"
    )


def test_a_missing_name_and_a_taken_name_give_the_errors_of_a_file_system(guest: Machine, here: Path) -> None:
    printed = in_guest(
        guest,
        here,
        "cat nothing 2>&1 || :; mkdir d; mkdir d 2>&1 || :; rmdir / 2>&1 || :; touch d/x; rmdir d 2>&1 || :",
    )
    assert "No such file" in printed
    assert "File exists" in printed
    assert "not empty" in printed


def test_free_space_is_that_of_the_host(guest: Machine, here: Path) -> None:
    blocks = int(in_guest(guest, here, "stat -f -c %b ."))
    assert blocks == os.statvfs(here).f_blocks
