"""The figures of a share go on over its workers: no counter ever falls, and what is of the moment is the live ones'."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.claims import PAGES
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.stats import INDEXES, WORDS, Ring, Statistics, decode
from virtiofs_sandbox.supervisor.events import Event, WorkerEnded
from virtiofs_sandbox.supervisor.tallies import Tallies, Tally

ENDED: dict[str, Any] = {"client": None, "ending": Ending(0, None), "expected": True}


def page(**values: int) -> Statistics:
    words = [0] * WORDS
    for name, value in values.items():
        words[INDEXES[name]] = value
    return decode(words)


def ended(statistics: Statistics | None) -> WorkerEnded:
    return WorkerEnded("share", 1, statistics=statistics, **ENDED)


def test_a_total_is_what_ended_workers_said_last_and_the_live_ones_say_now() -> None:
    tally = Tally()
    tally.note(ended(page(requests=5, bytes_read=100, inodes=7)))
    tally.note(ended(None))
    total = tally.total([page(requests=1, inodes=2), page(requests=2, inodes=3)])
    assert (total.requests, total.bytes_read, total.inodes) == (8, 100, 5)
    assert (tally.total([]).requests, tally.total([]).inodes) == (5, 0)


def test_rings_hold_together_what_each_worker_holds_and_the_highest_is_that_of_one() -> None:
    def ring(depth: int, highest: int) -> Statistics:
        return decode([0] * 256 + [depth, highest, 1, 2] + [0] * (WORDS - 260))

    tally = Tally()
    tally.note(ended(ring(9, 9)))
    assert tally.total([ring(2, 5), ring(3, 4)]).rings == {0: Ring(depth=5, highest=5, batches=3, answers=6)}


def test_the_oldest_request_is_that_of_whichever_worker_has_been_at_it_longest() -> None:
    busy = [page(oldest_start=900), page(oldest_start=0), page(oldest_start=400)]
    assert Tally().total(busy).oldest_start == 400
    assert Tally().total([page(oldest_start=0)]).oldest_start == 0


@given(st.lists(PAGES, min_size=1, max_size=3), PAGES)
def test_no_counter_falls_when_a_worker_ends_whatever_it_claimed(
    pages: list[tuple[int, ...]], last: tuple[int, ...]
) -> None:
    tally = Tally()
    for words in pages:
        tally.note(ended(decode(words)))
    before = tally.total([decode(last)])
    tally.note(ended(decode(last)))
    after = tally.total([])
    assert after.requests == before.requests == sum(words[4] for words in [*pages, last])
    assert after.latency == before.latency
    assert after.errors_by_class == before.errors_by_class
    assert after.throttled == before.throttled
    assert (after.inodes, after.oldest_start) == (0, 0)


def test_every_event_is_passed_on_and_counted_for_the_share_that_is_in_service() -> None:
    shown: list[Event] = []
    tallies = Tallies(shown.append)
    event = ended(page(requests=3))
    tallies.show(event)
    first = tallies.begin("share")
    tallies.show(event)
    second = tallies.begin("share")
    tallies.end("share", first)
    tallies.show(event)
    tallies.show(event)
    tallies.end("share", second)
    tallies.show(event)
    assert shown == [event] * 5
    assert (first.total([]).requests, second.total([]).requests) == (3, 6)
