"""`run` where a policy has a say: it serves what the policy allows, on the policy's socket."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.integration.running import COMMANDS, Running

pytestmark = pytest.mark.parametrize("kind", COMMANDS)


def policy(tmp_path: Path, rest: str = "") -> list[str]:
    """Writes one about the directory that Running shares; returns the arguments that make it known."""
    directory = tmp_path / "shares.d"
    directory.mkdir()
    (directory / "mine.toml").write_text(f'[share]\nsource = "{tmp_path}/share"\ntag = "mine"\n{rest}')
    return ["--policy-dir", os.fspath(directory)]


def test_a_directory_with_a_policy_is_shared_as_the_policy_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    said = f'access = "read-only"\nsocket = {{ path = "{path}", mode = "0600" }}\n[cache]\nintent = "shared-write"\n'
    with Running(kind, tmp_path, *policy(tmp_path, said)) as run:
        run.ready()
        start = run.output.read_text().splitlines()[0]
        assert start.startswith(f"ready: {tmp_path / 'share'} as tag data on {path} (jail: ")
        assert start.endswith(f"cache: never, access: read-only, policy: {tmp_path / 'shares.d/mine.toml'})")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert run.connect(path).served()
        assert run.stop() == 0


def test_the_caller_s_socket_is_taken_where_the_policy_leaves_the_place_open(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, *policy(tmp_path), "--socket", os.fspath(path), "--readonly") as run:
        run.ready()
        assert "access: read-only" in run.output.read_text().splitlines()[0]
        assert run.connect(path).served()
