"""Two shares of one group on one disk: together they take from it what the group may, by weight."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from virtiofs_sandbox.policies.places import group_directory

from tests.cgroups.files import Guest
from tests.cgroups.site import Limited, Site, file_system
from tests.guest.frontend import FrontEnd

MIB = 1 << 20
BUDGET = 8 * MIB
ABOVE = 1.1
GROUP = f"test-disk-{os.getpid()}"


class Writer:
    """Writes and syncs, one mebibyte after the other, until it is told to stop."""

    def __init__(self, service: Limited) -> None:
        self.written = 0
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with FrontEnd.connect(self._service.socket, 60) as client:
            guest = Guest(client)
            while not self._stop.is_set():
                guest.write(f"file{self.written // MIB}".encode(), MIB)
                self.written += MIB

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)


def member(work: Path, site: Site, name: str, weight: int, prefix: tuple[str, ...]) -> Limited:
    policy = f'[limits.group]\nname = "{GROUP}"\nweight = {weight}\n'
    service = Limited(work / name, site, policy, prefix)
    # Its control group is called so.
    service.file = work / name / f"{name}.toml"
    service.share = work / "share" / name
    with (work / name / "defaults.toml").open("a") as defaults:
        defaults.write(f'[groups.{GROUP}.disk]\nwrite = "8MiB/s"\n')
    return service


def test_two_shares_on_one_disk_stay_within_the_budget_by_weight_and_one_takes_over_what_the_other_leaves(
    site: Site, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as running:
        disk = running.enter_context(file_system("ext4", tmp_path, 800))
        services = [member(tmp_path, site, name, weight, disk.prefix) for name, weight in (("one", 100), ("two", 300))]
        for service in services:
            (disk.seen / service.share.name).mkdir()
            running.enter_context(service)
            service.start()
        writers = [running.enter_context(Writer(service)) for service in services]
        time.sleep(4)
        before, began = [writer.written for writer in writers], time.monotonic()
        time.sleep(8)
        took = time.monotonic() - began
        together = [(writer.written - old) / took for writer, old in zip(writers, before, strict=True)]
        print("under load, MiB/s:", [round(rate / MIB, 2) for rate in together])
        writers[1].stop()
        time.sleep(3)
        start, began = writers[0].written, time.monotonic()
        time.sleep(4)
        alone = (writers[0].written - start) / (time.monotonic() - began)
        print(f"alone, MiB/s: {alone / MIB:.2f}")
        # Journal and inodes are charged too; a mebibyte more or less is under way at either end.
        assert sum(together) <= BUDGET * ABOVE + 2 * MIB / took
        assert sum(together) >= BUDGET * 0.6
        assert 2 < together[1] / together[0] < 4.5
        assert BUDGET * 0.6 <= alone <= BUDGET * ABOVE + MIB / 4
    assert site.left() == []
    assert not (group_directory() / GROUP).exists()
