"""One thing a host may have: what was asked, what the system said, what hangs on it."""

from __future__ import annotations

import enum
import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from virtiofs_sandbox.confine.features.trying import KilledError, SilentError, in_child


class State(enum.Enum):
    """MISSING: the kernel or the machine does not have it. RESTRICTED: it has, and we may not use it, or not all.
    UNKNOWN: nothing here says.
    """

    THERE = "there"
    MISSING = "missing"
    RESTRICTED = "restricted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """*said* in the system's words or numbers; *errno* 0 where no call failed."""

    state: State
    said: str
    errno: int = 0


@dataclass(frozen=True)
class Probe:
    """*attempt* runs in a child of its own and may raise OSError. *lost* is what goes without it.

    *remedy* is how to get it. Keys are stable: they are what `doctor --as json` is read by.
    """

    group: str
    key: str
    name: str
    attempt: Callable[[], Answer]
    lost: str
    remedy: str


@dataclass(frozen=True)
class Feature:
    group: str
    key: str
    name: str
    answer: Answer
    lost: str
    remedy: str


_NOT_IN_THIS_KERNEL = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV, errno.EPROTONOSUPPORT}
_NO_LEAVE = {
    errno.EPERM,
    errno.EACCES,
    errno.ENOSPC,
    errno.EUSERS,
    errno.EROFS,
    errno.EMFILE,
    errno.EAGAIN,
    errno.ENODATA,
}


def there(said: str) -> Answer:
    return Answer(State.THERE, said)


def missing(said: str) -> Answer:
    return Answer(State.MISSING, said)


def restricted(said: str) -> Answer:
    return Answer(State.RESTRICTED, said)


def unknown(said: str) -> Answer:
    return Answer(State.UNKNOWN, said)


def refused(number: int, call: str) -> Answer:
    """The answer of a *call* that failed with errno *number*."""
    state = State.UNKNOWN
    if number in _NOT_IN_THIS_KERNEL:
        state = State.MISSING
    elif number in _NO_LEAVE:
        state = State.RESTRICTED
    name = errno.errorcode.get(number, str(number))
    return Answer(state, f"{call}: {name} ({os.strerror(number)})", number)


def by_errno(number: int, call: str) -> Answer:
    """The answer to a *call* that the launcher's own probe has made, with its errno or 0."""
    return refused(number, call) if number else there(f"{call} succeeded")


def ask(probe: Probe) -> Feature:
    """Makes the attempt, in a child that is gone afterwards; never raises for what the system answered."""
    try:
        state, said, number = json.loads(in_child(lambda: _attempted(probe)))
        answer = Answer(State(state), said, number)
    except KilledError as death:
        name = signal.Signals(death.number).name
        killed = unknown if death.number != signal.SIGSYS else restricted
        answer = killed(f"the attempt was killed by {name}")
    except SilentError as silence:
        answer = unknown(str(silence))
    except OSError as error:
        answer = refused(error.errno or 0, "fork")
    return Feature(probe.group, probe.key, probe.name, answer, probe.lost, probe.remedy)


def _attempted(probe: Probe) -> bytes:
    try:
        answer = probe.attempt()
    except OSError as error:
        call = getattr(error, "call", None) or os.fsdecode(error.filename or probe.name)
        answer = refused(error.errno or 0, call)
    except ImportError as error:
        answer = missing(str(error))
    return json.dumps([answer.state.value, answer.said, answer.errno]).encode()
