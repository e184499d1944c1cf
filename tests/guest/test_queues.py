"""Several request queues: a guest with several processors spreads its requests, and nothing gets mixed up."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.guest.images import MissingProgramError
from tests.guest.qemu import Qemu
from tests.guest.service import TAG, Service

PROCESSORS = 2
WRITERS = 4
# The first kernel that spreads requests over the queues by processor.
SPREADS = (6, 11)
# Each writer makes, renames, appends, lists and removes in a directory of its own, all at once.
WORK = """
mount -t virtiofs {tag} /mnt
for writer in {writers}; do
    (
        mkdir /mnt/$writer
        for i in $(seq 40); do
            dd if=/dev/urandom of=/mnt/$writer/part bs=16k count=4 2>/dev/null
            mv /mnt/$writer/part /mnt/$writer/file-$i
            echo $writer-$i >>/mnt/$writer/log
            ls /mnt /mnt/$writer >/dev/null
            [ $((i % 4)) = 0 ] && rm /mnt/$writer/file-$((i - 1))
        done
        cd /mnt/$writer && md5sum file-* >sums
    ) &
done
wait
sync
umount /mnt
"""


def queue_threads(worker: int) -> dict[str, int]:
    """Nanoseconds that each thread of the worker has run, by its name."""
    threads = Path(f"/proc/{worker}/task").iterdir()
    return {
        (thread / "comm").read_text().strip(): int((thread / "schedstat").read_text().split()[0]) for thread in threads
    }


def test_a_guest_with_two_processors_uses_two_queues_and_every_byte_arrives(service: Service, tmp_path: Path) -> None:
    try:
        guest = Qemu(tmp_path, service.socket, tag=TAG, processors=PROCESSORS)
    except MissingProgramError as error:
        pytest.skip(str(error))
    writers = [f"writer-{number}" for number in range(WRITERS)]
    with guest:
        guest.boot()
        (worker,) = service.wait_worker().workers
        before = queue_threads(worker)
        guest.check(WORK.format(tag=TAG, writers=" ".join(writers)), seconds=180)
        after = queue_threads(worker)
    busy = [name for name, spent in after.items() if name.startswith("queue-") and spent > 2 * before[name] + 1_000_000]
    release = tuple(int(part) for part in guest.release.split(".")[:2])
    assert len(busy) >= (PROCESSORS if release >= SPREADS else 1), (before, after)
    for writer in writers:
        folder = service.share / writer
        assert (folder / "log").read_text().split() == [f"{writer}-{i}" for i in range(1, 41)]
        for line in (folder / "sums").read_text().splitlines():
            digest, name = line.split()
            assert hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest() == digest
        assert len(list(folder.glob("file-*"))) == 30
