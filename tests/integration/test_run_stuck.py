"""Workers that hang: told by their oldest request in flight, replaced unless they wait for the storage."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.events import (
    BackingOff,
    ClientReturned,
    ClientServed,
    RequestHangs,
    WorkerEnded,
    WorkerKilled,
)
from virtiofs_sandbox.supervisor.worker import Terms

from tests.fakes.launching import PLAN
from tests.integration.served import QUICK, Served, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def in_service(
    tmp_path: Path, scene: Callable[[Served], Awaitable[None]], *, stuck_after: float | None = 1.0, ready: float = 2.0
) -> None:
    async def play() -> None:
        share = Share(name="data", source=tmp_path, tag="data", stuck_after=stuck_after)
        timing = dataclasses.replace(QUICK, ready=ready)
        async with served(tmp_path, timing=timing, terms=Terms(share, PLAN)) as harness:
            await scene(harness)

    asyncio.run(play())


def test_a_worker_whose_request_is_in_flight_too_long_is_replaced_and_counted(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.say("oldest 0")
        began = time.monotonic()
        assert await first.closed()
        assert time.monotonic() - began >= 1.0 - 0.1
        killed = await share.seen(WorkerKilled)
        assert "stuck: a request has been in flight for 1 s" in killed.reason
        assert not (await share.seen(WorkerEnded)).expected
        assert share.service.restarts == 1
        second = await share.connect()
        assert await second.greeting() == 2
        assert share.of(BackingOff) == []

    in_service(tmp_path, scene)


@pytest.mark.parametrize(("stuck_after", "oldest"), [(60.0, 30), (None, 10_000), (1.0, -10_000)])
def test_a_request_that_may_take_so_long_or_begins_in_the_future_is_no_sign(
    tmp_path: Path, stuck_after: float | None, oldest: int
) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.say(f"oldest {oldest}")
        await asyncio.sleep(10 * QUICK.watch)
        assert await first.read_limit() == 0

    in_service(tmp_path, scene, stuck_after=stuck_after)


def test_requests_that_come_and_go_are_no_sign_however_old_each_is_said_to_be(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        for age in range(100, 130):
            first.say(f"oldest {age}")
            await asyncio.sleep(QUICK.watch / 2)
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene)


def test_one_that_waits_for_its_storage_stays_and_is_told_of_once(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.say("oldest 5\nwait")
        hangs = await share.seen(RequestHangs)
        assert hangs.client is not None
        assert "waits for the share's storage" in str(hangs)
        await asyncio.sleep(10 * QUICK.watch)
        assert len(share.of(RequestHangs)) == 1
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene, ready=30.0)


def test_a_worker_that_never_takes_its_client_is_replaced_and_the_client_served_by_the_next(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        os.kill(share.pids[0], signal.SIGSTOP)
        monitor = await share.connect()
        monitor.say("client 2")
        assert await monitor.greeting() == 2
        killed = await share.seen(WorkerKilled)
        assert "has not read what it was told for 1 s" in killed.reason
        assert [event.generation for event in share.of(ClientServed)] == [1, 2]
        assert (await share.seen(ClientReturned)).generation == 1

    in_service(tmp_path, scene, ready=1.0)


def test_a_client_handed_to_a_worker_that_is_already_dying_is_served_by_the_next(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        os.kill(share.pids[0], signal.SIGSTOP)
        monitor = await share.connect()
        await share.seen(ClientServed)
        os.kill(share.pids[0], signal.SIGKILL)
        assert await monitor.greeting() == 2
        assert share.service.restarts == 1

    in_service(tmp_path, scene, stuck_after=None)


def test_a_worker_that_overlooks_the_end_of_its_client_is_found_out_though_nobody_else_comes(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.say("deaf")
        await asyncio.sleep(0.05)
        first.leave()
        killed = await share.seen(WorkerKilled)
        assert "hung up" in killed.reason

    in_service(tmp_path, scene, stuck_after=None)


def test_one_that_hung_up_meanwhile_is_not_handed_on(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        os.kill(share.pids[0], signal.SIGSTOP)
        monitor = await share.connect()
        await share.seen(ClientServed)
        monitor.leave()
        await asyncio.sleep(0.05)
        os.kill(share.pids[0], signal.SIGKILL)
        await share.seen(WorkerEnded)
        assert share.of(ClientReturned) == []

    in_service(tmp_path, scene)
