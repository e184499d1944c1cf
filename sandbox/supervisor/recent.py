"""The last lines of the log, in memory, for whoever asks by the control socket.

All lines together have a bound, and those of one share have one: a share that talks much pushes out its own lines, and
beyond the common bound whichever share has most to lose gives way.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from dataclasses import dataclass, field

import msgspec
from virtiofs_sandbox.ipc.requests import MAX_BYTES, Level, Log, LogLine, ReadLog, fitting, words
from virtiofs_sandbox.policies.share import LogLevel

_BYTES_PER_SHARE = 64 << 10
_BYTES = 1 << 20
# A reply has its other fields too.
_REPLY_BYTES = MAX_BYTES - 1024
_REPLY_LINES = 500
_LINE_BYTES = 8 << 10
# Whoever follows waits in a conversation of the control socket, which has eight: the others ask again instead.
FOLLOWERS = 4
# Lines come in bursts: one reply for each burst, not for each line.
_GATHER_SECONDS = 0.05


@dataclass(frozen=True, slots=True)  # there are thousands
class _Kept:
    sequence: int
    rank: int
    text: bytes


@dataclass
class _Lines:
    """Those of one share, oldest first. *lost* is the sequence of the newest that made room."""

    kept: deque[_Kept] = field(default_factory=deque)
    size: int = 0
    lost: int = -1

    @property
    def weight(self) -> tuple[int, int]:
        """The heaviest gives way. A last line is not taken for its length, but when it is the oldest of all."""
        return self.size if len(self.kept) > 1 else 0, -self.kept[0].sequence


@dataclass(frozen=True)
class _Follower:
    share: str | None
    rank: int
    woken: asyncio.Event


class Recent:
    """To be made anywhere; `answer` is for the event loop."""

    def __init__(self, *, per_share: int = _BYTES_PER_SHARE, in_all: int = _BYTES, first: int | None = None) -> None:
        """Bounds in bytes. *first* is the sequence before the first line: by default higher than any that a supervisor
        before this one has given, so that whoever follows finds the lines of the next one.
        """
        self._per_share = per_share
        self._in_all = in_all
        self._newest = time.time_ns() // 1000 if first is None else first
        self._shares: dict[str | None, _Lines] = {}
        self._size = 0
        self._followers: set[_Follower] = set()
        self._ended = asyncio.Event()

    def __contains__(self, share: str | None) -> bool:
        return share in self._shares

    def keep(self, line: LogLine) -> None:
        """Takes in a line that was logged."""
        self._newest += 1
        kept = _Kept(self._newest, LogLevel(line.level).rank, _encoded(line))
        lines = self._shares.setdefault(line.share, _Lines())
        lines.kept.append(kept)
        lines.size += len(kept.text)
        self._size += len(kept.text)
        while lines.size > self._per_share and len(lines.kept) > 1:
            self._drop(line.share)
        while self._size > self._in_all and len(self._shares) > 1:
            self._drop(max(self._shares, key=lambda name: self._shares[name].weight))
        for follower in self._followers:
            if follower.share in (None, line.share) and kept.rank <= follower.rank:
                follower.woken.set()

    def read(self, asked: ReadLog) -> Log:
        """What *asked* is for, as far as it is there."""
        rank = _rank(asked.level)
        if asked.share is None:
            found = list(self._shares.values())
        else:
            found = [self._shares[asked.share]] if asked.share in self._shares else []
        merged = heapq.merge(*(lines.kept for lines in found), key=lambda kept: kept.sequence)
        wanted = [kept for kept in merged if kept.rank <= rank and kept.sequence > (asked.after or 0)]
        if asked.after is None:
            wanted = wanted[len(wanted) - asked.lines :] if asked.lines < len(wanted) else wanted
        first = wanted[: min(asked.lines, _REPLY_LINES)]
        lines = fitting([msgspec.json.decode(kept.text, type=LogLine) for kept in first], _REPLY_BYTES)
        more = len(lines) < len(wanted)
        last = first[len(lines) - 1].sequence if lines else asked.after or 0
        return Log(
            lines=lines,
            next=last if more else self._newest,
            more=more,
            lost=asked.after is not None and any(one.lost > asked.after for one in found),
        )

    async def answer(self, asked: ReadLog) -> Log:
        """The same; where there is nothing, waits for it as long as *asked* says, unless too many do already."""
        reply = self.read(asked)
        if reply.lines or not asked.wait or len(self._followers) >= FOLLOWERS or self._ended.is_set():
            return reply
        follower = _Follower(asked.share, _rank(asked.level), asyncio.Event())
        self._followers.add(follower)
        try:
            async with asyncio.timeout(asked.wait):
                await follower.woken.wait()
            async with asyncio.timeout(_GATHER_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            pass
        finally:
            self._followers.discard(follower)
        return self.read(asked)

    def end(self) -> None:
        """The supervisor ends: nobody waits any more, and whoever does gets what there is."""
        self._ended.set()
        for follower in self._followers:
            follower.woken.set()

    def _drop(self, share: str | None) -> None:
        lines = self._shares[share]
        oldest = lines.kept.popleft()
        lines.lost = oldest.sequence
        lines.size -= len(oldest.text)
        self._size -= len(oldest.text)
        if not lines.kept:
            del self._shares[share]


def _encoded(line: LogLine) -> bytes:
    text = msgspec.json.encode(line)
    if len(text) > _LINE_BYTES:
        text = msgspec.json.encode(msgspec.structs.replace(line, message=words(line.message), data={}))
    return text


def _rank(level: Level) -> int:
    return LogLevel(level).rank
