"""What one worker was told of live settings, and what it answered.

The answers come from a process that may be an attacker's: APPLIED counts only for the oldest SETTINGS that has none
yet.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass

from virtiofs_sandbox.ipc.config import LiveSettings
from virtiofs_sandbox.ipc.messages import Message
from virtiofs_sandbox.supervisor.changes import is_lower, is_stricter

# Linux, include/linux/err.h: no system call fails with more.
MAX_ERRNO = 4095


class WrongAnswerError(Exception):
    """An APPLIED that counts for nothing; str() says why."""


@dataclass(frozen=True)
class Told:
    """One SETTINGS, sent at *began* on the event loop's clock; *answer* gets the APPLIED. *quietly*: it is nothing that
    anybody asked for."""

    serial: int
    settings: LiveSettings
    began: float
    answer: asyncio.Future[Message]
    quietly: bool


class Dialogue:
    """*held*: what the worker works by as far as it has said; at first what its configuration says."""

    def __init__(self, held: LiveSettings) -> None:
        self.held = held
        self._serials = itertools.count(1)
        self._unanswered: deque[Told] = deque()

    @property
    def newest(self) -> LiveSettings:
        """What it was told last, answered or not."""
        return self._unanswered[-1].settings if self._unanswered else self.held

    def next(self, settings: LiveSettings, *, quietly: bool = False) -> Told:
        """The next to be sent; `sent` once it was."""
        loop = asyncio.get_running_loop()
        return Told(next(self._serials), settings, loop.time(), loop.create_future(), quietly)

    def sent(self, told: Told) -> None:
        self._unanswered.append(told)

    def answered(self, message: Message) -> Told:
        """Takes an APPLIED and returns what it answers. Raises WrongAnswerError."""
        if message.code > MAX_ERRNO:
            raise WrongAnswerError(f"APPLIED with unknown errno {message.code}")
        if not self._unanswered:
            raise WrongAnswerError(f"APPLIED for settings {message.a}, and none are unanswered")
        told = self._unanswered[0]
        if message.a != told.serial:
            raise WrongAnswerError(f"APPLIED for settings {message.a}, and {told.serial} are unanswered")
        self._unanswered.popleft()
        if message.code == 0:
            self.held = told.settings
        if not told.answer.done():
            told.answer.set_result(message)
        return told

    def may_forbid_less_than(self, wanted: LiveSettings) -> bool:
        """Whether the worker may still allow what *wanted* forbids: settings without an answer may hold or not."""
        possible = [self.held, *(told.settings for told in self._unanswered)]
        return any(
            is_stricter(settings.rules, wanted.rules) or is_lower(settings.limits, wanted.limits)
            for settings in possible
        )
