"""Sockets passed by whoever started us: which are taken over, by whom, and what of an environment is a mistake."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import Origin
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.activation import FIRST, ActivationError, PassedSockets, inherited
from virtiofs_sandbox.supervisor.listener import ListenError

PID = 1234
NUMBERS = st.sampled_from(["", "0", "1", "2", "-1", "1e9", "٣", "999999999999", " 1", str(PID)]) | st.text(max_size=8)


def environment(fds: str, names: str | None = None, pid: str = str(PID)) -> dict[str, str]:
    found = {"LISTEN_FDS": fds, "LISTEN_PID": pid, "HOME": "/root"}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


@pytest.fixture
def free() -> Iterator[int]:
    """How many descriptors from FIRST on are open here at least: the tests pass none that is not."""
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    yield min(number for number in range(FIRST, 1000) if not os.path.exists(f"/proc/self/fd/{number}")) - FIRST
    for number in opened:
        os.close(number)


def test_as_many_as_are_said_are_taken_over_by_name_and_no_child_gets_them(free: int) -> None:
    assert free >= 2
    os.set_inheritable(FIRST, True)
    environ = environment("2", "one:unknown")
    assert inherited(environ, PID) == (("one", FIRST), ("", FIRST + 1))
    assert not os.get_inheritable(FIRST)
    # Nobody after us takes them for his.
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize("pid", ["1", "", "x", f"0{PID}"])
def test_what_was_meant_for_another_process_is_not_ours_and_goes_from_the_environment(pid: str) -> None:
    environ = environment("2", "a:b", pid)
    assert inherited(environ, PID) == ()
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("fds", "names", "words"),
    [
        ("two", None, "LISTEN_FDS is 'two'"),
        ("2", "one", "LISTEN_FDNAMES has 1 name(s) for 2 descriptor(s)"),
        ("9000", None, "descriptor "),
        ("99999", None, "a number up to 16384"),
    ],
)
def test_a_count_that_does_not_fit_is_a_mistake_with_its_variable(fds: str, names: str | None, words: str) -> None:
    with pytest.raises(ActivationError, match=re.escape(words)):
        inherited(environment(fds, names), PID)


@given(NUMBERS, NUMBERS, st.none() | st.text(max_size=20))
def test_any_environment_is_taken_or_refused(fds: str, pid: str, names: str | None) -> None:
    environ = environment(fds, names, pid)
    try:
        found = inherited(environ, PID)
    except ActivationError:
        found = ()
    assert len(found) <= 1000
    assert environ == {"HOME": "/root"}


# Which share takes which.


def policy(name: str, path: Path, said: tuple[str, ...] = (), mode: int = 0o660, owner: int | None = None) -> Policy:
    origins = {f"share.socket.{key}": Origin(path.parent / f"{name}.toml", 3) for key in said}
    share = Share(name=name, source=path.parent, tag=name)
    return Policy(share, Socket(path, mode, owner=owner), path.parent / f"{name}.toml", origins)


@pytest.fixture
def passed(tmp_path: Path) -> Iterator[PassedSockets]:
    """The sockets "named", at another place than its policy would have it, and one without a name at "placed"."""
    numbers = []
    for file in ("elsewhere", "placed"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fspath(tmp_path / file))
        (tmp_path / file).chmod(0o640)
        listener.listen()
        numbers.append(listener.detach())
    sockets = PassedSockets((("named", numbers[0]), ("", numbers[1])))
    yield sockets
    sockets.close()


def taken(passed: PassedSockets, wanted: Policy) -> str | None:
    listener = passed.listener(wanted.name, wanted.socket, wanted)
    if listener is None:
        return None
    name = os.path.basename(listener.name)
    listener.close()
    return name


def test_a_share_takes_the_socket_of_its_name_or_else_of_its_place(passed: PassedSockets, tmp_path: Path) -> None:
    named, placed, other = (policy(name, tmp_path / name) for name in ("named", "placed", "other"))
    assert [taken(passed, one) for one in (named, placed, other)] == ["elsewhere", "placed", None]
    assert [one.name for one in passed.unclaimed([placed])] == ["named"]
    # Again, after a share has gone: the file is still there.
    assert taken(passed, placed) == "placed"
    # By another way to the same place.
    (tmp_path / "link").symlink_to(tmp_path)
    assert taken(passed, policy("other", tmp_path / "link" / "placed")) == "placed"


@pytest.mark.parametrize(
    ("said", "mode", "owner", "words"),
    [
        ("path", 0o660, None, "wants it at"),
        ("mode", 0o600, None, "its mode is 0640"),
        ("owner", 0o660, 4242, "say SocketUser=4242"),
        ("group", 0o660, None, "its group is"),
    ],
)
def test_what_the_policy_says_of_its_socket_bounds_the_one_that_was_passed(
    passed: PassedSockets, said: str, mode: int, owner: int | None, words: str
) -> None:
    place = Path("/elsewhere/named")
    assert taken(passed, policy("named", place, (), mode, owner)) == "elsewhere"
    with pytest.raises(ListenError, match=words):
        taken(passed, policy("named", place, (said,), mode, owner))


def test_a_narrower_socket_than_the_policy_allows_is_taken(passed: PassedSockets, tmp_path: Path) -> None:
    assert taken(passed, policy("placed", tmp_path / "placed", ("path", "mode"))) == "placed"
