"""What a service manager is told, and that nothing depends on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.supervisor.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = os.fspath(tmp_path / "notify") if request.param == "path" else f"@virtiofs-sandbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        heard.settimeout(5)
        yield heard, address


def test_each_message_is_one_datagram_of_assignments(manager: tuple[socket.socket, str]) -> None:
    heard, address = manager
    environ = {"NOTIFY_SOCKET": address, "HOME": "/root"}
    notifier = Notifier.from_environment(environ)
    assert environ == {"HOME": "/root"}
    notifier.ready("3 shares")
    assert heard.recv(1000) == b"READY=1\nSTATUS=3 shares"
    notifier.reloading()
    assert heard.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    # One line, whatever is in it.
    notifier.status("one\nSTOPPING=1 \udcff")
    assert heard.recv(1000) == b"STATUS=one STOPPING=1 \\udcff"
    notifier.stopping()
    assert heard.recv(1000) == b"STOPPING=1\nSTATUS=stopping"
    notifier.close()
    notifier.stopping()


def test_without_a_manager_or_with_a_deaf_one_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": f"{tmp_path}/none"}):
        notifier = Notifier.from_environment(environ)
        for _ in range(2000):
            notifier.ready("fine")
        notifier.close()
    deaf = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(os.fspath(deaf))
        notifier = Notifier(os.fspath(deaf))
        for _ in range(2000):
            notifier.alive()
        notifier.close()


@pytest.mark.parametrize(
    ("said", "period"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_a_sign_of_life_is_due_at_half_of_what_the_manager_waits(said: dict[str, str], period: float | None) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/nobody", **said})
    assert notifier.watchdog() == period
    notifier.close()


@given(st.dictionaries(st.sampled_from(["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]), st.text(max_size=30)))
def test_any_environment_makes_a_notifier(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ)
    notifier.ready("fine")
    notifier.close()
    assert environ == {}
