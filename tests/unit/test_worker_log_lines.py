"""Log lines of a worker are hostile: they are cut, cleaned and counted before anybody sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies.share import LogLevel
from virtiofs_sandbox.supervisor.loglines import (
    MAX_LINE_BYTES,
    Dropped,
    LineRate,
    LogLine,
    LogLines,
    parse_line,
)

FAST = LineRate(per_second=1e9, burst=1e9)


@pytest.mark.parametrize(
    ("raw", "level", "text"),
    [
        (b"<3>broken", LogLevel.ERROR, "broken"),
        (b"<0>worse", LogLevel.ERROR, "worse"),
        (b"<4>odd", LogLevel.WARNING, "odd"),
        (b"<6>mounted", LogLevel.INFO, "mounted"),
        (b"<7>READ 3", LogLevel.DEBUG, "READ 3"),
        (b"free(): invalid pointer", LogLevel.WARNING, "free(): invalid pointer"),
        (b"<9x>", LogLevel.WARNING, "<9x>"),
        (b"", LogLevel.WARNING, ""),
        ("<6>grün".encode(), LogLevel.INFO, "grün"),
    ],
)
def test_a_line_is_a_level_and_a_text(raw: bytes, level: LogLevel, text: str) -> None:
    assert parse_line(raw) == LogLine(level, text)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"a\x1b[2Jb", r"a\x1b[2Jb"),
        (b"a\rb", r"a\rb"),
        (b"\x00\x7f", r"\x00\x7f"),
        ("\u2028\u202e".encode(), r"\u2028\u202e"),
        (b"\xff\xc3", r"\xff\xc3"),
    ],
)
def test_control_characters_are_spelled_out(raw: bytes, text: str) -> None:
    assert parse_line(raw).text == text


@given(st.lists(st.binary(max_size=2000), max_size=20))
def test_no_bytes_bring_a_control_character_or_a_long_line(pieces: list[bytes]) -> None:
    lines = LogLines(FAST, 0.0)
    seen = [line for piece in pieces for line in lines.feed(piece, 0.0)] + lines.finish()
    for line in seen:
        assert isinstance(line, LogLine)
        assert line.text.isprintable()
        assert len(line.text) <= MAX_LINE_BYTES * len(r"\xff")


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), max_size=20), st.data())
def test_lines_are_the_same_however_the_pipe_cuts_them(texts: list[str], data: st.DataObject) -> None:
    stream = "".join(f"<6>{text[:400]}\n" for text in texts).encode()
    lines = LogLines(FAST, 0.0)
    seen = []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        seen += lines.feed(stream[:cut], 0.0)
        stream = stream[cut:]
    assert seen == [LogLine(LogLevel.INFO, text[:400]) for text in texts]


def test_a_line_without_end_is_shown_once_and_cut() -> None:
    lines = LogLines(FAST, 0.0)
    seen = [line for _ in range(100) for line in lines.feed(b"x" * 1000, 0.0)] + lines.feed(b"rest\n<6>next\n", 0.0)
    assert seen == [LogLine(LogLevel.WARNING, "x" * MAX_LINE_BYTES), LogLine(LogLevel.INFO, "next")]


def test_lines_beyond_the_rate_are_counted_and_the_count_is_told() -> None:
    lines = LogLines(LineRate(per_second=1.0, burst=2.0), 0.0)
    first = lines.feed(b"<6>x\n" * 10, 0.0)
    assert first == [LogLine(LogLevel.INFO, "x")] * 2
    assert lines.feed(b"<6>later\n", 1.0) == [Dropped(8), LogLine(LogLevel.INFO, "later")]


def test_the_count_is_told_at_the_end_too() -> None:
    lines = LogLines(LineRate(per_second=1.0, burst=1.0), 0.0)
    lines.feed(b"a\nb\nc\nlast", 0.0)
    assert lines.finish() == [Dropped(3)]
