"""How long to wait before a worker that keeps failing is launched again."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffLimits:
    """Seconds. The first failure costs no delay; the second *first*, doubling up to *longest*, which with the time a
    launch may take must stay below *healthy*.
    """

    first: float = 0.2
    longest: float = 30.0
    healthy: float = 60.0


class Backoff:
    """Counts failures in a row. A healthy minute, one without a failure, ends the row."""

    def __init__(self, limits: BackoffLimits, jitter: Callable[[], float] = random.random) -> None:
        """*jitter* gives numbers from 0 to 1; shares that fail for one reason should not retry in step."""
        self._limits = limits
        self._jitter = jitter
        self._failures = 0
        self._last = -math.inf

    @property
    def failures(self) -> int:
        return self._failures

    def failed(self, now: float) -> float:
        """Notes a failure and returns the seconds to wait: between a half and the whole of the doubled delay."""
        if now - self._last >= self._limits.healthy:
            self._failures = 0
        self._last = now
        self._failures += 1
        if self._failures == 1:
            return 0.0
        exponent = min(self._failures - 2, 30)
        delay = min(self._limits.first * 2.0**exponent, self._limits.longest)
        return delay * (1 + self._jitter()) / 2
