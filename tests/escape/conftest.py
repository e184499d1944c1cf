"""The prober, and scenarios run below the guard: hostile programs get one writable directory and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.escape.guarded import REPOSITORY, build_prober, run_guarded

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


@pytest.fixture
def scenario(prober: Path, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """Runs one scenario of scenarios.py in a process of its own and returns its result."""

    def run(name: str, **options: str) -> dict[str, Any]:
        return run_guarded(name, tmp_path_factory.mktemp("jail"), prober, options)

    return run
