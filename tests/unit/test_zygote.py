"""The zygote holds nothing but its socket, and is what its owner thinks it is."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.launcher import LaunchError, Zygote
from virtiofs_sandbox.launcher.forking import SOCKET

START_SECONDS = 10.0


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    started = Zygote.start()
    yield started
    started.close()


def settled(zygote: Zygote) -> dict[str, str]:
    """Its descriptors, once it has let go of what it inherited."""
    folder = Path(f"/proc/{zygote.pid}/fd")
    held: dict[str, str] = {}
    for _ in range(int(START_SECONDS * 100)):
        # One that is listed may be closed before it is read.
        with contextlib.suppress(FileNotFoundError):
            held = {entry.name: os.readlink(entry) for entry in folder.iterdir()}
        if len(held) == SOCKET + 1:
            return held
        select.select([], [], [], 0.01)
    return held


def test_it_keeps_its_socket_and_nothing_it_inherited(tmp_path: Path, zygote: Zygote) -> None:
    held = settled(zygote)
    assert {name: link.split(":")[0] for name, link in held.items()} == {
        "0": "/dev/null",
        "1": "/dev/null",
        "2": "/dev/null",
        str(SOCKET): "socket",
    }
    assert os.readlink(f"/proc/{zygote.pid}/cwd") == "/"


def test_its_socket_turns_readable_when_it_dies(zygote: Zygote) -> None:
    settled(zygote)
    assert select.select([zygote], [], [], 0) == ([], [], [])
    os.kill(zygote.pid, signal.SIGKILL)
    assert select.select([zygote], [], [], START_SECONDS)[0] == [zygote]


def test_a_stop_of_the_whole_group_leaves_the_order_to_the_supervisor(zygote: Zygote) -> None:
    settled(zygote)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(zygote.pid, number)
    assert select.select([zygote], [], [], 0.1) == ([], [], [])


def test_it_ends_when_its_owner_lets_go(zygote: Zygote) -> None:
    settled(zygote)
    zygote.close()
    zygote.close()
    assert not Path(f"/proc/{zygote.pid}").exists()


def test_beside_a_thread_it_is_not_forked() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(LaunchError, match="before the first thread"):
            Zygote.start()
    finally:
        release.set()
        thread.join()
