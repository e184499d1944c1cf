"""Denials are told once each, by share and launch, and never so many that nothing else is seen."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import (
    AccessRefused,
    CallOutcome,
    CallRefused,
    DenialsLeftOut,
    Event,
    WorkerEnded,
    WorkerSaid,
    WorkerWarm,
)

X86_64 = 0xC000003E
REPORT = f"seccomp refused call 101 (arch {X86_64:#x})"
NOBODY = 4_194_000


class Heard:
    """A Denials between a stand-in for the kernel's socket and a list."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        theirs.setblocking(False)
        self._kernel = ours
        self.denials = Denials(self.events.append, lambda: theirs)

    async def record(self, kind: int, text: str) -> None:
        body = f"audit(1.000:1): {text}".encode()
        self._kernel.send(struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body)
        await asyncio.sleep(0.01)

    async def refusal(self, pid: int, code: int = 0x50000) -> None:
        await self.record(1326, f'pid={pid} comm="queue-1" arch=c000003e syscall=101 code={code:#x}')


def heard(scenario: Callable[[Heard], Awaitable[None]]) -> list[Event]:
    async def run() -> list[Event]:
        made = Heard()
        with made.denials:
            await scenario(made)
        return made.events

    return asyncio.run(run())


@contextmanager
def a_jail() -> Iterator[tuple[int, int]]:
    """Pids of a process and its child."""
    reading, writing = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        worker = os.fork()
        if worker:
            os.write(writing, worker.to_bytes(4, "little"))
        signal.pause()
    worker = int.from_bytes(os.read(reading, 4), "little")
    try:
        yield keeper, worker
    finally:
        os.kill(worker, signal.SIGKILL)
        os.kill(keeper, signal.SIGKILL)
        os.waitpid(keeper, 0)


def refused(outcome: CallOutcome = CallOutcome.REFUSED, thread: str | None = "queue-1") -> CallRefused:
    return CallRefused("data", 1, None, "ptrace", thread, outcome)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0x50000, CallOutcome.REFUSED),
        (0x30000, CallOutcome.REFUSED),
        (0x80000000, CallOutcome.KILLED),
        (0x7FFC0000, CallOutcome.CARRIED_OUT),
    ],
)
def test_a_record_about_keeper_or_worker_is_one_line(code: int, outcome: CallOutcome) -> None:
    async def scenario(made: Heard) -> None:
        made.denials.launched("data", 1, keeper)
        await made.refusal(keeper, code)
        await made.refusal(worker, code)

    with a_jail() as (keeper, worker):
        assert heard(scenario) == [refused(outcome)] * 2


def test_a_record_about_any_other_process_is_not_ours() -> None:
    async def scenario(made: Heard) -> None:
        made.denials.launched("data", 1, keeper)
        await made.refusal(os.getpid())
        await made.refusal(NOBODY)

    with a_jail() as (keeper, _):
        assert heard(scenario) == []


def test_a_record_that_is_faster_than_the_news_of_the_launch_is_not_lost() -> None:
    async def scenario(made: Heard) -> None:
        await made.refusal(worker)
        made.denials.launched("data", 1, keeper)

    with a_jail() as (keeper, worker):
        assert heard(scenario) == [refused()]


def test_a_record_that_is_slower_than_the_end_of_the_worker_is_not_lost() -> None:
    async def scenario(made: Heard) -> None:
        made.denials.launched("data", 1, keeper)
        made.denials.show(WorkerWarm("data", 1, None, keeper, 0.1))
        made.denials.show(WorkerEnded("data", 1, None, Ending(128 + 31, None), False, None))
        await made.refusal(worker, 0x80000000)

    with a_jail() as (keeper, worker):
        assert heard(scenario)[-1] == refused(CallOutcome.KILLED)


def test_landlock_s_denials_belong_to_whoever_made_the_domain() -> None:
    async def scenario(made: Heard) -> None:
        made.denials.launched("data", 1, keeper)
        # The kernel tells the domain's maker after the first denial.
        await made.record(1423, 'domain=1a blockers=fs.write_file path="/etc/passwd" dev="vda" ino=3')
        await made.record(1424, f'domain=1a status=allocated mode=enforcing pid={keeper} uid=0 exe="/" comm="w"')
        await made.record(1423, "domain=1a blockers=net.connect_tcp daddr=127.0.0.1 dest=80")
        await made.record(1423, 'domain=2b blockers=fs.write_file path="/of/another" dev="vda" ino=3')
        await made.record(1424, f'domain=2b status=allocated mode=enforcing pid={NOBODY} uid=0 exe="/" comm="w"')

    with a_jail() as (keeper, _):
        assert heard(scenario) == [
            AccessRefused("data", 1, None, "fs.write_file", "/etc/passwd"),
            AccessRefused("data", 1, None, "net.connect_tcp", None),
        ]


def test_a_worker_s_own_report_is_the_same_line_with_the_call_s_name() -> None:
    async def scenario(made: Heard) -> None:
        made.denials.show(WorkerSaid("data", 1, None, LogLevel.WARNING, REPORT))

    assert heard(scenario) == [refused(thread=None)]


@pytest.mark.parametrize("text", ["seccomp refused call x (arch 0x1)", f"{REPORT}\\n<3>forged", "anything"])
def test_whatever_else_a_worker_says_is_passed_on(text: str) -> None:
    said = WorkerSaid("data", 1, None, LogLevel.WARNING, text)

    async def scenario(made: Heard) -> None:
        made.denials.show(said)

    assert heard(scenario) == [said]


def test_a_flood_is_ten_lines_and_a_count() -> None:
    async def scenario(made: Heard) -> None:
        for _ in range(100):
            made.denials.show(WorkerSaid("data", 1, None, LogLevel.WARNING, REPORT))

    assert heard(scenario) == [refused(thread=None)] * 10 + [DenialsLeftOut("data", 1, None, 90)]


def test_one_share_s_flood_leaves_another_s_lines_alone() -> None:
    async def scenario(made: Heard) -> None:
        for _ in range(50):
            made.denials.show(WorkerSaid("data", 1, None, LogLevel.WARNING, REPORT))
        made.denials.show(WorkerSaid("other", 1, None, LogLevel.WARNING, REPORT))

    assert [event.share for event in heard(scenario)].count("other") == 1


def test_where_records_cannot_be_read_everything_else_goes_on() -> None:
    def no_records() -> socket.socket:
        raise PermissionError(errno.EPERM, "bind")

    async def run() -> list[Event]:
        events: list[Event] = []
        with Denials(events.append, no_records) as denials:
            denials.show(WorkerSaid("data", 1, None, LogLevel.WARNING, REPORT))
        return events

    assert asyncio.run(run()) == [refused(thread=None)]
