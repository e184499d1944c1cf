"""What it takes to install: on an empty machine, without Rust, and when everything is there already."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.guest.frontend import FrontEnd
from tests.guest.stock import Stock

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "packaging" / "setup"


def run(command: list[str], seconds: float, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        timeout=seconds,
        env={**os.environ, **environment},
    )


def programs(folder: Path, **scripts: str) -> str:
    """A PATH whose first folder has shell scripts with these names and bodies."""
    for name, body in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_missing_packages_are_named_one_a_line(tmp_path: Path) -> None:
    path = programs(tmp_path, dpkg_query="exit 1")
    listed = run([str(SETUP / "require"), "--list", "uml"], 20, PATH=path)
    assert listed.stdout.split() == ["busybox-static", "user-mode-linux"]


def test_nothing_is_done_and_nothing_said_when_all_packages_are_there(tmp_path: Path) -> None:
    path = programs(tmp_path, dpkg_query="echo installed", apt_get="echo called >&2; exit 1")
    before = time.monotonic()
    result = run([str(SETUP / "require"), "build", "uml", "qemu", "fresh"], 20, PATH=path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - before < 5


def test_without_root_the_missing_packages_are_named_and_the_work_goes_on(tmp_path: Path) -> None:
    path = programs(tmp_path, dpkg_query="exit 1", apt_get="exit 1", id="echo 1000")
    result = run([str(SETUP / "require"), "uml"], 20, PATH=path)
    assert result.returncode == 0
    assert "apt-get install busybox-static user-mode-linux" in result.stderr


def test_an_unknown_group_is_an_error() -> None:
    result = run([str(SETUP / "require"), "everything"], 20)
    assert result.returncode == 2
    assert "everything" in result.stderr


def test_the_demo_lists_what_it_installs_and_does_not_ask_a_closed_input(tmp_path: Path) -> None:
    path = programs(tmp_path, dpkg_query="exit 1")
    result = run([str(SETUP / "confirm"), "uml"], 20, PATH=path, CI="", YES="")
    assert result.returncode == 0
    assert "busybox-static user-mode-linux" in result.stdout


@pytest.mark.slow
def test_it_installs_without_rust_when_the_worker_is_left_out(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    assert run([sys.executable, "-m", "venv", str(venv)], 120).returncode == 0
    path = programs(tmp_path, cargo="exit 1", rustc="exit 1")
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "."]
    installed = run(pip, 300, PATH=path, VIRTIOFS_SANDBOX_WORKER="none")
    assert installed.returncode == 0, installed.stderr
    assert not (venv / "bin" / "virtiofs-worker").exists()
    shown = run([str(venv / "bin" / "virtiofs-sandbox"), "--help"], 20)
    assert shown.returncode == 0
    assert "run" in shown.stdout
    with Stock(tmp_path / "served") as service:
        service.program = venv / "bin" / "virtiofs-sandbox"
        service.start()
        for _ in range(2):
            with FrontEnd.connect(service.socket) as client:
                client.start().init()
                assert client.serves()
        assert service.stop() == 0
    ours = run([str(venv / "bin" / "virtiofs-sandbox"), "run", ".", "--tag", "t", "--socket", str(tmp_path / "s")], 20)
    assert ours.returncode == 1
    assert "there is no worker binary beside this command" in ours.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and chroot need root")
def test_the_demo_runs_on_an_empty_debian_from_a_clean_clone() -> None:
    result = run(["make", "fresh"], 1500)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "a second guest booted" in result.stdout
