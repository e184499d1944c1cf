"""What a jail costs while nobody asks anything of it."""

from __future__ import annotations

import time
from pathlib import Path

from tests.guest.frontend import FrontEnd
from tests.guest.service import Service

# A loop that spins uses all of it; anything that waits uses microseconds.
WATCHED_SECONDS = 1.0
MOST_SECONDS = 0.2


def processor_seconds(pid: int) -> float:
    """Time that all threads of *pid* have run (proc(5), schedstat: nanoseconds on a processor, waiting, slices)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def used_while_idle(pids: tuple[int, ...]) -> float:
    before = sum(map(processor_seconds, pids))
    time.sleep(WATCHED_SECONDS)
    return sum(map(processor_seconds, pids)) - before


def test_a_warm_worker_and_its_supervisor_use_no_processor(service: Service) -> None:
    assert used_while_idle(service.wait_worker().all) < MOST_SECONDS


def test_a_worker_whose_guest_rests_uses_no_processor(client: FrontEnd, service: Service) -> None:
    assert client.serves()
    assert used_while_idle(service.processes().all) < MOST_SECONDS


def test_a_worker_whose_device_was_reset_uses_no_processor(client: FrontEnd, service: Service) -> None:
    client.reset()
    assert used_while_idle(service.processes().all) < MOST_SECONDS
