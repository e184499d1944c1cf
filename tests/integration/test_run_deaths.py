"""Workers that die, hang or misbehave: what is said about it, and that the share stays in service."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from virtiofs_sandbox.ipc.messages import PROTOCOL_VERSION, Kind, Message, encode
from virtiofs_sandbox.launcher import HandOver
from virtiofs_sandbox.supervisor.events import (
    BackingOff,
    ClientProgress,
    LaunchFailed,
    LinesDropped,
    WorkerEnded,
    WorkerKilled,
    WorkerSaid,
    WorkerWarm,
    ZygoteDied,
    ZygoteReplaced,
)
from virtiofs_sandbox.supervisor.service import StartError

from tests.fakes.launching import PLAN
from tests.fakes.worker import Behaviour
from tests.integration.served import QUICK, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (f"crash {signal.SIGSEGV}", r"SIGSEGV"),
        (f"exit {128 + signal.SIGSYS}", r"worker killed by signal 31 \(SIGSYS\).*seccomp"),
        ("exit 11", "vhost-user protocol error"),
        ("exit 17", "internal error"),
        ("exit 99", "exit status 99"),
    ],
)
def test_a_death_is_told_in_words_and_the_next_client_is_served(tmp_path: Path, order: str, words: str) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say(order)
            assert await first.closed()
            ended = await share.seen(WorkerEnded)
            assert re.search(words, str(ended))
            second = await share.connect()
            assert await second.greeting() == 2

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("raw 00", "broken control message: 1 bytes"),
        (
            "raw " + encode(Message(Kind.READY, 1, a=PROTOCOL_VERSION)).hex(),
            "out of order: message READY while serving",
        ),
        ("raw " + encode(Message(Kind.STOP, 1)).hex(), "broken control message: STOP goes to worker"),
        ("raw " + encode(Message(Kind.CLIENT, 2, 1)).hex(), "speaks for launch 2"),
        ("client 77", "unknown code 77"),
        ("leaving 200", "unknown exit code 200"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_killed(tmp_path: Path, order: str, reason: str) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say(order)
            assert await first.closed()
            killed = await share.seen(WorkerKilled)
            assert reason in killed.reason
            ended = await share.seen(WorkerEnded)
            assert not ended.expected
            second = await share.connect()
            assert await second.greeting() == 2

    asyncio.run(scene())


def test_a_worker_that_does_not_end_after_leaving_is_killed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("linger 1000")
            first.leave()
            killed = await share.seen(WorkerKilled)
            assert "still draining" in killed.reason
            second = await share.connect()
            assert await second.greeting() == 2

    asyncio.run(scene())


def test_a_worker_that_overlooks_the_end_of_its_client_is_found_out_by_the_next_one(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("deaf")
            await asyncio.sleep(0.05)
            first.leave()
            second = await share.connect()
            assert await second.greeting() == 2
            (killed,) = share.of(WorkerKilled)
            assert "hung up" in killed.reason

    asyncio.run(scene())


def test_saying_the_same_again_does_not_push_a_deadline_away(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("leaving 0\nchatter")
            began = time.monotonic()
            await share.seen(WorkerKilled)
            assert time.monotonic() - began < 2 * QUICK.leave + 0.5

    asyncio.run(scene())


def test_a_flood_of_messages_and_lines_is_bounded_and_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("flood")
            await asyncio.sleep(1.5)
            assert len(share.of(ClientProgress)) <= 2 * 64
            assert len(share.of(WorkerSaid)) <= 200 + 2 * 10
            share.service.kill("the flood was enough")
            await share.seen(WorkerEnded)
            assert sum(event.lines for event in share.of(LinesDropped)) > 1000
            assert len(share.of(LinesDropped)) <= 3

    asyncio.run(scene())


def test_a_worker_that_reports_now_and_then_is_never_kept_waiting(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("chatter")
            delays = []
            for count in range(1, 81):
                await share.seen(ClientProgress, count)
                delays.append(time.monotonic())
            assert max(later - earlier for earlier, later in pairwise(delays)) < 0.5

    asyncio.run(scene())


def test_a_crash_loop_backs_off_keeps_connections_waiting_and_recovers(tmp_path: Path) -> None:
    def script(number: int) -> Behaviour:
        return Behaviour(before_ready="exit 17") if 2 <= number <= 5 else Behaviour()

    async def scene() -> None:
        async with served(tmp_path, script) as share:
            first = await share.connect()
            await first.greeting()
            first.leave()
            second = await share.connect()
            assert await second.greeting() == 6
            delays = [event.delay for event in share.of(BackingOff)]
            assert len(delays) == 3
            assert all(low <= delay <= 2 * low for low, delay in zip((0.05, 0.1, 0.2), delays, strict=True))
            failures = [event for event in share.of(WorkerEnded) if not event.expected]
            assert len(failures) == 4

    asyncio.run(scene())


def test_a_launch_that_fails_is_tried_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, lambda number: Behaviour(fail_launch=number in (2, 3))) as share:
            first = await share.connect()
            await first.greeting()
            first.leave()
            second = await share.connect()
            assert await second.greeting() == 4
            assert "open_tree: No such file or directory; create the directory" in str(share.of(LaunchFailed)[0])

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(fail_launch=True), "open_tree"),
        (Behaviour(before_ready="exit 14"), "refused its configuration"),
        (Behaviour(ready=False), "not ready within 2 s"),
    ],
)
def test_what_fails_at_the_first_launch_fails_the_start(tmp_path: Path, behaviour: Behaviour, reason: str) -> None:
    async def scene() -> None:
        with pytest.raises(StartError, match=reason):
            async with served(tmp_path, lambda _: behaviour):
                pass
        assert not (tmp_path / "s").exists()

    asyncio.run(scene())


def test_a_warm_worker_that_dies_is_replaced_before_a_client_comes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            os.kill(share.pids[0], signal.SIGKILL)
            await share.seen(WorkerWarm, 2)
            monitor = await share.connect()
            assert await monitor.greeting() == 2

    asyncio.run(scene())


def test_a_client_that_finds_the_warm_worker_gone_is_served_by_the_next_before_those_behind_it(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, lambda number: Behaviour(deserts=number == 1)) as share:
            await share.seen(WorkerSaid)
            first, second = await share.connect(), await share.connect()
            assert await first.greeting() == 2
            first.leave()
            assert await second.greeting() == 3

    asyncio.run(scene())


def test_all_that_a_worker_said_before_its_end_is_heard(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say("client 2\n" * 50 + "exit 17")
            await share.seen(WorkerEnded)
            assert len(share.of(ClientProgress)) == 50

    asyncio.run(scene())


def test_a_launch_that_finds_the_zygote_dead_has_it_replaced_first(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            zygote = share.zygotes.pid
            assert zygote is not None
            os.kill(zygote, signal.SIGKILL)
            os.waitid(os.P_PID, zygote, os.WEXITED | os.WNOWAIT)
            with open(os.devnull, "rb") as null:
                jail = await share.zygotes.launch(PLAN, HandOver(*[null.fileno()] * 5))
            os.kill(jail.pid, signal.SIGKILL)
            os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED)
            os.close(jail.pidfd)
            assert share.zygotes.pid not in (None, zygote)

    asyncio.run(scene())


def test_the_zygotes_death_is_told_touches_no_worker_and_a_new_one_is_forked(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            for count in (1, 2, 3):
                zygote = share.zygotes.pid
                assert zygote is not None
                os.kill(zygote, signal.SIGKILL)
                died = await share.seen(ZygoteDied, count)
                assert (died.pid, "SIGKILL" in str(died)) == (zygote, True)
                first.say("client 1")
                await share.seen(ClientProgress, count)
                first.leave()
                first = await share.connect()
                assert await first.greeting() == count + 1
            assert len(share.of(ZygoteReplaced)) == 3
            assert share.of(WorkerKilled) == []

    asyncio.run(scene())


def test_a_zygote_that_hangs_is_replaced_and_the_launch_tried_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, lambda number: Behaviour(hang_launch=number == 2)) as share:
            hanging = share.zygotes.pid
            first = await share.connect()
            await first.greeting()
            first.leave()
            second = await share.connect()
            assert await second.greeting() == 3
            assert (await share.seen(ZygoteDied)).pid == hanging
            assert "not ready within 2 s" in str(await share.seen(LaunchFailed))

    asyncio.run(scene())


def test_log_lines_come_with_their_level_and_without_control_characters(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say(r"log <3>disk\x1b[31m is full\n")
            said = await share.seen(WorkerSaid)
            assert (said.level.value, said.text) == ("error", r"disk\x1b[31m is full")
            assert said.generation == 1
            assert said.client is not None

    asyncio.run(scene())


def test_the_last_words_of_a_worker_come_before_its_end(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            first = await share.connect()
            await first.greeting()
            first.say(r"log <3>assertion" + "\nexit 17")
            await share.seen(WorkerEnded)
            kinds = [type(event) for event in share.events]
            assert kinds.index(WorkerSaid) < kinds.index(WorkerEnded)

    asyncio.run(scene())
