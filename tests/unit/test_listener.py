"""The socket of a share: made where nothing of anybody else's is lost, at any length of path, open to nobody early."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.syscalls import labels

Bind = Callable[[SocketFile], Listener]


@pytest.fixture
def bind() -> Iterator[Bind]:
    made: list[Listener] = []

    def make(wanted: SocketFile) -> Listener:
        made.append(Listener.bind(wanted))
        return made[-1]

    yield make
    for listener in made:
        listener.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "share.sock"


def connect(path: Path) -> socket.socket:
    """Reaches a socket at any path, by way of a descriptor of the file."""
    file = os.open(path, os.O_PATH)
    client = socket.socket(socket.AF_UNIX)
    client.connect(f"/proc/self/fd/{file}")
    os.close(file)
    return client


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
        left.listen()


def test_a_connection_is_accepted(bind: Bind, place: Path) -> None:
    listener = bind(SocketFile(place))
    assert not listener.somebody_waits()
    assert listener.accept() is None
    with connect(place):
        assert listener.somebody_waits()
        connection = listener.accept()
        assert connection is not None
        connection.close()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o770])
def test_mode_and_group_are_what_was_asked_whatever_the_umask(bind: Bind, place: Path, mode: int) -> None:
    group = 7 if os.geteuid() == 0 else os.getegid()
    before = os.umask(0o077)
    try:
        bind(SocketFile(place, mode, group))
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    state = place.stat()
    assert (stat.S_IMODE(state.st_mode), state.st_gid) == (mode, group)


def test_mode_and_group_hold_before_anybody_can_connect(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    listen = socket.socket.listen

    def watched(self: socket.socket, backlog: int) -> None:
        state = place.stat()
        seen.append((stat.S_IMODE(state.st_mode), state.st_gid))
        with pytest.raises(ConnectionRefusedError):
            connect(place)
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    group = 7 if os.geteuid() == 0 else os.getegid()
    Listener.bind(SocketFile(place, 0o640, group)).close()
    assert seen == [(0o640, group)]


def test_a_stale_socket_is_replaced(bind: Bind, place: Path) -> None:
    leave_stale(place)
    bind(SocketFile(place))
    connect(place).close()


def test_a_socket_in_use_is_left_alone(bind: Bind, place: Path) -> None:
    bind(SocketFile(place))
    with pytest.raises(ListenError, match="another process listens"):
        Listener.bind(SocketFile(place))
    connect(place).close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_type_in_use_is_left_alone(place: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(os.fspath(place))
        if kind is socket.SOCK_SEQPACKET:
            other.listen()
        with pytest.raises(ListenError, match="another process listens"):
            Listener.bind(SocketFile(place))
        assert place.is_socket()


def test_a_socket_whose_queue_is_full_is_in_use(place: Path) -> None:
    clients = []
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(os.fspath(place))
        busy.listen(0)
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(os.fspath(place))
            clients.append(client)
        with pytest.raises(ListenError, match="another process listens"):
            Listener.bind(SocketFile(place))
        for client in clients:
            client.close()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("elsewhere"), os.mkfifo])
def test_what_is_no_socket_is_never_removed(place: Path, make: Callable[[Path], None]) -> None:
    make(place)
    with pytest.raises(ListenError, match="no socket"):
        Listener.bind(SocketFile(place))
    assert os.path.lexists(place)


def test_a_symbolic_link_to_a_stale_socket_is_not_followed(place: Path, tmp_path: Path) -> None:
    leave_stale(tmp_path / "other")
    place.symlink_to(tmp_path / "other")
    with pytest.raises(ListenError, match="no socket"):
        Listener.bind(SocketFile(place))
    assert (tmp_path / "other").is_socket()


@pytest.mark.parametrize(
    "relative",
    ["d" * 120 + "/s", "d" * 200 + "/" + "e" * 200 + "/" + "s" * 60, "s" * 200 + ".sock", "d" * 120 + "/" + "s" * 255],
)
def test_paths_of_any_length_work(bind: Bind, tmp_path: Path, relative: str) -> None:
    place = tmp_path / relative
    place.parent.mkdir(parents=True, exist_ok=True)
    listener = bind(SocketFile(place, 0o600))
    connect(place).close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [entry.name for entry in place.parent.iterdir() if entry.name.startswith(".")] == []
    with pytest.raises(ListenError, match="another process listens"):
        Listener.bind(SocketFile(place))
    listener.close()
    assert not place.exists()
    leave_stale(tmp_path / "short")
    (tmp_path / "short").rename(place)
    bind(SocketFile(place))
    connect(place).close()


def test_closing_removes_the_file_only_if_it_is_still_ours(bind: Bind, place: Path) -> None:
    ours = bind(SocketFile(place))
    place.unlink()
    theirs = bind(SocketFile(place))
    ours.close()
    assert place.is_socket()
    theirs.close()
    assert not place.exists()


def test_a_listener_takes_the_place_of_another_of_ours_with_a_socket_there_at_every_moment(
    bind: Bind, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bind(SocketFile(place, 0o660))
    waiting = connect(place)
    seen: list[int] = []
    listen, rename = socket.socket.listen, os.rename

    def look() -> None:
        seen.append(stat.S_IMODE(place.stat().st_mode))
        connect(place).close()

    def listen_after_a_look(one: socket.socket, backlog: int) -> None:
        look()
        listen(one, backlog)

    def rename_after_a_look(old: str, new: str, **directories: int) -> None:
        look()
        rename(old, new, **directories)

    monkeypatch.setattr(socket.socket, "listen", listen_after_a_look)
    monkeypatch.setattr(os, "rename", rename_after_a_look)
    second = Listener.bind(SocketFile(place, 0o600), instead_of=first)
    assert seen == [0o660, 0o660]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    # Who came to the first is there still, and its end does not take the file of the second.
    assert first.accept() is not None
    first.close()
    connect(place).close()
    assert second.somebody_waits()
    waiting.close()
    second.close()
    assert os.listdir(place.parent) == []


def test_instead_of_one_of_ours_elsewhere_is_no_licence_to_replace_anybody_elses(bind: Bind, place: Path) -> None:
    ours = bind(SocketFile(place.parent / "ours"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(place))
        other.listen()
        with pytest.raises(ListenError, match="another process listens"):
            Listener.bind(SocketFile(place), instead_of=ours)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"cannot open its directory: No such file"):
        Listener.bind(SocketFile(tmp_path / "missing" / "s"))


def test_two_supervisors_do_not_replace_the_same_stale_socket(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_stale(place)
    monkeypatch.setattr("virtiofs_sandbox.supervisor.listener._LOCK_SECONDS", 0.1)
    directory = os.open(place.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        with pytest.raises(ListenError, match="lock"):
            Listener.bind(SocketFile(place))
    finally:
        os.close(directory)
    Listener.bind(SocketFile(place)).close()


def test_a_refusal_leaks_no_descriptor(place: Path) -> None:
    place.touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ListenError):
        Listener.bind(SocketFile(place))
    assert os.listdir("/proc/self/fd") == before


def test_a_group_that_may_not_be_given_is_refused_and_nothing_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_not(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", may_not)
    with pytest.raises(ListenError, match="may not give it to group 7: Operation not permitted; name a group"):
        Listener.bind(SocketFile(place, group=7))
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a socket away takes CAP_CHOWN")
def test_the_owner_holds_before_anybody_can_connect_and_closing_removes_the_file(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    listen = socket.socket.listen

    def watched(self: socket.socket, backlog: int) -> None:
        state = place.stat()
        seen.append((state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)))
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    Listener.bind(SocketFile(place, 0o600, 7, 12345)).close()
    assert seen == [(12345, 7, 0o600)]
    assert not place.exists()


def test_an_owner_that_may_not_be_given_is_refused_and_nothing_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_not(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", may_not)
    with pytest.raises(ListenError, match="may not give it to user 7: Operation not permitted; run as root"):
        Listener.bind(SocketFile(place, owner=7))
    assert not place.exists()


@pytest.mark.skipif(labels.is_enabled(), reason="SELinux is on: tests/guest tries it")
def test_a_label_is_refused_where_selinux_is_off_and_nothing_left(place: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ListenError, match="SELinux is off here"):
        Listener.bind(SocketFile(place, label="system_u:object_r:svirt_image_t:s0"))
    assert not place.exists()
    assert os.listdir("/proc/self/fd") == before


def test_a_file_system_without_locks_will_do(bind: Bind, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    bind(SocketFile(place))
    connect(place).close()


def test_an_inherited_listener_is_taken_over_and_its_file_stays(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(place))
        made.listen()
        listener = Listener.adopt(os.dup(made.fileno()))
    assert listener.name == os.fspath(place)
    connect(place).close()
    listener.close()
    assert place.is_socket()


@pytest.mark.parametrize(
    ("family", "kind", "complaint"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "family AF_INET"),
        (socket.AF_UNIX, socket.SOCK_DGRAM, "type SOCK_DGRAM"),
        (socket.AF_UNIX, socket.SOCK_STREAM, "does not listen"),
    ],
)
def test_an_unfit_inherited_socket_is_refused_by_name(
    family: socket.AddressFamily, kind: socket.SocketKind, complaint: str
) -> None:
    with socket.socket(family, kind) as unfit:
        with pytest.raises(ListenError, match=complaint):
            Listener.adopt(unfit.fileno())
        assert os.fstat(unfit.fileno())


def test_a_descriptor_that_is_no_socket_or_not_open_is_refused() -> None:
    read, write = os.pipe()
    with pytest.raises(ListenError, match="not an inherited socket"):
        Listener.adopt(read)
    os.close(read)
    os.close(write)
    with pytest.raises(ListenError, match="not an inherited socket"):
        Listener.adopt(read)
