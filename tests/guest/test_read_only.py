"""Read-only three ways (I4): whatever a guest reads, nothing on the host moves, access times included.

That each of the three ways alone stops a write (mount attribute, Landlock, worker) is shown from inside the jail by
tests/escape; here a guest reads all it can, on a mount whose access times would move at every touch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.guest.conftest import new_machine
from tests.guest.policed import Policed
from tests.guest.service import TAG

# Listed here, since listing a directory would itself move its access time.
PATHS = (".", "file", "link", "deep", "deep/file", "deep/link")
LONG_AGO = 1_000_000_000
# Mounts the share over itself, with access times that always move, in a mount namespace that only the service sees.
_STRICT = 'mount -n --bind "$0" "$0" && mount -n -o remount,bind,strictatime "$0" && exec "$@"'
READ_ALL = (
    "cat file deep/file; ls -laR .; readlink link; readlink deep/link; find . -type f -exec cat {} + >/dev/null;"
    "find . -type l -exec readlink {} + >/dev/null; dd if=deep/file of=/dev/null bs=1; stat link file; ls deep; "
    "echo 3 >/proc/sys/vm/drop_caches; cat file deep/file link/file; ls deep; readlink link"
)


def strictly(share: Path) -> Sequence[str]:
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", _STRICT, str(share))


def serve(work: Path, policy: str) -> Policed:
    service = Policed(work, policy, prefix=strictly(work / "share"))
    (service.share / "deep").mkdir(parents=True)
    (service.share / "file").write_text("text\n")
    (service.share / "deep" / "file").write_text("deeper\n")
    (service.share / "link").symlink_to("deep")
    (service.share / "deep" / "link").symlink_to("file")
    for path in PATHS:
        os.utime(service.share / path, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    return service


def access_times(share: Path) -> dict[str, int]:
    return {path: int((share / path).lstat().st_atime) for path in PATHS}


@pytest.fixture
def frozen(tmp_path: Path) -> Iterator[Policed]:
    with serve(tmp_path, 'access = "read-only"\n') as service:
        yield service.start()


def test_a_guest_that_reads_everything_moves_no_access_time(frozen: Policed, tmp_path: Path) -> None:
    before = access_times(frozen.share)
    assert set(before.values()) == {LONG_AGO}
    with new_machine("uml", tmp_path / "guest", frozen.socket) as guest:
        guest.boot().check(f"mount -t virtiofs {TAG} /mnt; cd /mnt; {READ_ALL}")
        guest.power_off()
    assert access_times(frozen.share) == before


def test_the_same_guest_moves_them_where_it_may_write(tmp_path: Path) -> None:
    """So that the test above could fail: the mount is one on which they move."""
    with serve(tmp_path, 'access = "read-write"\n') as service:
        service.start()
        before = access_times(service.share)
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt; cd /mnt; {READ_ALL}")
            guest.power_off()
        moved = {name for name, time in access_times(service.share).items() if time != before[name]}
    assert moved == set(PATHS)


def test_a_read_only_directory_of_a_tree_moves_no_access_time_either(tmp_path: Path) -> None:
    share = tmp_path / "share"
    entry = f'tree = {{ data = {{ source = "{share}", access = "read-only" }} }}\n'
    with serve(tmp_path, entry) as service:
        service.start()
        before = access_times(service.share)
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt; cd /mnt/data; {READ_ALL}")
            guest.power_off()
        assert access_times(service.share) == before
