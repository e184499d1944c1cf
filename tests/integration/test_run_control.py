"""A share in service that is asked: by the commands, by several, by the wrong ones, and while it stops."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from virtiofs_sandbox.cli import foreground
from virtiofs_sandbox.policies import places

from tests.integration.running import COMMANDS, PROGRAMS, ROOT, Running, children

PROGRAM = os.fspath(PROGRAMS / "virtiofs-sandbox")
LIMITS = '[limits.requests]\nread = "100MiB/s"\n'


def ask(run: Running, *words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command, *rest = words
    return subprocess.run(
        [*prefix, PROGRAM, command, "--control-dir", os.fspath(run.control), *rest],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
    )


def data(run: Running, *words: str) -> Any:
    done = ask(run, *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def write(tmp_path: Path, rest: str) -> None:
    """Puts the policy about the directory that Running shares in place, whole."""
    directory = tmp_path / "shares.d"
    directory.mkdir(exist_ok=True)
    fresh = directory / "fresh"
    fresh.write_text(f'[share]\nsource = "{tmp_path}/share"\ntag = "mine"\nsocket = "{tmp_path}/s"\n{rest}')
    os.replace(fresh, directory / "mine.toml")


def by_policy(tmp_path: Path, rest: str = "") -> Running:
    write(tmp_path, rest)
    return Running("real", tmp_path, "--policy-dir", os.fspath(tmp_path / "shares.d"))


@pytest.fixture(params=COMMANDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """In service, without a policy."""
    with Running(request.param, tmp_path, "--socket", os.fspath(tmp_path / "s")) as running:
        yield running.ready()


def test_status_follows_a_client_from_its_coming_to_its_going(run: Running, tmp_path: Path) -> None:
    (before,) = data(run, "status", "data")["shares"]
    assert (before["state"], before["client"], before["generation"]) == ("warm", None, 1)
    assert before["supervisor"] == {"pid": run.process.pid, "uid": os.geteuid()}
    assert (before["share"], before["tag"], before["policy"]) == ("data", "data", None)
    assert before["socket"] == os.fspath(tmp_path / "s")
    caller = run.connect(tmp_path / "s")
    assert caller.served()
    (during,) = data(run, "status", "data")["shares"]
    assert (during["state"], during["client"]) == ("serving", {"pid": os.getpid(), "uid": os.geteuid()})
    assert during["since"] >= before["since"]
    table = ask(run, "status").stdout.splitlines()
    assert [line.split()[:3] for line in table] == [["NAME", "TAG", "STATE"], ["data", "data", "serving"]]
    caller.close()
    run.until(lambda: data(run, "status")["shares"][0]["generation"] == 2, "warm the next worker")
    text = ask(run, "status", "data").stdout
    assert f"pid {run.process.pid} (uid {os.geteuid()})" in text


def test_a_worker_that_dies_is_counted(run: Running) -> None:
    # Its keeper came after the zygote.
    os.kill(max(children(run.process.pid)), signal.SIGKILL)
    run.until(lambda: data(run, "status")["shares"][0]["restarts"] == 1, "count it")


def test_the_socket_is_for_nobody_else_and_goes_with_the_share(run: Running) -> None:
    place = run.control / "data.sock"
    assert place.stat().st_mode & 0o777 == 0o600
    assert run.stop() == 0
    assert list(run.control.iterdir()) == []
    gone = ask(run, "status", "data")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "no share called 'data' runs here" in gone.stderr
    assert ask(run, "status").stdout.startswith("no share runs: ")
    assert ask(run, "reload", "data").returncode == ask(run, "limit", "data").returncode == 1


def test_a_socket_that_a_killed_supervisor_left_is_passed_over_and_replaced(run: Running, tmp_path: Path) -> None:
    run.family()
    run.process.kill()
    run.process.wait()
    assert (run.control / "data.sock").is_socket()
    assert data(run, "status")["shares"] == []
    with Running(run.kind, tmp_path, "--socket", os.fspath(tmp_path / "s")) as again:
        again.ready()
        (there,) = data(again, "status")["shares"]
        assert there["supervisor"]["pid"] == again.process.pid
        assert again.stop() == 0


def test_a_second_share_of_the_name_serves_too_and_says_that_it_cannot_be_asked(run: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    options = ("--socket", os.fspath(tmp_path / "other" / "s"), "--control-dir", os.fspath(run.control))
    with Running(run.kind, other, *options) as second:
        second.ready()
        second.logged("no control socket, so no command reaches this share")
        second.logged("another process listens on it")
        assert second.connect(other / "s").served()
        assert second.stop() == 0
    assert data(run, "status")["shares"][0]["supervisor"]["pid"] == run.process.pid


def test_what_is_in_the_way_is_left_alone_and_the_share_is_served(tmp_path: Path) -> None:
    control = tmp_path / "control"
    control.mkdir()
    (control / "data.sock").write_text("precious")
    with Running("fake", tmp_path, "--socket", os.fspath(tmp_path / "s")) as run:
        run.ready()
        run.logged("there is a file that is no socket")
        assert run.connect(tmp_path / "s").served()
        assert run.stop() == 0
    assert (control / "data.sock").read_text() == "precious"


def test_a_directory_that_others_may_write_to_holds_no_control_socket(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control").chmod(0o777)
    with Running("fake", tmp_path, "--socket", os.fspath(tmp_path / "s")) as run:
        run.ready()
        run.logged("cannot make its directory")
        assert run.stop() == 0
    assert list((tmp_path / "control").iterdir()) == []


def test_a_path_longer_than_an_address_holds_one_like_any_other(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 40) / ("longer" * 30)
    place.parent.mkdir()
    options = ("--socket", os.fspath(tmp_path / "s"), "--control-dir", os.fspath(place))
    with Running("fake", tmp_path, *options) as run:
        run.ready()
        run.control = place
        assert data(run, "status", "data")["shares"][0]["state"] == "warm"
        assert len(data(run, "status")["shares"]) == 1
        assert run.stop() == 0
    assert list(place.iterdir()) == []


def test_its_own_place_is_made_so_that_nobody_else_can_put_a_socket_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SYSTEM_SOCKETS", tmp_path / places.NAME)
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    before = os.umask(0)
    try:
        listener = foreground.control_listener("data", places.control_directory())
    finally:
        os.umask(before)
    place = tmp_path / places.NAME / "control"
    assert [stat.S_IMODE(one.stat().st_mode) & 0o022 for one in (place.parent, place)] == [0, 0]
    assert stat.S_IMODE((place / "data.sock").stat().st_mode) == 0o600
    listener.close()
    assert list(place.iterdir()) == []


@pytest.fixture
def stranger() -> Iterator[tuple[str, ...]]:
    """Runs a command as somebody else, with every right but that one to be asked."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    account = pwd.getpwnam("nobody")
    yield (
        "setpriv",
        f"--reuid={account.pw_uid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    )


def test_another_uid_is_refused_even_where_the_file_lets_it_connect(stranger: tuple[str, ...]) -> None:
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        options = ("--socket", os.fspath(directory / "s"), "--log-level", "debug")
        with Running("real", directory, *options) as run:
            run.ready()
            for words in (("status", "data"), ("reload", "data"), ("limit", "data", "read=1MiB/s")):
                done = ask(run, *words, prefix=stranger)
                assert (done.returncode, done.stdout) == (1, "")
                assert "only root and uid 0, which runs the share, may ask" in done.stderr
            run.logged("turned away from the control socket", 3)
            assert data(run, "limit", "data")["limits"]["read"]["now"] is None
            assert run.stop() == 0
    finally:
        shutil.rmtree(directory)


def test_many_who_hold_connections_open_hold_neither_the_share_nor_its_stop(run: Running, tmp_path: Path) -> None:
    held = [socket.socket(socket.AF_UNIX) for _ in range(30)]
    for one in held:
        one.connect(os.fspath(run.control / "data.sock"))
    assert run.connect(tmp_path / "s").served()
    assert run.stop() == 0
    for one in held:
        one.close()


# Reload.


def test_reload_says_what_changed_and_what_waits_for_the_client(tmp_path: Path) -> None:
    with by_policy(tmp_path, "") as run:
        run.ready()
        assert ask(run, "reload", "mine").stdout == "nothing changed\n"
        caller = run.connect(tmp_path / "s")
        assert caller.served()
        write(tmp_path, '[paths]\nhide = ["secret"]\n[cache]\nmode = "never"\n')
        said = ask(run, "reload", "mine")
        assert said.stdout.splitlines() == [
            "paths.hide gains 'secret'",
            "cache auto -> never",
            "takes effect when the client leaves: cache auto -> never",
        ]
        run.logged("policy reloaded: paths.hide gains 'secret'; cache auto -> never")
        rules = data(run, "status", "mine")["shares"][0]["rules"]
        assert [rule["pattern"] for rule in rules] == ["secret"]
        assert run.stop() == 0


def test_a_reload_that_is_refused_says_why_and_status_1(tmp_path: Path) -> None:
    with by_policy(tmp_path) as run:
        run.ready()
        write(tmp_path, "[cache]\nmode = 5\n[nothing]\n")
        said = ask(run, "reload", "mine")
        assert (said.returncode, said.stdout) == (1, "")
        assert "cache.mode" in said.stderr
        assert "nothing" in said.stderr
        assert "everything stays as it was" in said.stderr
        run.logged("reload refused: ")
        assert run.stop() == 0


def test_without_a_policy_there_is_nothing_to_read_again(run: Running) -> None:
    said = ask(run, "reload", "data")
    assert (said.returncode, said.stdout) == (1, "")
    assert "no policy speaks of this share" in said.stderr
    assert run.process.poll() is None


# Limits.


def rates(run: Running, name: str) -> dict[str, int | None]:
    return {key: limit["now"] for key, limit in data(run, "limit", name)["limits"].items() if limit["now"] is not None}


def test_limits_change_at_once_below_the_policy_and_a_reload_makes_them_its_own(tmp_path: Path) -> None:
    mib = 1 << 20
    with by_policy(tmp_path, LIMITS) as run:
        run.ready()
        caller = run.connect(tmp_path / "s")
        assert caller.served()
        said = ask(run, "limit", "mine", "read=1MiB/s", "metadata-ops=1000/s")
        assert said.returncode == 0
        assert said.stdout.splitlines()[1].split() == ["read", "1MiB/s", "100MiB/s"]
        run.logged("limits changed by pid ")
        run.logged("read 100MiB/s -> 1MiB/s; metadata-ops none -> 1000/s")
        run.logged("works by the new settings")
        assert rates(run, "mine") == {"read": mib, "metadata-ops": 1000}
        wider = ask(run, "limit", "mine", "read=101MiB/s", "metadata-ops=1/s")
        assert (wider.returncode, wider.stdout) == (3, "")
        assert "read: 101MiB/s would widen the policy, which allows 100MiB/s" in wider.stderr
        wrong = ask(run, "limit", "mine", "red=1MiB/s", "read=1MiB/s")
        assert (wrong.returncode, wrong.stdout) == (1, "")
        assert "did you mean read?" in wrong.stderr
        assert rates(run, "mine") == {"read": mib, "metadata-ops": 1000}
        assert data(run, "limit", "mine", "read=none")["changes"] == ["read 1MiB/s -> 100MiB/s"]
        # The file's, not what was set.
        assert ask(run, "reload", "mine").returncode == 0
        assert rates(run, "mine") == {"read": 100 * mib}
        # From now on the file allows less.
        write(tmp_path, LIMITS.replace("100MiB", "2MiB"))
        assert ask(run, "reload", "mine").returncode == 0
        assert ask(run, "limit", "mine", "read=3MiB/s").returncode == 3
        assert run.stop() == 0


@pytest.mark.parametrize(
    "assignments", [["read"], ["=1MiB/s"], ["read="], ["read=1MiB/s", "read=2MiB/s"], [f"k{n}=none" for n in range(65)]]
)
def test_what_is_no_assignment_is_wrong_usage(assignments: list[str]) -> None:
    done = subprocess.run([PROGRAM, "limit", "data", *assignments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
