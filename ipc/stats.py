"""The worker's counters, read from the outside.

The page is written by a process that may be in an attacker's hands: it is read with pread, never mapped, and each
number is a claim, good for showing and for nothing else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from virtiofs_sandbox.ipc.memfds import STATISTICS_BYTES

MAGIC = 0x3153544154534656
LAYOUT_VERSION = 1
OPCODES = 64
_PAGE = struct.Struct(f"<{STATISTICS_BYTES // 8}Q")
FIRST_REQUEST_COUNT = 32
FIRST_ERROR_COUNT = 96
FIRST_LIMIT_COUNT = 160
CLASSES = ("read", "write", "metadata")

# Name and index of each scalar counter, in the order of Statistics' fields.
INDEXES: Mapping[str, int] = MappingProxyType(
    {
        "generation": 2,
        "mounted": 3,
        "requests": 4,
        "errors": 5,
        "bytes_read": 6,
        "bytes_written": 7,
        "malformed": 8,
        "ring_errors": 9,
        "interrupts": 10,
        "kicks": 11,
        "inodes": 12,
        "handles": 13,
        "descriptors": 14,
        "log_dropped": 15,
        "oldest_start": 16,
        "overdue": 17,
    }
)
# Up to the start of the oldest request.
_HEAD = struct.Struct(f"<{INDEXES['oldest_start'] + 1}Q")


@dataclass(frozen=True)
class Throttled:
    """What a limit has made of the requests of one class; zeros while there is no limit."""

    admitted: int
    delayed: int
    nanoseconds_delayed: int
    bytes_admitted: int


@dataclass(frozen=True)
class Statistics:
    """One reading; every field is a u64 as the worker claims it, per-opcode counts as opcode -> count without zeros,
    limits as class -> counts."""

    generation: int
    mounted: int
    requests: int
    errors: int
    bytes_read: int
    bytes_written: int
    malformed: int
    ring_errors: int
    interrupts: int
    kicks: int
    inodes: int
    handles: int
    descriptors: int
    log_dropped: int
    oldest_start: int
    overdue: int
    requests_by_opcode: Mapping[int, int]
    errors_by_opcode: Mapping[int, int]
    throttled: Mapping[str, Throttled]


def read_statistics(page: int) -> Statistics | None:
    """The counters behind descriptor *page*, or None when the worker has not written a page of this layout."""
    content = os.pread(page, STATISTICS_BYTES, 0)
    if len(content) != STATISTICS_BYTES:
        return None
    words = _PAGE.unpack(content)
    if words[0] != MAGIC or words[1] != LAYOUT_VERSION:
        return None
    return Statistics(
        **{name: words[index] for name, index in INDEXES.items()},
        requests_by_opcode=_per_opcode(words, FIRST_REQUEST_COUNT),
        errors_by_opcode=_per_opcode(words, FIRST_ERROR_COUNT),
        throttled=_per_class(words),
    )


def read_oldest_start(page: int) -> int:
    """That counter alone, 0 also where there is no page of this layout: it is read often, and of many workers."""
    content = os.pread(page, _HEAD.size, 0)
    if len(content) != _HEAD.size:
        return 0
    magic, version, *others = _HEAD.unpack(content)
    return others[-1] if (magic, version) == (MAGIC, LAYOUT_VERSION) else 0


def _per_class(words: tuple[int, ...]) -> Mapping[str, Throttled]:
    width = len(fields(Throttled))
    starts = {name: FIRST_LIMIT_COUNT + width * number for number, name in enumerate(CLASSES)}
    return MappingProxyType({name: Throttled(*words[start : start + width]) for name, start in starts.items()})


def _per_opcode(words: tuple[int, ...], first: int) -> Mapping[int, int]:
    return MappingProxyType({opcode: words[first + opcode] for opcode in range(OPCODES) if words[first + opcode]})
