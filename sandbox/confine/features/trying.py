"""Runs an attempt in a short-lived child: what it changes goes with it, and one that hangs is ended."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

SECONDS = 5.0
# For a killed child to be gone; one that sleeps in a dead file server takes no signal, and is left behind.
_REAP_SECONDS = 1.0
_PIECE = 65536


class KilledError(Exception):
    """A signal ended the attempt."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class SilentError(Exception):
    """The attempt ended without a result, or did not end; str() says which."""


def in_child(attempt: Callable[[], bytes], seconds: float = SECONDS) -> bytes:
    """What *attempt* returned in a child of its own, not empty. It must not raise.

    Forks: to be called while the process has one thread. Raises KilledError, SilentError, and OSError when nothing can
    be forked.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if child == 0:
        try:
            answer = attempt()
            with open(writing, "wb", closefd=False) as pipe:
                pipe.write(answer)
        finally:
            # Whatever happened: nothing of the parent's may run or be flushed here.
            os._exit(0)
    os.close(writing)
    try:
        return _result(child, reading, seconds)
    finally:
        os.close(reading)


def _result(child: int, reading: int, seconds: float) -> bytes:
    end = time.monotonic() + seconds
    answer = b""
    while True:
        ready, _, _ = select.select([reading], [], [], max(0, end - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            _reap(child, _REAP_SECONDS)
            raise SilentError(f"no answer within {seconds:g} s")
        piece = os.read(reading, _PIECE)
        if not piece:
            break
        answer += piece
    status = _reap(child, seconds)
    if status is not None and os.WIFSIGNALED(status):
        raise KilledError(os.WTERMSIG(status))
    if not answer:
        raise SilentError("the attempt ended without an answer")
    return answer


def _reap(child: int, seconds: float) -> int | None:
    """The wait status of *child*; None if it is not gone in time."""
    end = time.monotonic() + seconds
    pause = 0.0005
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
