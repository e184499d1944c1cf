"""Thousands of connections that come and go, also while the share stops: nothing leaks, nobody hangs."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest
from virtiofs_sandbox.supervisor.events import ClientServed
from virtiofs_sandbox.supervisor.states import State

from tests.integration.served import served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def connected(path: Path) -> socket.socket:
    monitor = socket.socket(socket.AF_UNIX)
    monitor.connect(os.fspath(path))
    return monitor


def test_thousands_that_hang_up_at_once_leave_nothing_and_the_next_is_served(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path) as share:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(100):
                for _ in range(30):
                    connected(share.socket).close()
                await asyncio.sleep(0)
            monitor = await share.connect()
            assert await monitor.greeting() > 0
            # Those that were seen before they were gone had a worker each, and no more.
            assert len(share.pids) <= len(share.of(ClientServed)) + 1
            monitor.leave()
            await share.until(lambda: [slot.state for slot in share.service.slots] == [State.WARM])
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scene())


def test_a_flood_of_connections_does_not_hold_up_a_stop_and_all_are_closed(tmp_path: Path) -> None:
    monitors: list[socket.socket] = []

    async def flood(path: Path) -> None:
        while True:
            try:
                monitors.append(connected(path))
            except (ConnectionRefusedError, FileNotFoundError):
                return
            if len(monitors) % 10 == 0:
                await asyncio.sleep(0)

    async def scene() -> None:
        async with served(tmp_path) as share:
            holder = await share.connect()
            await holder.greeting()
            flooding = asyncio.ensure_future(flood(share.socket))
            await share.until(lambda: len(monitors) >= 300)
            began = asyncio.get_running_loop().time()
            assert await share.service.stop(0.5)
            assert asyncio.get_running_loop().time() - began < 5
            await flooding
            assert await holder.closed()
        for monitor in monitors:
            monitor.settimeout(5)
            with monitor:
                assert is_closed(monitor)

    asyncio.run(scene())


def is_closed(monitor: socket.socket) -> bool:
    try:
        return monitor.recv(1) == b""
    except ConnectionResetError:
        return True
