"""Two monitors on one share at the same time, each with a jail of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.policed import Policed
from tests.guest.service import PROGRAM

POLICY = 'max_clients = 2\n[limits.requests]\nmetadata-ops = "4000/s"\n'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policed]:
    with Policed(tmp_path_factory.mktemp("several"), POLICY) as service:
        yield service.start()


def client(service: Policed) -> FrontEnd:
    return FrontEnd.connect(service.socket, 20)


def test_what_one_guest_writes_the_other_reads_and_neither_misses_the_others_end(service: Policed) -> None:
    with client(service) as first, client(service) as second:
        for guest in (first, second):
            guest.start().init()
        assert len(service.processes().workers) == 2
        node = fuse.Entry.parse(first.call(Opcode.CREATE, fuse.create(b"shared", os.O_RDWR))).node
        first.call(Opcode.WRITE, fuse.write(first.open(node, os.O_RDWR), 0, b"from the first"), node)
        seen = fuse.Entry.parse(second.call(Opcode.LOOKUP, fuse.name(b"shared"))).node
        handle = second.open(seen, os.O_RDONLY)
        assert second.call(Opcode.READ, fuse.read(handle, 0, 100), seen) == b"from the first"
        # Of two workers the first is killed.
        os.kill(service.processes().workers[0], signal.SIGKILL)
        service.wait(lambda: "SIGKILL" in service.log, "notice the death")
        alive = [guest for guest in (first, second) if answers(guest)]
        assert len(alive) == 1
        with client(service) as third:
            third.start().init()
            assert third.serves()
            assert alive[0].serves()


def test_status_lists_both_and_a_third_is_turned_away(service: Policed) -> None:
    with client(service) as first, client(service) as second:
        for guest in (first, second):
            guest.start().init()
        status = ask(service, "status", "guest", "--json")
        (share,) = json.loads(status)["shares"]
        assert [held["client"]["pid"] for held in share["clients"]] == [os.getpid()] * 2
        assert len({held["generation"] for held in share["clients"]}) == 2
        assert "2 of 2" in ask(service, "status")
        with client(service) as third, pytest.raises((ConnectionError, AssertionError)):
            third.start()
        assert "2 are connected, as many as share.max_clients says" in service.log
        assert first.serves()
        assert second.serves()


def ask(service: Policed, *words: str) -> str:
    command = [str(PROGRAM), *words, "--control-dir", str(service.control)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path("/")).stdout


def answers(guest: FrontEnd) -> bool:
    try:
        return guest.serves()
    except (OSError, AssertionError):
        return False
