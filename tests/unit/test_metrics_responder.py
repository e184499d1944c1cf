"""Who asks for metrics is answered within bounds, and nobody who asks badly, slowly or often holds anything up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile
from virtiofs_sandbox.supervisor.metrics.responder import MAX_HEAD, Refused, Responder, asked

BODY = b"a 1\n" * 100_000
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
Scene = Callable[[Path, list[int]], Awaitable[None]]


def in_loop(tmp_path: Path, scene: Scene, failures: list[str] | None = None, *, broken: bool = False) -> None:
    """*scene* gets the socket's path, and the times the text was written."""
    written: list[int] = []
    failed: list[str] = []

    async def text() -> bytes:
        written.append(len(written))
        if broken:
            raise ValueError("broken")
        await asyncio.sleep(0)
        return BODY

    async def play() -> None:
        place = tmp_path / "m.sock"
        responder = Responder(Listener.bind(SocketFile(place)), text, failed.append, seconds=0.4)
        try:
            await asyncio.wait_for(scene(place, written), 20)
        finally:
            await responder.close()
        assert not place.exists()

    asyncio.run(play())
    assert failed == ([] if failures is None else failures)


async def ask(place: Path, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(place)
    try:
        writer.write(sent)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_a_scrape_gets_the_whole_text_with_its_length(tmp_path: Path) -> None:
    async def scene(place: Path, __: list[int]) -> None:
        head, _, body = (await ask(place, GET)).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 200 OK"
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in lines
        assert f"Content-Length: {len(BODY)}".encode() in lines
        assert body == BODY

    in_loop(tmp_path, scene)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n" + b"a" * MAX_HEAD, b"431"),
    ],
)
def test_what_is_no_scrape_is_refused_in_words(tmp_path: Path, sent: bytes, status: bytes) -> None:
    async def scene(place: Path, written: list[int]) -> None:
        assert (await ask(place, sent)).split(b" ")[1:2] == [status]
        assert written == []

    in_loop(tmp_path, scene)


def test_head_gets_no_body(tmp_path: Path) -> None:
    async def scene(place: Path, __: list[int]) -> None:
        answer = await ask(place, GET.replace(b"GET", b"HEAD"))
        assert answer.endswith(b"\r\n\r\n")
        assert b"Content-Length: 400000" in answer

    in_loop(tmp_path, scene)


def test_many_at_once_get_one_text(tmp_path: Path) -> None:
    async def scene(place: Path, written: list[int]) -> None:
        answers = await asyncio.gather(*(ask(place, GET) for _ in range(50)))
        assert all(answer.endswith(BODY) for answer in answers)
        assert len(written) <= 2, "a busy machine may take a second for all of them"

    in_loop(tmp_path, scene)


def test_peers_that_send_or_take_nothing_are_closed_and_others_are_answered(tmp_path: Path) -> None:
    async def scene(place: Path, __: list[int]) -> None:
        silent = [await asyncio.open_unix_connection(place) for _ in range(20)]
        deaf = [await asyncio.open_unix_connection(place, limit=1) for _ in range(4)]
        for _, writer in deaf:
            writer.write(GET)
        assert (await ask(place, GET)).endswith(BODY)
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
        for _, writer in deaf:
            writer.close()

    before = set(os.listdir("/proc/self/fd"))
    in_loop(tmp_path, scene)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_fault_in_the_writing_closes_the_connection_and_is_told(tmp_path: Path) -> None:
    async def scene(place: Path, __: list[int]) -> None:
        assert await ask(place, GET) == b""
        await asyncio.sleep(0.05)

    in_loop(tmp_path, scene, ["fault in the supervisor: ValueError('broken')"], broken=True)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_method_or_a_refusal(head: bytes) -> None:
    try:
        assert asked(head) in ("GET", "HEAD")
    except Refused as error:
        assert error.status in (400, 404, 405)
