"""The prober, and scenarios run below the guard: hostile programs get one writable directory and no more."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import environments
from tests.escape.guarded import REPOSITORY, build_prober, reachable, run_below_guard, run_guarded

__all__ = ["REPOSITORY", "Scenario"]
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
    return build_prober()


@pytest.fixture(scope="session")
def worker() -> Iterator[Path]:
    """The real worker, where every user can run it."""
    built = REPOSITORY / ".venv/bin/virtiofs-worker"
    if not built.exists():
        pytest.skip("installed without a worker")
    with tempfile.TemporaryDirectory(prefix="worker-") as directory:
        copy = reachable(Path(directory)) / built.name
        copy.write_bytes(built.read_bytes())
        copy.chmod(0o755)
        yield copy


@pytest.fixture
def launch(worker: Path) -> Scenario:
    """Runs one scenario of launching.py, as the caller that an environment is, and returns its result."""

    def run(name: str, environment: str = "root", **options: str) -> dict[str, Any]:
        if reason := environments.unavailable(environment):
            pytest.skip(reason)
        with tempfile.TemporaryDirectory(prefix="jail-") as directory:
            work = reachable(Path(directory))
            command = [
                *environments.ENVIRONMENTS[environment].command(work),
                *(sys.executable, "-m", "tests.escape.launching", name, str(work), str(worker)),
                *(f"{key}={value}" for key, value in options.items()),
            ]
            return run_below_guard(work, command)

    return run


@pytest.fixture
def scenario(prober: Path) -> Scenario:
    """Runs one scenario of scenarios.py in a process of its own and returns its result."""

    def run(name: str, **options: str) -> dict[str, Any]:
        return run_guarded(name, prober, options)

    return run
