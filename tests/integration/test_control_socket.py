"""The control socket of a share: who is answered, and that nobody who asks holds anything up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from virtiofs_sandbox.ipc.requests import (
    LENGTH_BYTES,
    MAX_BYTES,
    Failed,
    ReadStatus,
    Reload,
    Reloaded,
    Reply,
    Request,
    RequestError,
    decode_reply,
    encode,
    length,
)
from virtiofs_sandbox.policies.places import control_socket
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.control import ControlSocket
from virtiofs_sandbox.supervisor.events import ControlFailed, ControlRefused, Event
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
DONE = Reloaded(changes=("one",), later=())
Scene = Callable[[Path, list[Event]], Awaitable[None]]


async def done(_: Request, __: Peer) -> Reply:
    return DONE


def in_loop(
    tmp_path: Path,
    scene: Scene,
    answer: Callable[[Request, Peer], Awaitable[Reply]] = done,
    may_ask: Callable[[Peer], bool] | None = None,
) -> list[Event]:
    events: list[Event] = []

    async def play() -> None:
        place = tmp_path / "data.sock"
        listener = Listener.bind(SocketFile(place, 0o600))
        control = ControlSocket("data", listener, answer, events.append, seconds=0.3, may_ask=may_ask)
        try:
            await asyncio.wait_for(scene(place, events), 20)
        finally:
            await control.close()
        assert not place.exists()

    asyncio.run(play())
    return events


async def ask(place: Path, sent: bytes) -> Reply:
    """What comes back for these bytes."""
    reader, writer = await asyncio.open_unix_connection(place)
    try:
        writer.write(sent)
        reply = decode_reply(await reader.readexactly(length(await reader.readexactly(LENGTH_BYTES))))
        # Reset, where more was sent than was read.
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    finally:
        writer.close()
    return reply


def code(reply: Reply) -> str:
    assert isinstance(reply, Failed)
    return reply.error


def test_each_connection_gets_one_reply_to_one_request(tmp_path: Path) -> None:
    async def scene(place: Path, _: list[Event]) -> None:
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        for _round in range(20):
            assert await ask(place, encode(Reload())) == DONE

    assert in_loop(tmp_path, scene) == []


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (struct.pack("<I", 2) + b"{}", "malformed"),
        (struct.pack("<I", 0), "malformed"),
        (struct.pack("<I", MAX_BYTES + 1), "malformed"),
        (b"\xff" * 1000, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (struct.pack("<I", 33) + b'{"version":9,"request":"restart"}', "version"),
        (struct.pack("<I", 100) + b"{", "slow"),
        (b"", "slow"),
    ],
)
def test_whoever_sends_nonsense_or_nothing_is_told_so(tmp_path: Path, sent: bytes, error: str) -> None:
    async def scene(place: Path, _: list[Event]) -> None:
        assert code(await ask(place, sent)) == error
        assert await ask(place, encode(Reload())) == DONE

    in_loop(tmp_path, scene)


def test_many_who_say_nothing_and_hang_up_or_stay_keep_nobody_from_an_answer(tmp_path: Path) -> None:
    async def scene(place: Path, _: list[Event]) -> None:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        for number, one in enumerate(silent):
            one.connect(os.fspath(place))
            if number % 2:
                one.close()
        # The loop goes on at once, whoever waits.
        async with asyncio.timeout(0.2):
            await asyncio.sleep(0)
        assert await ask(place, encode(Reload())) == DONE
        for one in silent:
            one.close()

    in_loop(tmp_path, scene)


def test_only_so_many_are_heard_at_once_and_the_others_after_them(tmp_path: Path) -> None:
    open_door = asyncio.Event()
    heard = 0

    async def answer(_: Request, __: Peer) -> Reply:
        nonlocal heard
        heard += 1
        await open_door.wait()
        return DONE

    async def scene(place: Path, _: list[Event]) -> None:
        questions = [asyncio.ensure_future(ask(place, encode(Reload()))) for _number in range(20)]
        while heard < 8:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert heard == 8
        open_door.set()
        assert await asyncio.gather(*questions) == [DONE] * 20

    in_loop(tmp_path, scene, answer)
    assert heard == 20


def test_who_does_not_take_the_reply_is_let_go(tmp_path: Path) -> None:
    large = Reloaded(changes=tuple("x" * 2000 for _ in range(25)), later=())

    async def answer(_: Request, __: Peer) -> Reply:
        return large

    async def scene(place: Path, _: list[Event]) -> None:
        deaf = [socket.socket(socket.AF_UNIX) for _ in range(10)]
        for one in deaf:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            one.connect(os.fspath(place))
            one.sendall(encode(ReadStatus()))
        assert await ask(place, encode(ReadStatus())) == large
        for one in deaf:
            one.close()

    in_loop(tmp_path, scene, answer)


def test_somebody_else_is_told_who_may_ask_and_heard_no_further(tmp_path: Path) -> None:
    asked: list[Request] = []

    async def answer(request: Request, _: Peer) -> Reply:
        asked.append(request)
        return DONE

    async def scene(place: Path, _: list[Event]) -> None:
        reply = await ask(place, b"")
        assert code(reply) == "not-permitted"
        assert f"only root and uid {os.geteuid()}" in reply.sentence  # type: ignore[union-attr]

    events = in_loop(tmp_path, scene, answer, lambda peer: peer.uid != os.getuid())
    assert asked == []
    assert [type(event) for event in events] == [ControlRefused]


def test_a_refusal_and_a_fault_are_answered_and_the_next_is_served(tmp_path: Path) -> None:
    errors = [RequestError("refused", "not now"), KeyError("read")]

    async def answer(_: Request, __: Peer) -> Reply:
        if errors:
            raise errors.pop(0)
        return DONE

    async def scene(place: Path, _: list[Event]) -> None:
        assert await ask(place, encode(Reload())) == Failed(error="refused", sentence="not now")
        assert code(await ask(place, encode(Reload()))) == "fault"
        assert await ask(place, encode(Reload())) == DONE

    events = in_loop(tmp_path, scene, answer)
    assert [str(event) for event in events] == ["control socket: fault in the supervisor: KeyError('read')"]
    assert isinstance(events[0], ControlFailed)


def test_a_question_under_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    begun = asyncio.Event()
    client = socket.socket(socket.AF_UNIX)

    async def answer(_: Request, __: Peer) -> Reply:
        begun.set()
        await asyncio.sleep(1000)
        return DONE

    async def scene(place: Path, _: list[Event]) -> None:
        client.connect(os.fspath(place))
        client.sendall(encode(Reload()))
        await begun.wait()

    with client:
        in_loop(tmp_path, scene, answer)
        assert client.recv(1) == b""


def test_every_name_of_a_share_is_the_name_of_one_socket(tmp_path: Path) -> None:
    names = ["data", "a/b", "a%2Fb", "..", ".", ".hidden", "%2Ehidden", "été", "-", "a b", "x.sock"]
    places = [control_socket(name, tmp_path) for name in names]
    assert len(set(places)) == len(names)
    for place in places:
        assert place.parent == tmp_path
        assert not place.name.startswith(".")
        place.touch()
    assert control_socket("data", tmp_path).name == "data.sock"
