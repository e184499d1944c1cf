"""A short soak of a few shares: the long one is `make soak`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.soak.run import Plan, soak


@pytest.mark.parametrize(
    ("shares", "seconds", "kills"), [(12, 12, 1), pytest.param(200, 120, 2, marks=pytest.mark.slow)]
)
def test_shares_come_and_go_and_nothing_is_left(shares: int, seconds: float, kills: int, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    outcome = soak(Plan(shares, seconds, seed, kills), tmp_path / "site")
    assert outcome.problems == ()
    assert outcome.killed > 0
