"""A worker that keeps failing is launched ever less often, and a healthy minute is forgiven."""

from __future__ import annotations

from virtiofs_sandbox.supervisor.backoff import Backoff, BackoffLimits

LIMITS = BackoffLimits(first=0.5, longest=8.0, healthy=60.0)


def delays(count: int, jitter: float) -> list[float]:
    backoff = Backoff(LIMITS, lambda: jitter)
    return [backoff.failed(float(second)) for second in range(count)]


def test_the_first_failure_costs_nothing_and_the_rest_double_up_to_the_longest() -> None:
    assert delays(8, jitter=1.0) == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_jitter_takes_off_up_to_half() -> None:
    assert delays(4, jitter=0.0) == [0.0, 0.25, 0.5, 1.0]


def test_a_minute_without_a_failure_starts_over() -> None:
    backoff = Backoff(LIMITS, lambda: 1.0)
    for _ in range(6):
        backoff.failed(10.0)
    assert backoff.failed(69.9) == 8.0
    assert backoff.failed(129.9) == 0.0
    assert backoff.failures == 1


def test_a_thousand_failures_do_not_overflow() -> None:
    assert delays(5000, jitter=1.0)[-1] == 8.0
