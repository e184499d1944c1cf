"""The life of one launch, in one table.

A slot is one launch: from the decision to launch, by way of at most one client, to the end of its jail. The messages
of the control socket are events here, so the table also says which message may come when: one that has no row is a
worker out of order, and its jail is killed.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class State(enum.Enum):
    BACKOFF = "waiting before the next launch"
    WARMING = "being launched"
    WARM = "ready for a client"
    SERVING = "serving a client"
    DESERTED = "its client has hung up, the worker has not said so yet"
    LEAVING = "its client is going, requests drain"
    STOPPING = "asked to stop"
    KILLED = "killed, not gone yet"
    GONE = "gone"


class Event(enum.Enum):
    RETRY = "the delay is over"
    READY = "message READY"
    START = "a client was handed over"
    CLIENT = "message CLIENT"
    LEAVING = "message LEAVING"
    APPLIED = "message APPLIED"
    HANG_UP = "the client's connection was seen closed"
    STOP = "the supervisor stops"
    KILL = "the jail was sent SIGKILL"
    EXIT = "the keeper ended, or the launch failed"


class OutOfOrderError(Exception):
    """An event that has no place in the present state."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"{event.value} while {state.value}")


_S, _E = State, Event
TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (_S.BACKOFF, _E.RETRY): _S.WARMING,
        (_S.BACKOFF, _E.STOP): _S.GONE,
        (_S.BACKOFF, _E.KILL): _S.GONE,
        (_S.WARMING, _E.READY): _S.WARM,
        (_S.WARMING, _E.STOP): _S.STOPPING,
        (_S.WARMING, _E.KILL): _S.KILLED,
        (_S.WARMING, _E.EXIT): _S.GONE,
        (_S.WARM, _E.START): _S.SERVING,
        (_S.WARM, _E.APPLIED): _S.WARM,
        (_S.WARM, _E.STOP): _S.STOPPING,
        (_S.WARM, _E.KILL): _S.KILLED,
        (_S.WARM, _E.EXIT): _S.GONE,
        (_S.SERVING, _E.CLIENT): _S.SERVING,
        (_S.SERVING, _E.LEAVING): _S.LEAVING,
        (_S.SERVING, _E.HANG_UP): _S.DESERTED,
        (_S.SERVING, _E.APPLIED): _S.SERVING,
        (_S.SERVING, _E.STOP): _S.STOPPING,
        (_S.SERVING, _E.KILL): _S.KILLED,
        (_S.SERVING, _E.EXIT): _S.GONE,
        (_S.DESERTED, _E.CLIENT): _S.DESERTED,
        (_S.DESERTED, _E.LEAVING): _S.LEAVING,
        (_S.DESERTED, _E.APPLIED): _S.DESERTED,
        (_S.DESERTED, _E.STOP): _S.STOPPING,
        (_S.DESERTED, _E.KILL): _S.KILLED,
        (_S.DESERTED, _E.EXIT): _S.GONE,
        (_S.LEAVING, _E.CLIENT): _S.LEAVING,
        (_S.LEAVING, _E.APPLIED): _S.LEAVING,
        (_S.LEAVING, _E.STOP): _S.STOPPING,
        (_S.LEAVING, _E.KILL): _S.KILLED,
        (_S.LEAVING, _E.EXIT): _S.GONE,
        # What was on its way when STOP was sent may still arrive.
        (_S.STOPPING, _E.READY): _S.STOPPING,
        (_S.STOPPING, _E.CLIENT): _S.STOPPING,
        (_S.STOPPING, _E.LEAVING): _S.STOPPING,
        (_S.STOPPING, _E.APPLIED): _S.STOPPING,
        (_S.STOPPING, _E.KILL): _S.KILLED,
        (_S.STOPPING, _E.EXIT): _S.GONE,
        (_S.KILLED, _E.EXIT): _S.GONE,
    }
)
# A worker that may be told of new settings: it is up, and what it serves has not ended.
ADOPTING = frozenset({State.WARM, State.SERVING, State.DESERTED})
# The place will be free without anybody else being asked to go: the next worker is warmed meanwhile.
GOING = frozenset({State.DESERTED, State.LEAVING, State.STOPPING, State.KILLED})


def next_state(state: State, event: Event) -> State:
    """Raises OutOfOrderError when the table has no row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise OutOfOrderError(state, event) from None
