"""Limits on a real disk, a loop device: what a jailed worker gets of it, and what any process in its group does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cgroups.files import Guest, forget
from tests.cgroups.site import Limited, Mounted, Site, file_system
from tests.guest.frontend import FrontEnd
from tests.guest.policed import LimitRefusedError

LOAD = Path(__file__).with_name("load.py")
MIB = 1 << 20
# What a throttle lets through too much at the edges of its time slices.
ABOVE = 1.06
FILE_SYSTEMS = ("ext4", "xfs")


@pytest.fixture(params=FILE_SYSTEMS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    with file_system(request.param, tmp_path) as point:
        yield point


def test_a_jailed_worker_takes_no_more_of_the_disk_than_its_policy_allows(
    site: Site, disk: Mounted, tmp_path: Path
) -> None:
    (disk.seen / "there").write_bytes(os.urandom(16 * MIB))
    forget(disk.seen / "there")
    policy = '[limits.disk]\nwrite = "4MiB/s"\nread = "8MiB/s"\n'
    with (
        Limited(tmp_path, site, policy, disk.prefix).start() as service,
        FrontEnd.connect(service.socket, 30) as client,
    ):
        guest = Guest(client)
        assert 1 * MIB < guest.write(b"written", 12 * MIB) < 4 * MIB * ABOVE
        assert 2 * MIB < guest.read(b"there", 16 * MIB) < 8 * MIB * ABOVE
        service.reload(policy.replace("4MiB", "16MiB"))
        faster = guest.write(b"more", 24 * MIB)
        assert 5 * MIB < faster < 16 * MIB * ABOVE, "a reload reaches the guest that writes"
        service.reload("")
        assert guest.write(b"unlimited", 48 * MIB) > 18 * MIB
        assert service.stop() == 0
    assert site.left() == []


def test_a_limit_set_by_command_reaches_the_guest_that_writes_and_is_lifted_again(
    site: Site, disk: Mounted, tmp_path: Path
) -> None:
    """Both kinds at once; the share was started without any group."""
    with (
        Limited(tmp_path, site, "", disk.prefix).start() as service,
        FrontEnd.connect(service.socket, 30) as client,
    ):
        guest = Guest(client)
        assert guest.write(b"first", 24 * MIB) > 8 * MIB
        said = service.limit("disk.write=4MiB/s", "metadata-ops=500/s")["limits"]
        assert (said["disk.write"]["now"], said["metadata-ops"]["now"]) == (4 * MIB, 500)
        assert 1 * MIB < guest.write(b"second", 12 * MIB) < 4 * MIB * ABOVE
        assert service.limit("disk.write=none")["limits"]["disk.write"]["now"] is None
        assert guest.write(b"third", 24 * MIB) > 8 * MIB
        assert service.stop() == 0
    assert site.left() == []


def test_a_limit_of_the_disk_that_nothing_can_hold_is_refused_and_nothing_is_changed(
    site: Site, tmp_path: Path
) -> None:
    policy = '[limits]\nunenforceable = "warn"\n'
    on_memory = tmp_path / "share"
    inside = f'mkdir -p {on_memory} && mount -t tmpfs none {on_memory} && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", inside, "sh")
    with Limited(tmp_path, site, policy, prefix).start() as service:
        with pytest.raises(LimitRefusedError, match=r"^\(1, .*limits\.disk\.write cannot be held here"):
            service.limit("disk.write=4MiB/s", "read=4MiB/s")
        assert all(limit["now"] is None for limit in service.limit()["limits"].values())
        assert service.stop() == 0
    assert site.left() == []


def test_operations_are_held_too(site: Site, disk: Mounted, tmp_path: Path) -> None:
    with (
        Limited(tmp_path, site, '[limits.disk]\nwrite-ops = "40/s"\n', disk.prefix).start() as service,
        FrontEnd.connect(service.socket, 30) as client,
    ):
        count = 80
        rate = Guest(client).write(b"small", count * 4096, os.O_DSYNC, 4096) / 4096
        assert rate < 40 * ABOVE * count / (count - 4), "the first slice may come at once"
        assert service.stop() == 0


def test_limits_change_ten_times_under_load_without_an_error(site: Site, disk: Mounted, tmp_path: Path) -> None:
    policy = '[limits.disk]\nwrite = "{}MiB/s"\n'
    with (
        Limited(tmp_path, site, policy.format(4), disk.prefix).start() as service,
        FrontEnd.connect(service.socket, 30) as client,
    ):
        guest, done = Guest(client), threading.Event()
        rates: list[float] = []

        def write() -> None:
            while not done.is_set():
                rates.append(guest.write(b"x%d" % len(rates), MIB, os.O_DSYNC))

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            for number in range(10):
                rate = 8 if number % 2 else 4
                service.reload(policy.format(rate))
                assert site.limit("io").endswith(f" {rate * MIB}") or f"wbps={rate * MIB} " in site.limit("io")
                time.sleep(0.3)
            done.set()
            writing.result(30)
        assert len(rates) > 3
        assert "error" not in service.log
        assert service.stop() == 0
    assert site.left() == []


@pytest.mark.slow
def test_accuracy(site: Site, disk: Mounted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of docs/limits-disk.md, for one file system."""
    seconds = 6.0
    table = Path(f"/proc/{disk.holder}/mounts").read_text().splitlines()
    kind = next(line.split()[2] for line in table if str(disk.point) in line)
    (disk.seen / "there").write_bytes(os.urandom(160 * MIB))
    rows = []

    def plain(key: str, way: str, how: str, block: int, asked: int) -> None:
        service.reload(f'[limits.disk]\n{key} = "{asked}{"/s" if "ops" in key else "MiB/s"}"\n')
        forget(disk.seen / "there")
        file = disk.point / ("there" if way == "read" else "written")
        said = [str(site.group("io")), str(file), way, how, str(block), str(seconds)]
        command = [*disk.prefix, sys.executable, str(LOAD), *said]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        operations, bytes_ = map(float, run.stdout.split())
        got = operations if "ops" in key else bytes_ / MIB
        rows.append((key, f"a process, {how}, {block >> 10} KiB", asked, got))

    with (
        Limited(tmp_path, site, '[limits.disk]\nwrite = "10MiB/s"\n', disk.prefix).start() as service,
        FrontEnd.connect(service.socket, 60) as client,
    ):
        guest = Guest(client)
        got = guest.write(b"guest", 60 * MIB, sync_every=4 * MIB)
        rows.append(("write", "a guest, fsync every 4 MiB, 128 KiB", 10, got / MIB))
        service.reload('[limits.disk]\nread = "20MiB/s"\n')
        forget(disk.seen / "there")
        rows.append(("read", "a guest, nothing cached, 128 KiB", 20, guest.read(b"there", 120 * MIB) / MIB))
        for block in (4 << 10, 64 << 10, 1 << 20):
            plain("write", "write", "direct", block, 10)
            plain("read", "read", "direct", block, 20)
        plain("write", "write", "buffered", 64 << 10, 10)
        plain("write-ops", "write", "direct", 8 << 10, 200)
        plain("read-ops", "read", "direct", 8 << 10, 500)
        assert service.stop() == 0
    with capsys.disabled():
        print()
        for key, who, asked, got in rows:
            print(
                f"| version 1, {kind} | `disk.{key}` | {who} | {asked} | {got:.1f} | {100 * (got / asked - 1):+.1f} % |"
            )
    assert [row for row in rows if row[3] > row[2] * ABOVE] == []
