"""The statistics page is read as a hostile claim: any bytes give numbers or nothing, never an exception."""

from __future__ import annotations

import os
import struct

from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.memfds import STATISTICS_BYTES, fixed_memory
from virtiofs_sandbox.ipc.stats import (
    INDEXES,
    LAYOUT_VERSION,
    MAGIC,
    WORDS,
    Ring,
    Throttled,
    read_oldest_start,
    read_statistics,
)


def page_of(words: dict[int, int]) -> bytes:
    content = bytearray(STATISTICS_BYTES)
    for index, value in words.items():
        struct.pack_into("<Q", content, index * 8, value)
    return bytes(content)


def test_every_counter_stands_at_its_documented_index() -> None:
    assert list(INDEXES.values()) == list(range(2, 18))
    words = {0: MAGIC, 1: 2, **{index: 1000 + index for index in range(2, 18)}, 32 + 15: 7, 96 + 3: 2**64 - 1}
    words |= {160 + word: 2000 + word for word in range(12)}
    words |= {176 + 26: 5, 176 + 26 + 25: 6, 256 + 8 * 2: 1, 257 + 8 * 2: 3, 259 + 8 * 2: 9, 328 + 16: 4000}
    words |= {392 + 36 * 2 + 2: 8, 392 + 36 * 3 - 1: 9, 392: 10}
    with fixed_memory("page", STATISTICS_BYTES) as page:
        os.pwrite(page.fileno(), page_of(words), 0)
        statistics = read_statistics(page.fileno())
        assert read_oldest_start(page.fileno()) == 1016
    assert statistics is not None
    assert (statistics.generation, statistics.requests, statistics.oldest_start) == (1002, 1004, 1016)
    assert statistics.overdue == 1017
    assert statistics.throttled == {
        "read": Throttled(2000, 2001, 2002, 2003),
        "write": Throttled(2004, 2005, 2006, 2007),
        "metadata": Throttled(2008, 2009, 2010, 2011),
    }
    assert dict(statistics.requests_by_opcode) == {15: 7}
    assert dict(statistics.errors_by_opcode) == {3: 2**64 - 1}
    assert dict(statistics.nanoseconds_by_opcode) == {16: 4000}
    assert statistics.latency["write"] == (5, *[0] * 24, 6)
    assert sum(statistics.latency["read"]) == sum(statistics.latency["metadata"]) == 0
    assert statistics.rings == {2: Ring(depth=1, highest=3, batches=0, answers=9)}
    assert statistics.errors_by_class == {"read": {"other": 10}, "write": {}, "metadata": {"ENOENT": 8, "EDQUOT": 9}}


def test_a_page_nobody_has_written_is_none() -> None:
    with fixed_memory("page", STATISTICS_BYTES) as page:
        assert (read_statistics(page.fileno()), read_oldest_start(page.fileno())) == (None, 0)


@given(st.binary(max_size=STATISTICS_BYTES), st.booleans())
def test_random_bytes_never_raise(content: bytes, marked: bool) -> None:
    with fixed_memory("page", STATISTICS_BYTES) as page:
        os.pwrite(page.fileno(), content, 0)
        if marked:
            os.pwrite(page.fileno(), struct.pack("<QQ", MAGIC, LAYOUT_VERSION), 0)
        statistics = read_statistics(page.fileno())
        assert read_oldest_start(page.fileno()) == (0 if statistics is None else statistics.oldest_start)
    assert statistics is None or (0 <= statistics.requests < 2**64 and len(statistics.words) == WORDS)


def test_a_page_of_another_layout_is_none() -> None:
    with fixed_memory("page", STATISTICS_BYTES) as page:
        os.pwrite(page.fileno(), struct.pack("<QQ", MAGIC, 1), 0)
        assert read_statistics(page.fileno()) is None
        assert read_oldest_start(page.fileno()) == 0


def test_a_page_that_is_too_short_is_none() -> None:
    with fixed_memory("page", 16) as page:
        os.pwrite(page.fileno(), struct.pack("<QQ", MAGIC, LAYOUT_VERSION), 0)
        assert read_statistics(page.fileno()) is None
