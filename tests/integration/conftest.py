"""Fixtures for tests with real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


def children() -> set[int]:
    """Pids of our children, zombies too."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return set(map(int, file.read().split()))


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """After the test there are no more descriptors and children than before."""
    descriptors, processes = set(os.listdir("/proc/self/fd")), children()
    yield
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert children() == processes
