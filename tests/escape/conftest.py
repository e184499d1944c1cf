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


@pytest.fixture
def scenario(prober: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """Runs one scenario of scenarios.py in a process of its own and returns its result."""

    def run(name: str, **options: str) -> dict[str, Any]:
        work = tmp_path_factory.mktemp("jail")
        for directory in (work, *work.parents[:2]):
            directory.chmod(0o755)
        guard = [sys.executable, "tests/guard.py", "--work", str(work), "--"]
        words = [f"{key}={value}" for key, value in options.items()]
        command = [*guard, sys.executable, "-m", "tests.escape.scenarios", name, str(work), str(prober), *words]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run
