"""The command `run`: what it prints, which sockets it takes, and how it refuses."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.running import COMMANDS, ROOT, Running

pytestmark = pytest.mark.parametrize("kind", COMMANDS)


def refused(kind: str, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a run that must end by itself."""
    run = subprocess.run(
        [*COMMANDS[kind], *arguments], capture_output=True, text=True, timeout=20, check=False, cwd=ROOT
    )
    assert run.stdout == ""
    return run.returncode, run.stderr


def test_the_start_is_one_line_and_then_what_a_monitor_needs(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path), "--readonly", "--cache", "metadata") as run:
        run.ready()
        start, *hints = run.output.read_text().splitlines()
        share = tmp_path / "share"
        assert start.startswith(f"ready: {share} as tag data on {path} (jail: ")
        assert start.endswith("cache: metadata, access: read-only)")
        text = "\n".join(hints)
        assert f"-chardev socket,id=virtiofs0,path={path} -device vhost-user-fs-pci,chardev=virtiofs0,tag=data" in text
        assert f"<source socket='{path}'/><target dir='data'/>" in text


def test_an_inherited_listener_is_served_and_left_in_place(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        number = listening.fileno()
        with Running(kind, tmp_path, "--fd", str(number), pass_fds=[number]) as run:
            run.ready()
            assert run.connect(path).served()
            assert run.stop() == 0
    assert path.is_socket()


def test_a_monitor_that_came_first_needs_no_hints(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        number = listening.fileno()
        monitor = socket.socket(socket.AF_UNIX)
        monitor.connect(os.fspath(path))
        with Running(kind, tmp_path, "--fd", str(number), pass_fds=[number]) as run:
            run.ready()
            run.logged("handed to the worker")
            assert len(run.output.read_text().splitlines()) == 1
        monitor.close()


def test_mode_and_group_of_the_socket_are_what_was_asked(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    group = os.getegid()
    options = ["--socket", os.fspath(path), "--socket-mode", "0604", "--socket-group", str(group)]
    with Running(kind, tmp_path, *options) as run:
        run.ready()
        state = path.stat()
        assert (stat.S_IMODE(state.st_mode), state.st_gid) == (0o604, group)


def test_a_path_beyond_107_bytes_is_served_and_cleaned_up(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / ("s" * 100)
    path.parent.mkdir()
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        assert "QEMU takes at most 107 bytes" in run.output.read_text()
        caller = run.connect(path)
        assert caller.served()
        caller.close()
        assert run.stop() == 0
        assert list(path.parent.iterdir()) == []


def test_a_second_monitor_is_closed_after_a_second_and_the_log_names_both(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        holder = run.connect(path)
        assert holder.served()
        code = "import socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); s.settimeout(9); print(s.recv(1))"
        second = subprocess.Popen([sys.executable, "-c", code, os.fspath(path)], stdout=subprocess.PIPE)
        assert second.communicate(timeout=15)[0] == b"b''\n"
        line = next(line for line in run.log.read_text().splitlines() if "turned away" in line)
        assert f"pid {second.pid} (uid {os.getuid()}) turned away" in line
        assert f"pid {os.getpid()} (uid {os.getuid()}) is connected" in line
        holder.close()


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
        left.listen()
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        status, message = refused(kind, os.fspath(tmp_path), "--tag", "x", "--socket", os.fspath(path))
        assert (status, "another process listens on it" in message) == (1, True)
        assert run.connect(path).served()


def test_a_file_in_the_place_of_the_socket_is_kept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    status, message = refused(kind, os.fspath(tmp_path), "--tag", "x", "--socket", os.fspath(path))
    assert (status, "no socket, and it is not removed" in message) == (1, True)
    assert path.read_text() == "precious"


def test_a_listener_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    status, message = refused(kind, os.fspath(tmp_path), "--tag", "x", "--fd", "0")
    assert (status, "descriptor 0" in message) == (1, True)
