"""Log lines from a worker, which may be an attacker's.

A line can neither grow without bound, nor bring a terminal's control sequences or a forged second line into the log,
nor come so often that nothing else is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from virtiofs_sandbox.policies.share import LogLevel

MAX_LINE_BYTES = 512
_SECONDS_BETWEEN_NOTES = 1.0
_ERROR, _WARNING, _INFO, _DEBUG = 3, 4, 6, 7


@dataclass(frozen=True)
class LogLine:
    level: LogLevel
    text: str


@dataclass(frozen=True)
class Dropped:
    """*lines* were left out before whatever comes next."""

    lines: int


@dataclass(frozen=True)
class LineRate:
    """Lines let through per second, after a burst."""

    per_second: float
    burst: float


class LogLines:
    """Takes the bytes of a log pipe apart. *rate* may change at any time; *parse* gets one line, without its end."""

    def __init__(self, rate: LineRate, now: float, parse: Callable[[bytes], LogLine] | None = None) -> None:
        self.rate = rate
        self._parse = parse or parse_line
        self._tokens = rate.burst
        self._filled = now
        self._rest = b""
        self._skipping = False
        self._dropped = 0
        self._told = now

    def feed(self, data: bytes, now: float) -> list[LogLine | Dropped]:
        """The lines completed by *data*. An overlong line is cut; its remainder is thrown away up to its end."""
        self._tokens = min(self.rate.burst, self._tokens + (now - self._filled) * self.rate.per_second)
        self._filled = now
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines: list[LogLine | Dropped] = []
        for raw in whole:
            if not self._skipping:
                lines += self._admit(raw)
            self._skipping = False
        if len(self._rest) > MAX_LINE_BYTES:
            if not self._skipping:
                lines += self._admit(self._rest)
            self._rest, self._skipping = b"", True
        return lines

    def finish(self) -> list[LogLine | Dropped]:
        """What is left when the worker is gone: a last line without its end, and the count of what was left out."""
        lines = self._admit(self._rest) if self._rest and not self._skipping else []
        if self._dropped:
            lines.append(Dropped(self._dropped))
        self._rest, self._dropped = b"", 0
        return lines

    def _admit(self, raw: bytes) -> list[LogLine | Dropped]:
        if self._tokens < 1:
            self._dropped += 1
            return []
        self._tokens -= 1
        line = self._parse(raw[:MAX_LINE_BYTES])
        if not self._dropped or self._filled - self._told < _SECONDS_BETWEEN_NOTES:
            return [line]
        self._told = self._filled
        dropped, self._dropped = self._dropped, 0
        return [Dropped(dropped), line]


def parse_line(raw: bytes) -> LogLine:
    """One line, "<N>text". Whatever has no level (a C library's last words, say) counts as a warning."""
    raw = raw[:MAX_LINE_BYTES]
    level = LogLevel.WARNING
    if len(raw) >= 3 and raw[:1] == b"<" and raw[2:3] == b">" and raw[1:2].isdigit():
        level = _level(int(raw[1:2]))
        raw = raw[3:]
    return LogLine(level, printable(raw))


def printable(raw: bytes) -> str:
    """*raw* as text in which every control character, line separator and invalid byte is spelled out."""
    text = raw.decode("utf-8", "backslashreplace")
    return spelled_out(text)


def spelled_out(text: str) -> str:
    """*text* with every control character, line separator and half of a character spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _level(number: int) -> LogLevel:
    if number <= _ERROR:
        return LogLevel.ERROR
    if number == _WARNING:
        return LogLevel.WARNING
    return LogLevel.INFO if number <= _INFO else LogLevel.DEBUG
