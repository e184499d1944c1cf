"""The worker's counters, read from the outside.

The page is written by a process that may be in an attacker's hands: it is read with pread, never mapped, and each
number is a claim, good for showing and for nothing else.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from virtiofs_sandbox.ipc.memfds import STATISTICS_BYTES
from virtiofs_sandbox.ipc.opcodes import CLASSES

MAGIC = 0x3153544154534656
LAYOUT_VERSION = 2
OPCODES = 64
WORDS = STATISTICS_BYTES // 8
_PAGE = struct.Struct(f"<{WORDS}Q")
FIRST_REQUEST_COUNT = 32
FIRST_ERROR_COUNT = 96
FIRST_LIMIT_COUNT = 160
FIRST_LATENCY_COUNT = 176
FIRST_RING = 256
FIRST_NANOSECONDS = 328
FIRST_ERRNO_COUNT = 392
RINGS = 9
RING_WORDS = 8
# Each bucket counts what took longer than the one before allows, up to and including its own bound; the last has none.
BUCKET_BOUNDS: tuple[float, ...] = tuple(2**bits / 1e9 for bits in range(10, 35))
"""In seconds."""
BUCKETS = len(BUCKET_BOUNDS) + 1
# The errors that are counted by name, by their places. "other" stands for the rest.
ERRNOS = (
    "other",
    "EPERM",
    "ENOENT",
    "EINTR",
    "EIO",
    "ENXIO",
    "EBADF",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENODEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENFILE",
    "EMFILE",
    "ETXTBSY",
    "EFBIG",
    "ENOSPC",
    "EROFS",
    "EMLINK",
    "ERANGE",
    "ENAMETOOLONG",
    "ENOLCK",
    "ENOSYS",
    "ENOTEMPTY",
    "ELOOP",
    "ENODATA",
    "EOVERFLOW",
    "EOPNOTSUPP",
    "ESTALE",
    "EUCLEAN",
    "EDQUOT",
)

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


_LIMIT_WORDS = len(fields(Throttled))


@dataclass(frozen=True)
class Ring:
    """One ring, 0 being that of high priority: requests in it now and most there ever were, those that a limit holds
    back included; how often answers were shown to the driver, and how many."""

    depth: int
    highest: int
    batches: int
    answers: int


@dataclass(frozen=True)
class Statistics:
    """One reading; every field is a u64 as the worker claims it.

    What is by opcode or error has no zeros; by class: limits, requests by how long they took (BUCKETS counts), errors
    by name. *rings* by number, without those that never had a request. *words* is the page.
    """

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
    nanoseconds_by_opcode: Mapping[int, int]
    throttled: Mapping[str, Throttled]
    latency: Mapping[str, tuple[int, ...]]
    errors_by_class: Mapping[str, Mapping[str, int]]
    rings: Mapping[int, Ring]
    words: Sequence[int] = field(repr=False)


def read_statistics(page: int) -> Statistics | None:
    """The counters behind descriptor *page*, or None when the worker has not written a page of this layout."""
    content = os.pread(page, STATISTICS_BYTES, 0)
    if len(content) != STATISTICS_BYTES:
        return None
    words = _PAGE.unpack(content)
    if words[0] != MAGIC or words[1] != LAYOUT_VERSION:
        return None
    return decode(words)


def decode(words: Sequence[int]) -> Statistics:
    """What stands in WORDS words, whatever their first two say."""
    return Statistics(
        **{name: words[index] for name, index in INDEXES.items()},
        requests_by_opcode=_per_opcode(words, FIRST_REQUEST_COUNT),
        errors_by_opcode=_per_opcode(words, FIRST_ERROR_COUNT),
        nanoseconds_by_opcode=_per_opcode(words, FIRST_NANOSECONDS),
        throttled={
            name: Throttled(*some)
            for name, some in _per_class(words, FIRST_LIMIT_COUNT, len(fields(Throttled))).items()
        },
        latency={name: tuple(some) for name, some in _per_class(words, FIRST_LATENCY_COUNT, BUCKETS).items()},
        errors_by_class={
            name: {error: count for error, count in zip(ERRNOS, some, strict=True) if count}
            for name, some in _per_class(words, FIRST_ERRNO_COUNT, len(ERRNOS)).items()
        },
        rings=_rings(words),
        words=words,
    )


def read_oldest_start(page: int) -> int:
    """That counter alone, 0 also where there is no page of this layout: it is read often, and of many workers."""
    content = os.pread(page, _HEAD.size, 0)
    if len(content) != _HEAD.size:
        return 0
    magic, version, *others = _HEAD.unpack(content)
    return int(others[-1]) if (magic, version) == (MAGIC, LAYOUT_VERSION) else 0


def _per_class(words: Sequence[int], first: int, width: int) -> Mapping[str, Sequence[int]]:
    return {name: words[first + width * place : first + width * (place + 1)] for place, name in enumerate(CLASSES)}


def _per_opcode(words: Sequence[int], first: int) -> Mapping[int, int]:
    return {opcode: count for opcode, count in enumerate(words[first : first + OPCODES]) if count}


def _rings(words: Sequence[int]) -> Mapping[int, Ring]:
    found = ((number, FIRST_RING + RING_WORDS * number) for number in range(RINGS))
    rings = {number: Ring(*words[start : start + len(fields(Ring))]) for number, start in found}
    return {number: ring for number, ring in rings.items() if ring.highest or ring.answers}
