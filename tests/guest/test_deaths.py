"""kill -9 of each process in turn, under load: what the user of the guest and of the supervisor sees."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import fuse
from tests.guest.conftest import KINDS, new_machine
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import TAG, Service, alive

LOAD_SECONDS = 0.3
RESTART_SECONDS = 20.0


class Load:
    """A client that writes without a pause until its connection ends."""

    def __init__(self, client: FrontEnd) -> None:
        self.client = client
        self.ended_by: Exception | None = None
        self.requests = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        try:
            node = fuse.Entry.parse(self.client.call(Opcode.CREATE, fuse.create(b"load", os.O_RDWR))).node
            handle = self.client.open(node, os.O_RDWR)
            while not self._stop.is_set():
                self.client.call(Opcode.WRITE, fuse.write(handle, 0, b"x" * 4096), node)
                self.requests += 1
        except (OSError, AssertionError) as error:
            self.ended_by = error

    def wait_end(self, seconds: float = 10) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the client still waits for an answer"

    def stop(self) -> None:
        self._stop.set()
        self.wait_end()


@pytest.fixture
def load(service: Service) -> Iterator[Load]:
    """A client at work, some requests done."""
    with FrontEnd.connect(service.socket) as client:
        client.start().init()
        load = Load(client)
        time.sleep(LOAD_SECONDS)
        assert load.requests > 0
        yield load
        load.stop()


def assert_next_client_served(service: Service) -> None:
    with FrontEnd.connect(service.socket, RESTART_SECONDS) as following:
        following.start().init()
        assert following.serves()


def test_a_killed_worker_ends_the_connection_and_the_next_client_is_served(service: Service, load: Load) -> None:
    (worker,) = service.wait_worker().workers
    os.kill(worker, signal.SIGKILL)
    load.wait_end()
    assert isinstance(load.ended_by, ConnectionError)
    assert_next_client_served(service)
    assert "SIGKILL" in service.log


def test_a_killed_keeper_takes_its_worker_along_and_the_next_client_is_served(service: Service, load: Load) -> None:
    processes = service.wait_worker()
    os.kill(processes.keepers[0], signal.SIGKILL)
    load.wait_end()
    assert isinstance(load.ended_by, ConnectionError)
    service.wait(lambda: not alive(processes.workers[0]), "lose the worker of a dead keeper")
    assert_next_client_served(service)


def test_a_killed_zygote_is_replaced_and_the_running_client_notices_nothing(service: Service, load: Load) -> None:
    before = service.wait_worker()
    os.kill(before.zygotes[0], signal.SIGKILL)
    service.wait(lambda: set(service.processes().zygotes).isdisjoint(before.zygotes), "replace the zygote")
    done = load.requests
    time.sleep(LOAD_SECONDS)
    assert load.requests > done
    assert load.ended_by is None
    assert service.processes().workers == before.workers
    load.stop()
    load.client.channel.close()
    assert_next_client_served(service)


def test_a_killed_supervisor_takes_everything_along(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.start()
        with FrontEnd.connect(service.socket) as client:
            client.start().init()
            load = Load(client)
            time.sleep(LOAD_SECONDS)
            processes = service.wait_worker()
            os.kill(service.supervisor, signal.SIGKILL)
            load.wait_end()
            assert isinstance(load.ended_by, ConnectionError)
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in processes.all):
            assert time.monotonic() < deadline, "something outlived the supervisor"
            time.sleep(0.01)


def test_a_stopped_supervisor_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.start()
        with FrontEnd.connect(service.socket) as client:
            client.start().init()
            processes = service.wait_worker()
            assert service.stop() == 0
        assert not any(alive(pid) for pid in processes.all)
        assert not service.socket.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_whose_worker_died_can_be_started_again(service: Service, tmp_path: Path, kind: str) -> None:
    with new_machine(kind, tmp_path / "first", service.socket) as guest:
        guest.boot().check(f"mount -t virtiofs {TAG} /mnt; (while :; do date >>/mnt/beat; done) & sleep 0.5")
        os.kill(service.wait_worker().workers[0], signal.SIGKILL)
        if kind == "qemu":
            # QEMU never connects again: the guest lives, and whoever uses the mount waits for good.
            guest.check("touch /mnt/late & sleep 2; kill -0 $!")
    with new_machine(kind, tmp_path / "second", service.socket) as guest:
        guest.boot(RESTART_SECONDS).check(f"mount -t virtiofs {TAG} /mnt && [ -s /mnt/beat ] && [ ! -e /mnt/late ]")
