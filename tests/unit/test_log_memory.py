"""The supervisor's memory of its log: bounded, fair to quiet shares, and read in order."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.requests import MAX_BYTES, Level, Log, LogLine, ReadLog, decode_reply, encode
from virtiofs_sandbox.supervisor.recent import FOLLOWERS, Recent

LEVELS: list[Level] = ["error", "warning", "info", "debug"]


def line(message: str, share: str | None = "data", level: Level = "info") -> LogLine:
    return LogLine(
        time="2026-11-25T12:30:15.250Z",
        level=level,
        share=share,
        generation=None,
        client=None,
        event="worker-said",
        message=message,
        data={},
    )


def messages(log: Log) -> list[str]:
    return [one.message for one in log.lines]


def filled(*lines: LogLine) -> Recent:
    recent = Recent(first=0)
    for one in lines:
        recent.keep(one)
    return recent


def test_the_newest_lines_come_oldest_first_and_the_next_request_gets_what_came_since() -> None:
    recent = filled(*(line(str(number)) for number in range(10)))
    last = recent.read(ReadLog(lines=3))
    assert messages(last) == ["7", "8", "9"]
    assert not last.more
    assert messages(recent.read(ReadLog(after=last.next))) == []
    recent.keep(line("10"))
    assert messages(recent.read(ReadLog(after=last.next))) == ["10"]


def test_lines_are_those_of_one_share_or_of_all_and_none_below_the_level() -> None:
    recent = filled(line("a", "one"), line("b", "two", "debug"), line("c", None, "error"), line("d", "one", "warning"))
    assert messages(recent.read(ReadLog())) == ["a", "b", "c", "d"]
    assert messages(recent.read(ReadLog(share="one"))) == ["a", "d"]
    assert messages(recent.read(ReadLog(level="warning"))) == ["c", "d"]
    assert messages(recent.read(ReadLog(share="three"))) == []


@given(
    st.lists(st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(LEVELS)), max_size=60),
    st.integers(0, 70),
    st.integers(1, 9),
    st.sampled_from(LEVELS),
    st.sampled_from(["one", None]),
)
def test_pages_of_any_size_are_together_the_lines_that_were_asked_for(
    said: list[tuple[str, Level]], asked: int, size: int, level: Level, share: str | None
) -> None:
    recent = filled(*(line(str(number), name, one) for number, (name, one) in enumerate(said)))
    reply = recent.read(ReadLog(share=share, lines=0, level=level))
    assert (reply.lines, reply.next) == ((), len(said))
    wanted = [
        str(number)
        for number, (name, one) in enumerate(said)
        if number >= asked and share in (None, name) and LEVELS.index(one) <= LEVELS.index(level)
    ]
    got, after, more = [], asked, True
    while more:
        page = recent.read(ReadLog(share=share, after=after, lines=size, level=level))
        got += messages(page)
        after, more = page.next, page.more
    assert got == wanted


def test_every_reply_fits_however_long_the_lines_are() -> None:
    recent = Recent(first=0, per_share=1 << 20)
    for _ in range(100):
        recent.keep(msgspec.structs.replace(line("é" * 3000), data={"rules": ["x" * 100] * 1000}))
    got, after, more = 0, 0, True
    while more:
        page = recent.read(ReadLog(after=after, lines=1000))
        sent = encode(page)
        assert len(sent) <= MAX_BYTES
        assert decode_reply(sent[4:]) == page
        got += len(page.lines)
        after, more = page.next, page.more
    assert got == 100


def test_a_noisy_share_pushes_out_its_own_lines_alone() -> None:
    recent = Recent(first=0, per_share=10_000, in_all=50_000)
    recent.keep(line("quiet", "quiet"))
    for number in range(1000):
        recent.keep(line(f"noise {number}", "noisy"))
    assert messages(recent.read(ReadLog(share="quiet"))) == ["quiet"]
    noise = recent.read(ReadLog(share="noisy", lines=1000))
    assert 10 < len(noise.lines) < 100
    assert noise.lines[-1].message == "noise 999"


def test_beyond_the_common_bound_the_share_with_most_gives_way() -> None:
    recent = Recent(first=0, per_share=10_000, in_all=50_000)
    recent.keep(line("quiet", "quiet"))
    for number in range(20_000):
        recent.keep(line("x" * 50, f"share {number % 40}"))
    assert messages(recent.read(ReadLog(share="quiet"))) == ["quiet"]
    kept = [len(recent.read(ReadLog(share=f"share {number}", lines=1000)).lines) for number in range(40)]
    assert 5 <= min(kept) <= max(kept) <= min(kept) + 1
    assert sum(kept) * 150 < 50_000


def test_names_that_come_and_go_leave_nothing() -> None:
    recent = Recent(first=0, per_share=10_000, in_all=20_000)
    for number in range(5000):
        recent.keep(line("x", f"share {number}"))
    assert "share 4999" in recent
    assert sum(f"share {number}" in recent for number in range(5000)) < 200


def test_whoever_reads_too_slowly_is_told_so() -> None:
    recent = Recent(first=0, per_share=10_000)
    recent.keep(line("first"))
    after = recent.read(ReadLog()).next
    for number in range(1000):
        recent.keep(line(str(number)))
    page = recent.read(ReadLog(after=after, lines=1000))
    assert page.lost
    assert not recent.read(ReadLog(after=page.next)).lost
    assert not recent.read(ReadLog()).lost


def test_the_lines_of_the_next_supervisor_come_after_those_of_the_last() -> None:
    before = Recent()
    for number in range(50):
        before.keep(line(str(number)))
    after = before.read(ReadLog()).next
    time.sleep(0.001)
    recent = Recent()
    recent.keep(line("new"))
    assert messages(recent.read(ReadLog(after=after))) == ["new"]


def test_a_follower_waits_for_its_lines_and_is_not_woken_for_others() -> None:
    async def scene() -> list[str]:
        recent = Recent(first=0)
        waiting = asyncio.ensure_future(recent.answer(ReadLog(share="one", after=0, level="warning", wait=5.0)))
        await asyncio.sleep(0)
        recent.keep(line("other", "two", "error"))
        recent.keep(line("detail", "one", "info"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        recent.keep(line("a", "one", "error"))
        recent.keep(line("b", "one", "warning"))
        return messages(await asyncio.wait_for(waiting, 4))

    assert asyncio.run(scene()) == ["a", "b"]


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_whoever_waits_in_vain_gets_a_reply_without_lines(wait: float) -> None:
    assert asyncio.run(Recent(first=0).answer(ReadLog(after=0, wait=wait))).lines == ()


def test_only_so_many_wait_and_the_others_are_answered_at_once() -> None:
    async def scene() -> None:
        recent = Recent(first=0)
        request = ReadLog(after=0, wait=5.0)
        waiting = [asyncio.ensure_future(recent.answer(request)) for _ in range(FOLLOWERS)]
        await asyncio.sleep(0)
        reply = await asyncio.wait_for(recent.answer(request), 1)
        assert reply.lines == ()
        # Who hangs up makes room.
        waiting.pop().cancel()
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(recent.answer(request)))
        await asyncio.sleep(0)
        recent.keep(line("x"))
        assert [messages(await one) for one in waiting] == [["x"]] * FOLLOWERS

    asyncio.run(scene())
