"""What shares did between two looks: rates, and how long requests took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from virtiofs_sandbox.ipc.requests import ShareFigures
from virtiofs_sandbox.ipc.stats import BUCKET_BOUNDS

QUANTILES = (0.5, 0.99)


@dataclass(frozen=True)
class Look:
    """The figures of a share at a moment, in seconds of CLOCK_MONOTONIC."""

    at: float
    figures: ShareFigures


@dataclass(frozen=True)
class Rates:
    """Of one share, a second; *held* is seconds of waiting for limits, of all requests together.

    *latency* has, for each of QUANTILES, seconds that requests took at most; None without requests. *by_class* has the
    same of each class, and its operations a second.
    """

    operations: float
    errors: float
    read: float
    written: float
    delayed: float
    held: float
    latency: tuple[float | None, ...]
    by_class: Mapping[str, tuple[float, tuple[float | None, ...]]]


NONE = Rates(0, 0, 0, 0, 0, 0, (None,) * len(QUANTILES), {})


def rates(before: Look | None, now: Look) -> Rates:
    """None of them without a look *before*. Where a share has come into service anew, everything of it is new."""
    if before is None or before.at >= now.at:
        return NONE
    old = before.figures if before.figures.requests <= now.figures.requests else None
    return _between(old, now.figures, now.at - before.at)


def _between(old: ShareFigures | None, new: ShareFigures, seconds: float) -> Rates:
    def rate(name: str) -> float:
        risen: int = getattr(new, name) - (0 if old is None else getattr(old, name))
        return max(0, risen) / seconds

    took = {name: _risen(() if old is None else old.latency.get(name, ()), now) for name, now in new.latency.items()}
    return Rates(
        operations=rate("requests"),
        errors=rate("errors"),
        read=rate("bytes_read"),
        written=rate("bytes_written"),
        delayed=rate("delayed"),
        held=rate("nanoseconds_delayed") / 1e9,
        latency=_quantiles([sum(counts) for counts in zip_longest(*took.values(), fillvalue=0)]),
        by_class={name: (sum(counts) / seconds, _quantiles(counts)) for name, counts in took.items()},
    )


def _risen(old: Sequence[int], new: Sequence[int]) -> list[int]:
    return [max(0, now - before) for now, before in zip_longest(new, old, fillvalue=0)]


def _quantiles(counts: Sequence[int]) -> tuple[float | None, ...]:
    return tuple(quantile(counts, share) for share in QUANTILES)


def quantile(counts: Sequence[int], share: float) -> float | None:
    """How long, in seconds, the fastest *share* of requests took at most, by the buckets of ipc/README.md.

    Within a bucket they are taken to lie evenly. None without requests.
    """
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    places = [place for place, count in enumerate(counts) if count]
    for place in places:
        count = counts[place]
        # Claims may be beyond what a float counts exactly: what is left over then is the last bucket's.
        if count >= wanted or place == places[-1]:
            if place >= len(BUCKET_BOUNDS):
                return BUCKET_BOUNDS[-1]
            low = BUCKET_BOUNDS[place - 1] if place else 0.0
            return low + (BUCKET_BOUNDS[place] - low) * min(1.0, wanted / count)
        wanted -= count
    return None
