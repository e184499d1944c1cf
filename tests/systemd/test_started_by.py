"""The commands as units start them, without a systemd: its sockets passed on, its questions answered."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import PROGRAMS, Caller, descendants, process_name

COMMAND = PROGRAMS / "virtiofs-sandbox"


class Manager:
    """Hears what is told to a service manager."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(self.path))
        self._socket.settimeout(30)

    def hears(self, line: str) -> list[str]:
        """Waits for a message with *line* in it; all lines of it."""
        while True:
            lines = self._socket.recv(4096).decode().split("\n")
            if line in lines:
                return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    directory = tmp_path / "shares.d"
    directory.mkdir()
    (tmp_path / "share").mkdir()
    text = f'[share]\nsource = "{tmp_path / "share"}"\ntag = "data"\nsocket = "{tmp_path / "elsewhere"}"\n'
    (directory / "data.toml").write_text(f'{text}[sandbox]\nminimum = "bare"\n')
    return directory


@contextlib.contextmanager
def started(tmp_path: Path, policies: Path, *command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command, which may be one that becomes ours; all that is left of it is killed in the end."""
    if not (PROGRAMS / "virtiofs-worker").exists():
        pytest.skip("installed without a worker")
    options = ["--policy-dir", os.fspath(policies), "--control-dir", os.fspath(tmp_path / "control")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environ}
        )
    family: dict[int, str] = {}
    try:
        yield process
        family = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, (tmp_path / "log").read_text()
        assert not [pid for pid, name in family.items() if process_name(pid) == name]
    finally:
        if process.poll() is None:
            family = descendants(process.pid)
            process.kill()
            process.wait()
        for pid, name in family.items():
            if process_name(pid) == name:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


COMMANDS = pytest.mark.parametrize("words", [["serve"], ["run", "data"]], ids=["serve", "run"])


@COMMANDS
def test_the_manager_hears_of_readiness_reloads_life_and_the_end(
    tmp_path: Path, policies: Path, manager: Manager, words: list[str]
) -> None:
    told = {"NOTIFY_SOCKET": os.fspath(manager.path), "WATCHDOG_USEC": "1000000"}
    with started(tmp_path, policies, os.fspath(COMMAND), *words, **told) as process:
        ready = manager.hears("READY=1")
        assert any(line.startswith("STATUS=") and "in service" in line for line in ready)
        # A manager's next thought may be to send it a monitor.
        caller = Caller("real", tmp_path / "elsewhere")
        assert caller.served()
        caller.close()
        manager.hears("WATCHDOG=1")
        manager.hears("WATCHDOG=1")
        process.send_signal(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in manager.hears("RELOADING=1"))
        manager.hears("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")


@pytest.mark.parametrize("name", ["data", ""], ids=["by its name", "by its address"])
@COMMANDS
def test_a_socket_that_was_passed_on_is_the_shares(tmp_path: Path, policies: Path, words: list[str], name: str) -> None:
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed (Debian package systemd)")
    path = tmp_path / ("passed" if name else "elsewhere")
    if name:
        # A policy that names a socket means that one.
        policy = policies / "data.toml"
        policy.write_text("".join(line for line in policy.open() if not line.startswith("socket = ")))
    options = [f"--listen={path}", *([f"--fdname={name}"] if name else [])]
    with started(tmp_path, policies, activate, *options, os.fspath(COMMAND), *words):
        deadline = time.monotonic() + 15
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # The first connection starts it, and is served.
        for _ in range(2):
            caller = Caller("real", path)
            assert caller.served()
            caller.close()
    assert path.is_socket()
