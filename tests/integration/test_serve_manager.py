"""`serve` under a service manager: sockets that it passes, what it is told, and a user's own manager."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Caller, children, descendants, process_name
from tests.integration.serving import Policies, Serving
from tests.integration.test_run_unprivileged import become, nobody, place

__all__ = ["nobody", "place"]
# Becomes the command with the descriptors named at 3 and up, as systemd leaves them.
_HAND_OVER = """
import os, sys
numbers = [os.dup(int(word)) for word in sys.argv[1].split(",")]
numbers = [os.dup2(number, 100 + index) for index, number in enumerate(numbers)]
for index, number in enumerate(numbers):
    os.dup2(number, 3 + index)
os.closerange(3 + len(numbers), 200)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Passes listening sockets, by name, and hears what it is told."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.listeners: dict[str, socket.socket] = {}
        self.address = place / "notify"
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(os.fspath(self.address))
        self._heard.settimeout(15)

    def listen(self, name: str, file: str, mode: int = 0o660) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(self.place / file))
        (self.place / file).chmod(mode)
        listener.listen()
        self.listeners[name] = listener

    def start(self, **variables: str) -> Serving:
        if not self.listeners:
            return Serving(self.place, environment={"NOTIFY_SOCKET": os.fspath(self.address), **variables})
        numbers = [listener.fileno() for listener in self.listeners.values()]
        return Serving(
            self.place,
            prefix=[sys.executable, "-c", _HAND_OVER, ",".join(map(str, numbers))],
            pass_fds=numbers,
            environment={
                "NOTIFY_SOCKET": os.fspath(self.address),
                "LISTEN_FDS": str(len(numbers)),
                "LISTEN_FDNAMES": ":".join(self.listeners),
                **variables,
            },
        )

    def hears(self, first: str) -> dict[str, str]:
        """The next message that begins so, by its variables."""
        while True:
            lines = self._heard.recv(4096).decode().splitlines()
            if lines[0] == first:
                return dict(line.split("=", 1) for line in lines)

    def hears_nothing(self, seconds: float) -> bool:
        self._heard.setblocking(False)
        try:
            while True:
                self._heard.recv(4096)
        except BlockingIOError:
            pass
        self._heard.settimeout(seconds)
        try:
            self._heard.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._heard.settimeout(15)
        return False

    def close(self) -> None:
        for listener in (*self.listeners.values(), self._heard):
            listener.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def sockets_of(pid: int) -> set[str]:
    """The sockets a process has open, by inode."""
    links = (os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
    return {link for link in links if link.startswith("socket:")}


def test_sockets_that_are_passed_are_served_by_name_or_by_place_and_stay_the_managers(manager: Manager) -> None:
    policies = Policies(manager.place)
    policies.put("named", socket='{ mode = "0660" }')
    policies.put("placed")
    policies.put("own")
    manager.listen("named", "by-name")
    manager.listen("unknown", "placed.sock")
    manager.listen("stray", "stray")
    # Whoever comes before us waits.
    early = Caller("real", manager.place / "by-name")
    with manager.start() as serving:
        serving.ready()
        assert early.served()
        callers = [serving.client(name) for name in ("placed", "own")]
        serving.logged("inherited socket 'stray' ")
        passed = {f"socket:[{os.fstat(listener.fileno()).st_ino}]" for listener in manager.listeners.values()}
        assert passed <= sockets_of(serving.process.pid)
        # Neither the zygote nor a jail has one.
        for pid in descendants(serving.process.pid):
            assert not passed & sockets_of(pid), process_name(pid)
        # A share that goes lets the manager's socket be, and finds it again.
        policies.remove("placed")
        serving.said("reload", "--now")
        assert callers[0].closed()
        waiting = Caller("real", manager.place / "placed.sock")
        policies.put("placed")
        serving.said("reload")
        assert waiting.served()
        assert serving.stop() == 0
    assert (manager.place / "by-name").is_socket()
    assert (manager.place / "placed.sock").is_socket()
    assert not (manager.place / "own.sock").exists()


def test_a_passed_socket_that_lets_in_more_than_the_policy_says_is_refused(manager: Manager) -> None:
    policies = Policies(manager.place)
    policies.put("wide", socket=f'{{ path = "{manager.place}/wide.sock", mode = "0600" }}')
    policies.put("fine")
    manager.listen("wide", "wide.sock", mode=0o666)
    manager.listen("fine", "fine.sock")
    with manager.start() as serving:
        serving.ready()
        assert serving.states() == {"fine": "warm", "wide": "failed"}
        assert "its mode is 0666, and " in serving.reason("wide")
        assert "say SocketMode=0600" in serving.reason("wide")
        (manager.place / "wide.sock").chmod(0o600)
        serving.until(lambda: serving.states()["wide"] == "warm", "look again")


def test_what_is_no_listening_socket_is_a_mistake_of_the_unit(manager: Manager) -> None:
    Policies(manager.place).put("one")
    manager.listeners["one"] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager.start() as serving:
        assert serving.process.wait(15) == 1
        assert "pass a listening AF_UNIX stream socket" in serving.log.read_text()


def test_the_manager_is_told_of_start_reload_clients_and_stop(manager: Manager) -> None:
    policies = Policies(manager.place)
    policies.put("one")
    policies.put("two")
    with manager.start() as serving:
        assert manager.hears("READY=1") == {"READY": "1", "STATUS": "2 shares in service, 0 clients"}
        assert serving.states() == {"one": "warm", "two": "warm"}
        caller = serving.client("one")
        manager.hears("STATUS=2 shares in service, 1 clients")
        policies.write("three", "nonsense")
        before = time.monotonic_ns() // 1000
        serving.process.send_signal(signal.SIGHUP)
        reloading = manager.hears("RELOADING=1")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.hears("READY=1")["STATUS"] == "2 shares in service, 1 clients, 1 broken"
        assert caller.served()
        serving.process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")
        assert serving.process.wait(15) == 0


def test_signs_of_life_come_as_long_as_the_loop_turns(manager: Manager) -> None:
    Policies(manager.place).put("one")
    with manager.start(WATCHDOG_USEC="200000") as serving:
        manager.hears("READY=1")
        for _ in range(5):
            manager.hears("WATCHDOG=1")
        serving.process.send_signal(signal.SIGSTOP)
        assert manager.hears_nothing(0.5)
        serving.process.send_signal(signal.SIGCONT)
        manager.hears("WATCHDOG=1")
        assert serving.stop() == 0


def test_a_user_serves_out_of_the_directories_of_a_session(nobody: pwd.struct_passwd, place: Path) -> None:
    configuration, session = place / "config", place / "run"
    directory = configuration / "virtiofs-sandbox" / "shares.d"
    directory.mkdir(parents=True)
    session.mkdir(mode=0o700)
    (place / "data").mkdir()
    (directory / "data.toml").write_text(f'[share]\nsource = "{place}/data"\ntag = "data"\n')
    for path in (configuration, *configuration.rglob("*"), session, place / "data"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    variables = {"XDG_CONFIG_HOME": os.fspath(configuration), "XDG_RUNTIME_DIR": os.fspath(session)}
    prefix = [word for word in become(nobody) if word != "--reset-env"]
    with OwnServing(place, prefix=prefix, environment=variables) as serving:
        serving.ready()
        assert "(jail: userns, " in serving.output.read_text()
        assert (session / "virtiofs-sandbox" / "control" / "%serve.sock").is_socket()
        caller = Caller("real", session / "virtiofs-sandbox" / "data.sock")
        assert caller.served()
        (directory / "data.toml").unlink()
        serving.process.send_signal(signal.SIGHUP)
        serving.logged("its policy is gone")
        caller.close()
        serving.logged("data: stopped")
        assert serving.stop() == 0
        assert children(serving.process.pid) == []


class OwnServing(Serving):
    """Without a word of where its directories are."""

    def directories(self) -> tuple[str, ...]:
        return ()
