"""Rates between two looks at a share, and how long its requests took, from buckets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.cli.rates import NONE, Look, quantile, rates
from virtiofs_sandbox.ipc.requests import ShareFigures
from virtiofs_sandbox.ipc.stats import BUCKET_BOUNDS, BUCKETS

COUNTS = st.lists(st.integers(0, 2**64 - 1), max_size=BUCKETS)


def look(at: float, latency: Sequence[int] = (), **counts: int) -> Look:
    zeros = {field: 0 for field, kind in ShareFigures.__annotations__.items() if kind == "Count"}
    figures = ShareFigures(
        share="s",
        tag="t",
        tier="full",
        state="warm",
        client=None,
        counted=True,
        latency={"read": tuple(latency), "write": (), "metadata": ()},
        **{**zeros, **counts},
    )
    return Look(at, figures)


def test_rates_are_differences_a_second() -> None:
    before = look(10.0, [5], requests=5, bytes_read=100, nanoseconds_delayed=0)
    found = rates(before, look(12.0, [5, 20], requests=25, bytes_read=4196, nanoseconds_delayed=3_000_000_000))
    assert (found.operations, found.read, found.held) == (10, 2048, 1.5)
    assert found.by_class["read"][0] == 10
    assert found.latency[0] == pytest.approx(1.5 * 1024e-9)


def test_a_first_look_has_no_rates_and_a_share_that_came_anew_begins_at_nothing() -> None:
    assert rates(None, look(1.0, [7], requests=7)) == NONE
    assert rates(look(1.0, [100], requests=100), look(2.0, [7], requests=7)).operations == 7


def test_half_of_the_requests_took_no_longer_than_the_median() -> None:
    counts = [0, 0, 10, 0, 10]
    assert quantile(counts, 0.5) == BUCKET_BOUNDS[2]
    assert quantile(counts, 0.75) == pytest.approx((BUCKET_BOUNDS[3] + BUCKET_BOUNDS[4]) / 2)
    assert quantile([0] * (BUCKETS - 1) + [3], 0.5) == BUCKET_BOUNDS[-1], "the last has no end of its own"
    assert quantile([], 0.5) is None


@given(COUNTS, st.floats(0.01, 1))
def test_a_quantile_lies_in_a_bucket_that_has_requests(counts: list[int], share: float) -> None:
    found = quantile(counts, share)
    if not any(counts):
        assert found is None
        return
    places = [place for place, count in enumerate(counts) if count]
    assert found is not None
    low = BUCKET_BOUNDS[places[0] - 1] if places[0] else 0.0
    assert low <= found <= BUCKET_BOUNDS[min(places[-1], BUCKETS - 2)]


@given(COUNTS, COUNTS)
def test_no_rate_is_negative_whatever_was_claimed(old: list[int], new: list[int]) -> None:
    found = rates(look(1.0, old, requests=sum(old) % 2**64), look(2.0, new, requests=sum(new) % 2**64))
    assert found.operations >= 0
    assert all(rate >= 0 for rate, _ in found.by_class.values())
