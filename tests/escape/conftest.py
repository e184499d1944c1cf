"""The prober, and scenarios run below the guard: hostile programs get one writable directory and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import environments

REPOSITORY = Path(__file__).parents[2]
BINARY = REPOSITORY / "target/x86_64-unknown-linux-gnu/debug/escape-prober"
Scenario = Callable[..., dict[str, Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Decoys are device nodes and foreign owners; the unprivileged launches are made by giving root up."""
    if os.geteuid() != 0:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs root to build its decoys"))


@pytest.fixture(scope="session")
def prober() -> Path:
    """The fake worker, built."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--package", "escape-prober"], cwd=REPOSITORY, check=True)
    return BINARY


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real worker, where every user can reach it."""
    built = REPOSITORY / ".venv/bin/virtiofs-worker"
    if not built.exists():
        pytest.skip("installed without a worker")
    copy = _open(tmp_path_factory.mktemp("worker")) / built.name
    copy.write_bytes(built.read_bytes())
    copy.chmod(0o755)
    return copy


@pytest.fixture
def launch(worker: Path, prober: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """Runs one scenario of launching.py, as the caller that an environment is, and returns its result."""

    def run(name: str, environment: str = "root", **options: str) -> dict[str, Any]:
        if reason := environments.unavailable(environment):
            pytest.skip(reason)
        work = _open(tmp_path_factory.mktemp("jail"))
        binary = worker
        if name == "probe":
            binary = _open(tmp_path_factory.mktemp("prober")) / "prober"
            binary.write_bytes(prober.read_bytes())
            binary.chmod(0o755)
        command = [
            *(sys.executable, "tests/guard.py", "--work", str(work), "--"),
            *environments.ENVIRONMENTS[environment].command(work),
            *(sys.executable, "-m", "tests.escape.launching", name, str(work), str(binary)),
            *(f"{key}={value}" for key, value in options.items()),
        ]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run


def _open(directory: Path) -> Path:
    """Lets every user reach *directory*."""
    for path in (directory, *directory.parents[:2]):
        path.chmod(0o755)
    return directory


@pytest.fixture
def scenario(prober: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """Runs one scenario of scenarios.py in a process of its own and returns its result."""

    def run(name: str, **options: str) -> dict[str, Any]:
        work = _open(tmp_path_factory.mktemp("jail"))
        guard = [sys.executable, "tests/guard.py", "--work", str(work), "--"]
        words = [f"{key}={value}" for key, value in options.items()]
        command = [*guard, sys.executable, "-m", "tests.escape.scenarios", name, str(work), str(prober), *words]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run
