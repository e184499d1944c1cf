"""The life of slots with real jails: hung storage, limits, and hundreds of clients one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import signal
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import prctl
import pytest
from virtiofs_sandbox.cli.run import WORKER
from virtiofs_sandbox.confine import prepare, probe_host
from virtiofs_sandbox.launcher import Launcher, Zygote
from virtiofs_sandbox.policies.share import RequestLimits, Share
from virtiofs_sandbox.supervisor.events import RequestHangs, WorkerEnded, WorkerKilled
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Terms
from virtiofs_sandbox.supervisor.zygotes import Launching

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.integration.served import Served, served

BINARY = Path(sys.executable).parent / WORKER
pytestmark = [
    pytest.mark.usefixtures("nothing_left_behind"),
    pytest.mark.skipif(not BINARY.exists(), reason="installed without a worker"),
    pytest.mark.skipif(os.geteuid() != 0, reason="jails of the tier full need root"),
]
_GET_FEATURES = struct.pack("<III", 1, 1, 0)


def in_service(tmp_path: Path, scene: Callable[[Served], Awaitable[None]], **fields: Any) -> None:
    directory = tmp_path / "share"
    directory.mkdir()
    (directory / "file").write_text("content")
    share = Share(name="data", source=directory, tag="data", **fields)
    terms = Terms(share, prepare(share, probe_host(), worker=BINARY))
    timing = dataclasses.replace(Timing(), watch=0.1)
    # Forked before there is a loop.
    zygote = Zygote.start()

    async def play() -> None:
        launching = Launching(zygote, Zygote.start, Launcher)
        async with served(tmp_path, timing=timing, terms=terms, launching=launching) as harness:
            await scene(harness)

    try:
        asyncio.run(play())
    finally:
        # Orphans of other tests are not ours to bury.
        prctl.set_child_subreaper(0)


@contextlib.contextmanager
def leased(file: Path) -> Iterator[None]:
    """Whoever opens *file* meanwhile waits, like on storage that does not answer, but where signals reach it."""
    # The kernel tells a holder by SIGIO that somebody waits.
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    with file.open("r+b") as holder:
        fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    signal.signal(signal.SIGIO, before)


def test_a_worker_whose_request_hangs_is_replaced(tmp_path: Path) -> None:
    def hang(socket: Path) -> Exception | None:
        with FrontEnd.connect(socket, 20) as client:
            client.start().init()
            entry = fuse.Entry.parse(client.call(Opcode.LOOKUP, fuse.name(b"file")))
            try:
                client.open(entry.node, os.O_RDWR)
            except (OSError, AssertionError) as error:
                return error
            return None

    async def scene(share: Served) -> None:
        with leased(tmp_path / "share/file"):
            assert isinstance(await asyncio.to_thread(hang, share.socket), ConnectionError)
        killed = await share.seen(WorkerKilled)
        assert "stuck: a request has been in flight for" in killed.reason
        assert killed.reason.endswith("(at work: queue-1 in openat)")
        assert share.service.restarts == 1
        assert await asyncio.to_thread(hang, share.socket) is None

    in_service(tmp_path, scene, stuck_after=1.0)


def test_requests_that_wait_for_a_limit_make_no_worker_stuck(tmp_path: Path) -> None:
    def ask(socket: Path) -> None:
        with FrontEnd.connect(socket, 20) as client:
            client.start().init()
            for _ in range(4):
                client.call(Opcode.GETATTR, bytes(16))

    async def scene(share: Served) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.to_thread(ask, share.socket)
        assert asyncio.get_running_loop().time() - began > 2.5
        assert not share.of(WorkerKilled)
        assert not share.of(RequestHangs)

    in_service(tmp_path, scene, stuck_after=0.4, limits=RequestLimits(metadata_ops=1, burst=0.001))


def test_hundreds_of_clients_leave_no_descriptor_process_or_memory_behind(tmp_path: Path) -> None:
    settled: list[tuple[int, int]] = []

    async def scene(share: Served) -> None:
        for number in range(1, 202):
            monitor = await share.connect()
            share.monitors.clear()
            monitor.writer.write(_GET_FEATURES)
            assert len(await asyncio.wait_for(monitor.reader.readexactly(20), 10)) == 20
            monitor.leave()
            # Half of them come while the one before still drains.
            if number % 2:
                await share.seen(WorkerEnded, number)
            if number in (41, 201):
                await share.until(lambda: [slot.state for slot in share.service.slots] == [State.WARM])
                settled.append((descriptors(), resident()))
        assert settled[1][0] == settled[0][0]
        assert settled[1][1] - settled[0][1] < 4 << 20

    in_service(tmp_path, scene)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
