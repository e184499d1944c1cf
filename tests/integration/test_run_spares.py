"""Warm workers are a budget of the whole supervisor: who has one, and who launches when a client comes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from virtiofs_sandbox.supervisor.events import BackingOff, LaunchFailed, SpareDismissed, WorkerEnded, WorkerWarm
from virtiofs_sandbox.supervisor.spares import Spares

from tests.fakes.worker import Behaviour
from tests.integration.served import served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_without_a_spare_the_worker_is_launched_for_the_client_that_came(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, spares=Spares(0)) as share:
            assert share.service.slot is None
            for number in (1, 2):
                monitor = await share.connect()
                assert await monitor.greeting() == number
                monitor.leave()
                await share.seen(WorkerEnded, number)
            assert len(share.of(WorkerWarm)) == 2
            assert share.service.slots == ()

    asyncio.run(scene())


def test_the_spare_goes_to_the_share_that_was_used_last(tmp_path: Path) -> None:
    spares = Spares(1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    async def scene() -> None:
        async with served(tmp_path / "a", spares=spares) as first, served(tmp_path / "b", spares=spares) as second:
            assert (len(first.service.slots), len(second.service.slots)) == (1, 0)
            monitor = await second.connect()
            await monitor.greeting()
            assert len(first.service.slots) == 1
            monitor.leave()
            await first.seen(SpareDismissed)
            await second.seen(WorkerWarm, 2)
            await first.until(lambda: not first.service.slots)
            assert first.service.restarts == 0
            # The one that lost it serves all the same, and the other one keeps its own meanwhile.
            monitor = await first.connect()
            assert await monitor.greeting() == 2
            assert second.of(SpareDismissed) == []

    asyncio.run(scene())


def test_a_worker_whose_client_gave_up_before_it_was_ready_is_no_spare(tmp_path: Path) -> None:
    async def scene() -> None:
        slow = Behaviour(before_ready="sleep 0.2")
        async with served(tmp_path, lambda _: slow, spares=Spares(0)) as share:
            monitor = await share.connect()
            await share.until(lambda: bool(share.service.slots))
            monitor.leave()
            await share.seen(SpareDismissed)
            await share.until(lambda: not share.service.slots)
            assert share.service.restarts == 0

    asyncio.run(scene())


def test_clients_that_come_and_go_do_not_launch_around_the_backoff(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, lambda _: Behaviour(fail_launch=True), spares=Spares(0)) as share:
            for _ in range(2):
                monitor = await share.connect()
                await share.seen(LaunchFailed, len(share.of(LaunchFailed)) + 1)
                monitor.leave()
            backing_off = await share.seen(BackingOff)
            began = asyncio.get_running_loop().time()
            await share.until(lambda: not share.service.slots)
            await share.connect()
            await share.seen(LaunchFailed, 3)
            assert asyncio.get_running_loop().time() - began >= backing_off.delay - 0.05

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("order", "clean", "protocol_error", "reason"),
    [
        (None, True, False, "the client left"),
        ("exit 11", False, True, "vhost-user protocol error: the monitor sent something that is refused"),
        ("exit 12", False, False, "guest memory went away while a request was using it"),
        (f"crash {signal.SIGSEGV}", False, False, "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_the_first_departure_says_whose_doing_it_was(
    tmp_path: Path, order: str | None, clean: bool, protocol_error: bool, reason: str
) -> None:
    async def scene() -> None:
        async with served(tmp_path, spares=Spares(0)) as share:
            monitor = await share.connect()
            await monitor.greeting()
            if order is None:
                monitor.leave()
            else:
                monitor.say(order)
            departure = await asyncio.wait_for(share.service.departure(), 5)
            assert (departure.clean, departure.protocol_error, departure.reason) == (clean, protocol_error, reason)

    asyncio.run(scene())


def test_a_client_for_whom_no_worker_gets_ready_is_a_departure(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, lambda _: Behaviour(fail_launch=True), spares=Spares(0)) as share:
            await share.connect()
            departure = await asyncio.wait_for(share.service.departure(), 5)
            assert not departure.clean
            assert "no worker gets ready" in departure.reason
            assert "open_tree" in departure.reason

    asyncio.run(scene())
