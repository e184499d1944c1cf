"""The control socket, with real sockets: descriptors arrive where they are wanted and leak nowhere."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator

import pytest
from virtiofs_sandbox.ipc.messages import Direction, Kind, Message, MessageError, encode
from virtiofs_sandbox.ipc.transport import ChannelClosedError, ControlChannel, UnreadError


@pytest.fixture
def ends() -> Iterator[tuple[ControlChannel, socket.socket]]:
    """The supervisor's channel and the worker's raw socket."""
    channel, theirs = ControlChannel.pair()
    raw = socket.socket(fileno=theirs.steal())
    yield channel, raw
    channel.close()
    raw.close()


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def attach(raw: socket.socket, datagram: bytes, descriptors: list[int]) -> None:
    raw.sendmsg([datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


READY = encode(Message(Kind.READY, 1, a=1))


def test_start_carries_the_client_to_the_worker(ends: tuple[ControlChannel, socket.socket]) -> None:
    channel, raw = ends
    worker = ControlChannel(raw, Direction.TO_WORKER)
    with socket.socketpair()[0] as client:
        channel.send(Message(Kind.START, 7, a=10, b=20), [client.fileno()])
        received = worker.receive(max_descriptors=1)
        assert received is not None
        assert received.message == Message(Kind.START, 7, a=10, b=20)
        (descriptor,) = received.descriptors
        assert os.fstat(descriptor.fileno()).st_ino == os.fstat(client.fileno()).st_ino
        assert not os.get_inheritable(descriptor.fileno())
        descriptor.close()


def test_nothing_there_yet_is_not_an_error(ends: tuple[ControlChannel, socket.socket]) -> None:
    assert ends[0].receive() is None


@pytest.mark.parametrize("number", [1, 3, 200])
def test_descriptors_from_a_worker_are_refused_and_never_installed(
    ends: tuple[ControlChannel, socket.socket], number: int
) -> None:
    channel, raw = ends
    attach(raw, READY, [raw.fileno()] * number)
    before = open_descriptors()
    with pytest.raises(MessageError, match="more descriptors"):
        channel.receive()
    assert open_descriptors() == before


@pytest.mark.parametrize("number", [0, 2, 3])
def test_descriptors_of_a_refused_message_are_closed(ends: tuple[ControlChannel, socket.socket], number: int) -> None:
    channel, raw = ends
    attach(raw, encode(Message(Kind.START, 1)), [raw.fileno()] * number)
    receiver = ControlChannel(socket.socket(fileno=os.dup(channel.fileno())), Direction.TO_WORKER)
    before = open_descriptors()
    with pytest.raises(MessageError):
        receiver.receive(max_descriptors=1)
    assert open_descriptors() == before
    receiver.close()


def test_a_message_longer_than_one_is_not_cut_to_size(ends: tuple[ControlChannel, socket.socket]) -> None:
    ends[1].send(READY + bytes(4096))
    with pytest.raises(MessageError, match="65 bytes"):
        ends[0].receive()


def test_the_worker_closing_its_end_is_the_end(ends: tuple[ControlChannel, socket.socket]) -> None:
    channel, raw = ends
    raw.send(READY)
    raw.close()
    assert channel.receive() is not None
    with pytest.raises(ChannelClosedError):
        channel.receive()
    with pytest.raises(ChannelClosedError):
        channel.send(Message(Kind.STOP, 1))


def test_a_full_queue_never_blocks_the_sender(ends: tuple[ControlChannel, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            ends[0].send(Message(Kind.STOP, 1))


def test_an_end_that_left_something_unread_is_told_apart_and_its_last_words_are_heard() -> None:
    ours, theirs = ControlChannel.pair()
    far = ControlChannel(socket.socket(fileno=theirs.steal()), Direction.TO_WORKER)
    far.send(Message(Kind.LEAVING, 1))
    ours.send(Message(Kind.STOP, 1))
    assert not ours.all_read
    far.close()
    with pytest.raises(UnreadError):
        ours.receive()
    received = ours.receive()
    assert received is not None
    assert received.message.kind is Kind.LEAVING
    with pytest.raises(ChannelClosedError):
        ours.receive()
    ours.close()


def test_an_end_that_has_read_everything_just_closes() -> None:
    ours, theirs = ControlChannel.pair()
    far = ControlChannel(socket.socket(fileno=theirs.steal()), Direction.TO_WORKER)
    ours.send(Message(Kind.STOP, 1))
    assert far.receive() is not None
    assert ours.all_read
    far.close()
    with pytest.raises(ChannelClosedError):
        ours.receive()
    ours.close()
