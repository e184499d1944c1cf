"""One client at a time: who waits, who is served next, who is turned away."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import socket
import time
from pathlib import Path

import pytest
from virtiofs_sandbox.supervisor.events import (
    AcceptFailed,
    ClientProgress,
    ClientRefused,
    ClientsGaveUp,
    ClientWaits,
    WorkerEnded,
    WorkerWarm,
)
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.waiting import CAPACITY

from tests.integration.served import QUICK, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_a_worker_is_warm_before_the_first_client_comes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            assert len(share.of(WorkerWarm)) == 1
            monitor = await share.connect()
            assert await monitor.greeting() == 1

    asyncio.run(scene())


def test_the_client_that_leaves_makes_room_for_the_one_that_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            assert await first.greeting() == 1
            second = await share.connect()
            await share.seen(ClientWaits, 2)
            first.leave()
            assert await second.greeting() == 2
            assert share.of(ClientRefused) == []

    asyncio.run(scene())


def test_a_second_client_is_turned_away_only_after_its_patience_and_both_are_named(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            assert await first.greeting() == 1
            second = await share.connect()
            began = time.monotonic()
            assert await second.closed()
            assert time.monotonic() - began >= QUICK.patience - 0.01
            (refusal,) = share.of(ClientRefused)
            assert str(refusal.client) in str(refusal)
            assert str(refusal.holders[0]) in str(refusal)
            first.say("client 2")
            await share.seen(ClientProgress)

    asyncio.run(scene())


def test_many_that_wait_are_served_in_order_and_patience_starts_anew_with_each_holder(tmp_path: Path) -> None:
    # The last one waits for longer than its patience, but for no holder as long; half of it is left to a slow machine.
    timing = dataclasses.replace(QUICK, patience=2.0)

    async def scene() -> None:
        async with served(tmp_path, timing=timing) as share:
            monitors = [await share.connect() for _ in range(6)]
            for number, monitor in enumerate(monitors, start=1):
                assert await monitor.greeting() == number
                await asyncio.sleep(timing.patience / 2)
                monitor.leave()
            assert share.of(ClientRefused) == []

    asyncio.run(scene())


def test_waiting_is_never_cut_short_while_the_old_worker_drains(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say(f"linger {QUICK.patience * 1.7}")
            first.leave()
            second = await share.connect()
            began = time.monotonic()
            assert await second.greeting() == 2
            assert time.monotonic() - began > QUICK.patience
            ended = await share.seen(WorkerEnded)
            assert ended.expected

    asyncio.run(scene())


def test_the_next_worker_is_warm_before_the_old_one_is_gone(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("linger 0.4")
            first.leave()
            await share.seen(WorkerWarm, 2)
            assert share.of(WorkerEnded) == []

    asyncio.run(scene())


def test_one_that_hangs_up_while_waiting_is_forgotten(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            impatient = await share.connect()
            impatient.say("bytes that the supervisor must not read")
            patient = await share.connect()
            await share.seen(ClientWaits, 3)
            impatient.leave()
            await asyncio.sleep(0.02)
            first.leave()
            assert await patient.greeting() == 2
            assert share.of(ClientsGaveUp) or len(share.of(WorkerWarm)) == 2

    asyncio.run(scene())


def test_what_a_monitor_sends_while_it_waits_reaches_its_worker_unread(tmp_path: Path) -> None:
    """I1: the supervisor takes no byte of a monitor's, and so none is missing."""

    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            second = await share.connect()
            second.say("client 2")
            await share.seen(ClientWaits, 2)
            await asyncio.sleep(QUICK.patience / 2)
            first.leave()
            assert await second.greeting() == 2
            progress = await share.seen(ClientProgress)
            assert progress.generation == 2

    asyncio.run(scene())


def test_being_out_of_descriptors_is_told_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Listener.accept
    failures = [OSError(errno.EMFILE, "Too many open files")] * 2

    def short_of_descriptors(self: Listener) -> socket.socket | None:
        if failures:
            raise failures.pop()
        return accept(self)

    async def scene() -> None:
        async with served(tmp_path) as share:
            monkeypatch.setattr(Listener, "accept", short_of_descriptors)
            monitor = await share.connect()
            assert await monitor.greeting() == 1
            assert [str(event) for event in share.of(AcceptFailed)] == [
                "cannot accept connections: Too many open files; trying again in 0.1 s"
            ] * 2

    asyncio.run(scene())


def test_more_than_the_line_holds_wait_in_the_kernel_and_are_served_too(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            monitors = [await share.connect() for _ in range(CAPACITY + 20)]
            for number, monitor in enumerate(monitors, start=1):
                assert await monitor.greeting() == number
                monitor.leave()

    asyncio.run(scene())


def test_a_line_full_of_those_who_hung_up_does_not_stop_the_next(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            holder = await share.connect()
            await holder.greeting()
            for _ in range(3 * CAPACITY):
                (await share.connect()).leave()
            late = await share.connect()
            holder.leave()
            assert await late.greeting() > 1

    asyncio.run(scene())
