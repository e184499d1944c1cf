"""Limits on requests as a guest meets them: it stays usable, its data arrives, and a change reaches it at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import new_machine
from tests.guest.machine import Machine
from tests.guest.policed import Policed
from tests.guest.service import TAG

MIB = 1 << 20
SLOW = '[limits.requests]\nwrite = "1MiB/s"\nburst = "1ms"\n'
# An answer takes milliseconds; what takes this long has waited for the writes.
PROMPT = 1.5
LOOK = """\
cd /mnt
for round in 1 2 3 4 5; do
    read before rest </proc/uptime
    ls /mnt >/dev/null && stat /mnt/other$round >/dev/null && cat /mnt/other$round >/dev/null || exit 1
    read after rest </proc/uptime
    echo "took $before $after"
    sleep 0.2
done
"""


@pytest.fixture(params=["shared-read", "exclusive"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Policed, Machine]]:
    """A guest on a share that writes a mebibyte a second: through to the host, and from its own cache."""
    with Policed(tmp_path, f'{SLOW}[cache]\nintent = "{request.param}"\n') as service:
        service.share.mkdir()
        for number in range(1, 6):
            (service.share / f"other{number}").write_text("content\n")
        service.start()
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt")
            yield service, guest


def written(guest: Machine, mebibytes: int) -> str:
    """Has the guest make that many random bytes in its memory, and returns their checksum."""
    guest.check(f"dd if=/dev/urandom of=/tmp/data bs=1M count={mebibytes} 2>/dev/null")
    return guest.check("sha256sum </tmp/data").split()[0]


def test_a_guest_stays_usable_while_a_large_write_waits_and_loses_nothing(place: tuple[Policed, Machine]) -> None:
    service, guest = place
    checksum = written(guest, 6)
    guest.check("(dd if=/tmp/data of=/mnt/big bs=1M conv=fsync 2>/tmp/dd; echo $? >/tmp/status) & sleep 1")
    looks = re.findall(r"took (\S+) (\S+)", guest.check(LOOK))
    slowest = max(float(after) - float(before) for before, after in looks)
    assert len(looks) == 5
    assert slowest < PROMPT
    assert guest.run("test -e /tmp/status").status != 0, "the write still waits, or nothing was shown"
    print(f"the slowest of five looks took {slowest * 1000:.0f} ms")
    # What is left is at most all of it, at the rate.
    took = re.findall(
        r"\d+\.\d+",
        guest.check(
            "cut -d' ' -f1 /proc/uptime; while [ ! -s /tmp/status ]; do sleep 0.1; done; umount /mnt;"
            "cut -d' ' -f1 /proc/uptime; cat /tmp/status"
        ),
    )
    assert float(took[1]) - float(took[0]) < 6 + 1 + PROMPT
    assert guest.check("cat /tmp/status") == "0\n"
    assert "blocked for more than" not in guest.console
    assert guest.check(f"mount -t virtiofs {TAG} /mnt; sha256sum </mnt/big").split()[0] == checksum
    assert (service.share / "big").stat().st_size == 6 * MIB


def test_limits_that_change_ten_times_under_load_hold_within_a_second_and_cost_no_byte(
    place: tuple[Policed, Machine],
) -> None:
    service, guest = place
    checksum = written(guest, 16)
    guest.check("(dd if=/tmp/data of=/mnt/big bs=256k conv=fsync 2>/tmp/dd; echo $? >/tmp/status) & true")
    for turn in range(10):
        limits = f'[limits.requests]\nwrite = "{256 + 64 * turn}KiB/s"\nmetadata-ops = "{100 + turn}/s"\n'
        assert "works by the new settings" in service.change(limits if turn % 4 else "")
    service.change("")
    guest.check("while [ ! -s /tmp/status ]; do sleep 0.05; done", seconds=30)
    assert guest.check("cat /tmp/status") == "0\n", guest.check("cat /tmp/dd")
    assert guest.check("umount /mnt; mount -t virtiofs share /mnt; sha256sum </mnt/big").split()[0] == checksum


def test_limits_that_change_ten_times_by_command_under_load_hold_within_a_second_and_cost_no_byte(
    place: tuple[Policed, Machine],
) -> None:
    service, guest = place
    service.change("")
    checksum = written(guest, 16)
    service.limit("write=1MiB/s")
    guest.check("(dd if=/tmp/data of=/mnt/big bs=256k conv=fsync 2>/tmp/dd; echo $? >/tmp/status) & true")
    for turn in range(10):
        rate = 256 + 64 * turn
        said = service.limit(f"write={rate}KiB/s", f"metadata-ops={100 + turn}/s")
        assert said["limits"]["write"]["now"] == rate << 10
    service.limit("write=64KiB/s")
    time.sleep(1)
    before, began = service.limit()["counters"]["write"]["bytes_admitted"], time.monotonic()
    time.sleep(3)
    admitted = service.limit()["counters"]["write"]["bytes_admitted"] - before
    # What was saved up in a second, and a request that was let in on credit; of such, one can take these seconds alone.
    assert admitted <= (64 << 10) * (time.monotonic() - began + 1) + MIB
    print(f"64KiB/s asked for, {admitted / (time.monotonic() - began) / 1024:.0f} KiB/s let through")
    assert guest.run("test -e /tmp/status").status != 0, "it is still being written"
    assert service.limit("write=none")["limits"]["write"]["now"] is None
    guest.check("while [ ! -s /tmp/status ]; do sleep 0.05; done", seconds=30)
    assert guest.check("cat /tmp/status") == "0\n", guest.check("cat /tmp/dd")
    assert guest.check("umount /mnt; mount -t virtiofs share /mnt; sha256sum </mnt/big").split()[0] == checksum


def test_readers_and_writers_that_take_every_slot_they_can_leave_room_for_looking(
    place: tuple[Policed, Machine],
) -> None:
    """Rule: of the ring, what nobody waits for in the guest fills a quarter; each reader and writer takes one more."""
    service, guest = place
    for number in range(40):
        with (service.share / f"long{number}").open("wb") as file:
            file.truncate(8 * MIB)
    service.change('[limits.requests]\nread = "64KiB/s"\nwrite = "64KiB/s"\nburst = "1ms"\n')
    guest.check(
        f"umount /mnt; mount -t virtiofs {TAG} /mnt; cd /mnt\n"
        "for number in $(seq 0 39); do (cat long$number >/dev/null; echo read >>/tmp/ended) & done\n"
        "for number in $(seq 0 7); do\n"
        "    (dd if=/dev/zero of=new$number bs=64k count=64 conv=fsync 2>/dev/null; echo written >>/tmp/ended) &\n"
        "done\n"
        "sleep 2"
    )
    # What it looks at is known to be small: a read of it would wait with the others.
    looks = re.findall(r"took (\S+) (\S+)", guest.check(LOOK.replace("cat /mnt/other$round", "touch /mnt/fresh$round")))
    slowest = max(float(after) - float(before) for before, after in looks)
    print(f"the slowest of five looks took {slowest * 1000:.0f} ms")
    assert slowest < PROMPT
    assert guest.run("test -e /tmp/ended").status != 0, "all of them still wait"
