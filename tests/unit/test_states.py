"""The state table: every launch can be stopped, killed and can end, and messages out of turn have no row."""

from __future__ import annotations

import pytest
from virtiofs_sandbox.supervisor.states import TRANSITIONS, Event, OutOfOrderError, State, next_state

LIVE = [state for state in State if state not in (State.BACKOFF, State.GONE)]


@pytest.mark.parametrize("state", LIVE)
def test_a_jail_may_end_in_every_state(state: State) -> None:
    assert next_state(state, Event.EXIT) is State.GONE


@pytest.mark.parametrize("state", [state for state in LIVE if state is not State.KILLED])
def test_a_jail_can_be_killed_in_every_state(state: State) -> None:
    assert next_state(state, Event.KILL) is State.KILLED


def test_nothing_follows_the_end() -> None:
    assert not [row for row in TRANSITIONS if row[0] is State.GONE]


def test_nothing_a_killed_worker_says_counts() -> None:
    assert {event for state, event in TRANSITIONS if state is State.KILLED} == {Event.EXIT}


def test_every_state_but_the_first_is_reached() -> None:
    assert set(TRANSITIONS.values()) == set(State) - {State.BACKOFF}


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.WARM, Event.READY),
        (State.SERVING, Event.READY),
        (State.WARMING, Event.CLIENT),
        (State.WARM, Event.LEAVING),
        (State.LEAVING, Event.LEAVING),
        (State.SERVING, Event.START),
        (State.WARMING, Event.START),
        (State.WARMING, Event.APPLIED),
    ],
)
def test_a_message_out_of_turn_or_twice_is_refused_in_words(state: State, event: Event) -> None:
    with pytest.raises(OutOfOrderError, match=f"{event.value} while {state.value}"):
        next_state(state, event)
