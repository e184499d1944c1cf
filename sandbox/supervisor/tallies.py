"""What all workers of a share have counted together: those that have ended, and those that are up.

A worker's page goes with it; what it claimed last is kept here, so that the figures of a share go on when a client
leaves and the next one comes. They end with the share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from virtiofs_sandbox.ipc.stats import FIRST_RING, INDEXES, RING_WORDS, RINGS, WORDS, Statistics, decode
from virtiofs_sandbox.supervisor.events import (
    AccessRefused,
    CallRefused,
    ClientRefused,
    ClientServed,
    Event,
    Sink,
    WorkerEnded,
)

_GENERATION, _OLDEST = INDEXES["generation"], INDEXES["oldest_start"]
_DEPTHS = range(FIRST_RING, FIRST_RING + RING_WORDS * RINGS, RING_WORDS)
_HIGHEST = tuple(word + 1 for word in _DEPTHS)
# What a worker has now, which nothing is left of when it ends.
_HOLDINGS = tuple(INDEXES[name] for name in ("mounted", "inodes", "handles", "descriptors"))
_PASSING = frozenset({_GENERATION, _OLDEST, *_HOLDINGS, *_DEPTHS, *_HIGHEST})
_COUNTERS = tuple(word for word in range(2, WORDS) if word not in _PASSING)


@dataclass
class Tally:
    """One share's. Refused calls and accesses are those of its workers."""

    served: int = 0
    refused: int = 0
    refused_calls: int = 0
    refused_accesses: int = 0
    # Empty until a worker has ended: most of hundreds of shares are at rest.
    _ended: list[int] = field(default_factory=list)

    def note(self, event: Event) -> None:
        match event:
            case ClientServed():
                self.served += 1
            case ClientRefused():
                self.refused += 1
            case CallRefused():
                self.refused_calls += 1
            case AccessRefused():
                self.refused_accesses += 1
            case WorkerEnded() if event.statistics is not None:
                self._ended = self._ended or [0] * WORDS
                self._add(self._ended, event.statistics)

    def total(self, live: Iterable[Statistics]) -> Statistics:
        """Counters over all workers, *live* being the claims of those that are up. What is of the moment (inodes,
        descriptors, depths) is that of the live ones: together, or the oldest, the highest.
        """
        words = list(self._ended) or [0] * WORDS
        for one in live:
            self._add(words, one)
            for word in (*_HOLDINGS, *_DEPTHS):
                words[word] += one.words[word]
            for word in (_GENERATION, *_HIGHEST):
                words[word] = max(words[word], one.words[word])
            words[_OLDEST] = min(filter(None, (words[_OLDEST], one.words[_OLDEST])), default=0)
        return decode(words)

    @staticmethod
    def _add(words: list[int], one: Statistics) -> None:
        for word in _COUNTERS:
            words[word] += one.words[word]


class Tallies:
    """`show` is a sink: put it between whoever has news and whoever shows them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._shares: dict[str, Tally] = {}

    def begin(self, share: str) -> Tally:
        """It comes into service."""
        self._shares[share] = Tally()
        return self._shares[share]

    def end(self, share: str, tally: Tally) -> None:
        """It is in service no more; one that has come under its name meanwhile is."""
        if self._shares.get(share) is tally:
            del self._shares[share]

    def show(self, event: Event) -> None:
        """Counts *event*, and passes it on."""
        tally = self._shares.get(event.share)
        if tally is not None:
            tally.note(event)
        self._sink(event)
