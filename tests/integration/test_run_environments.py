"""`run` as everybody who runs it, root, users, a container: the start line says which jail, and it serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import ENVIRONMENTS, Environment, unavailable
from tests.integration.running import COMMANDS, ROOT, Caller, Running

BELOW_THE_DEFAULT = [name for name, environment in ENVIRONMENTS.items() if environment.tier == "bare"]


@pytest.fixture(params=ENVIRONMENTS)
def environment(request: pytest.FixtureRequest) -> Environment:
    if reason := unavailable(request.param):
        pytest.skip(reason)
    return ENVIRONMENTS[request.param]


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    (directory / "share").mkdir()
    yield directory
    shutil.rmtree(directory)


def test_whoever_runs_it_is_told_the_tier_and_served(environment: Environment, place: Path) -> None:
    path = place / "s"
    options = ("--socket", os.fspath(path), "--minimum", environment.tier)
    with Running("real", place, *options, prefix=environment.command(place)) as run:
        run.ready()
        assert f"(jail: {environment.tier}, " in run.output.read_text()
        for _ in range(2):
            caller = Caller("real", path)
            assert caller.served()
            caller.close()
        assert run.stop() == 0
        run.nobody_left()
    assert not path.exists()


@pytest.mark.parametrize("environment", BELOW_THE_DEFAULT, indirect=True)
def test_what_the_host_cannot_hold_is_refused_in_one_sentence(environment: Environment, place: Path) -> None:
    command = [*environment.command(place), *COMMANDS["real"], os.fspath(place / "share"), "--tag", "data"]
    done = subprocess.run(
        [*command, "--socket", os.fspath(place / "s")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert 'this host allows the tier "bare", and sandbox.minimum is "userns": ' in done.stderr
    assert done.stderr.endswith('or admit it by sandbox.minimum = "bare"\n')
    assert done.stderr.count("\n") == 1
    assert not (place / "s").exists()
