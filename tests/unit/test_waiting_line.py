"""The line of waiting monitors: first come, first served, and nobody waits beside a holder that stays."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from virtiofs_sandbox.supervisor.clients import Client
from virtiofs_sandbox.supervisor.waiting import CAPACITY, WaitingLine

Connect = Callable[[float], tuple[Client, socket.socket]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes a client that arrives at a given time, and gives the monitor's end as well."""
    ends: list[socket.socket] = []

    def make(arrived: float) -> tuple[Client, socket.socket]:
        ours, theirs = socket.socketpair()
        ends.extend((ours, theirs))
        return Client(ours, arrived), theirs

    yield make
    for end in ends:
        end.close()


@pytest.fixture
def line() -> WaitingLine:
    return WaitingLine(patience=1.0)


def test_clients_are_called_up_in_order(line: WaitingLine, connect: Connect) -> None:
    clients = [connect(0.0)[0] for _ in range(5)]
    for client in clients:
        line.join(client)
    assert [line.call_up() for _ in range(6)] == [*clients, None]


def test_one_that_was_called_up_in_vain_keeps_its_turn(line: WaitingLine, connect: Connect) -> None:
    first, second = connect(0.0)[0], connect(0.0)[0]
    line.join(first)
    line.join(second)
    called = line.call_up()
    assert called is first
    line.rejoin(first)
    assert [line.call_up(), line.call_up()] == [first, second]


@pytest.mark.parametrize("unread", [b"", b"a message nobody may read"])
def test_one_that_hung_up_falls_out(line: WaitingLine, connect: Connect, unread: bytes) -> None:
    (gone, monitor), (waiting, _) = connect(0.0), connect(0.0)
    line.join(gone)
    line.join(waiting)
    monitor.send(unread)
    monitor.close()
    assert line.call_up() is waiting
    assert gone.fileno() == -1


def test_one_that_has_sent_bytes_still_waits(line: WaitingLine, connect: Connect) -> None:
    client, monitor = connect(0.0)
    line.join(client)
    monitor.send(b"first message")
    assert line.drop_departed() == 0


def test_a_client_is_overdue_a_second_after_it_came_or_its_holder_did(line: WaitingLine, connect: Connect) -> None:
    early, late = connect(10.0)[0], connect(12.5)[0]
    line.join(early)
    line.join(late)
    assert line.next_deadline(holder_since=12.0) == 13.0
    assert line.overdue(12.9, holder_since=12.0) == []
    assert line.overdue(13.0, holder_since=12.0) == [early]
    assert line.next_deadline(holder_since=12.0) == 13.5
    assert line.overdue(13.5, holder_since=12.0) == [late]
    assert line.next_deadline(holder_since=12.0) is None


def test_the_line_is_bounded(line: WaitingLine, connect: Connect) -> None:
    for _ in range(CAPACITY):
        assert not line.full
        line.join(connect(0.0)[0])
    assert line.full
    line.close()
    assert not line


def test_a_peer_is_who_the_kernel_says(connect: Connect) -> None:
    peer = connect(0.0)[0].peer
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert str(peer) == f"pid {os.getpid()} (uid {os.getuid()})"
