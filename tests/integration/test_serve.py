"""Several shares in one process: each starts, fails, stops and restarts for itself."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import children, process_name
from tests.integration.serving import Policies, Serving

WORKER = "virtiofs-worker"


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    return Policies(tmp_path)


@pytest.fixture
def three(policies: Policies) -> Iterator[Serving]:
    """One, two and three, all in service."""
    for name in ("one", "two", "three"):
        policies.put(name)
    with Serving(policies.place) as serving:
        yield serving.ready()


def test_all_shares_of_the_directory_are_served_and_all_go_with_the_process(three: Serving) -> None:
    assert three.states() == {"one": "warm", "three": "warm", "two": "warm"}
    callers = [three.client("one"), three.client("two")]
    assert three.states() == {"one": "serving", "three": "warm", "two": "serving"}
    family = three.family()
    assert list(family.values()).count(WORKER) == 6
    callers[0].close()
    three.until(lambda: three.states()["one"] == "warm", "warm another worker")
    assert three.states()["two"] == "serving"
    assert three.stop() == 0
    assert callers[1].closed()
    three.nobody_left()
    assert list(three.place.glob("*.sock")) == list(three.control.iterdir()) == []


def test_one_control_socket_speaks_of_each_and_of_all(three: Serving) -> None:
    assert [path.name for path in three.control.iterdir()] == ["%serve.sock"]
    assert stat.S_IMODE((three.control / "%serve.sock").stat().st_mode) == 0o600
    table = [line.split()[:3] for line in three.said("status")]
    assert table == [["NAME", "TAG", "STATE"], *([name, name, "warm"] for name in ("one", "three", "two"))]
    assert three.said("status", "two")[1].split() == ["tag", "two"]
    assert three.said("limit", "two", "read=1MiB/s")[1].split() == ["read", "1MiB/s", "none"]
    # Of one, not of its neighbours.
    assert three.said("limit", "one")[1].split() == ["read", "none", "none"]
    unknown = three.ask("status", "four")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no share called 'four' is known here" in unknown.stderr


def test_what_cannot_start_holds_up_nothing_and_is_tried_again(policies: Policies) -> None:
    policies.put("early")
    policies.put("late")
    (policies.place / "late").rmdir()
    policies.put("taken")
    policies.write("broken", "[share]\nsource = 1\n")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(policies.place / "taken.sock"))
        other.listen()
        with Serving(policies.place) as serving:
            serving.ready()
            assert serving.states() == {"broken": "failed", "early": "warm", "late": "failed", "taken": "failed"}
            serving.logged("1 share(s) of ")
            serving.logged("late: not in service: share directory ")
            assert "late: No such file or directory" in serving.reason("late")
            assert "another process listens on it" in serving.reason("taken")
            assert "share.source" in serving.reason("broken")
            assert serving.reason("early") == ""
            early = serving.client("early")
            refused = serving.ask("limit", "late", "read=1MiB/s")
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "not in service (failed): share directory" in refused.stderr
            (policies.place / "late").mkdir()
            # By itself.
            serving.until(lambda: serving.states()["late"] == "warm", "try again")
            other.close()
            os.unlink(policies.place / "taken.sock")
            assert serving.said("restart", "taken") == ["whoever connects from now on gets a new worker"]
            assert serving.states() == {"broken": "failed", "early": "serving", "late": "warm", "taken": "warm"}
            assert early.served()
            assert serving.stop() == 0
            serving.nobody_left()


def test_without_a_policy_it_waits_for_the_first_one(policies: Policies) -> None:
    with Serving(policies.place) as serving:
        serving.ready()
        serving.logged("no policy in ")
        assert serving.states() == {}
        policies.put("first")
        assert serving.said("reload") == ["first: added"]
        assert serving.client("first")
        assert serving.stop() == 0


def test_a_second_one_of_the_same_control_directory_is_refused(three: Serving, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Policies(other).put("four")
    with Serving(other, "--control-dir", os.fspath(three.control)) as second:
        assert second.process.wait(15) == 1
        assert "another process listens on it" in second.log.read_text()
        assert "takes another --control-dir" in second.log.read_text()
    assert three.states() == {"one": "warm", "three": "warm", "two": "warm"}


def test_a_stopped_share_stays_out_until_it_is_asked_for_again(three: Serving) -> None:
    assert three.said("stop", "one") == ["stopped"]
    assert not (three.place / "one.sock").exists()
    assert three.states() == {"one": "stopped", "three": "warm", "two": "warm"}
    assert three.said("reload", "one") == ["started"]
    assert three.said("stop", "one", "--now") == ["stopped"]
    three.said("restart", "one")
    assert three.client("one")


def test_a_client_of_a_stopped_share_stays_until_it_leaves(three: Serving) -> None:
    caller = three.client("one")
    said = three.said("stop", "one")
    assert said == ["accepts nobody any more", f"stops when pid {os.getpid()} (uid {os.geteuid()}) has left"]
    assert not (three.place / "one.sock").exists()
    standing = three.standings()["one"]
    assert (standing.state, standing.socket) == ("serving", None)
    assert three.reason("one").startswith("stopped by pid ")
    assert caller.served()
    caller.close()
    three.until(lambda: three.states()["one"] == "stopped", "end with its client")
    assert three.client("two")


def test_a_client_of_a_share_that_is_stopped_now_loses_its_connection(three: Serving) -> None:
    caller, other = three.client("one"), three.client("two")
    assert three.said("stop", "one", "--now") == ["stopped"]
    assert caller.closed()
    assert three.states() == {"one": "stopped", "three": "warm", "two": "serving"}
    assert other.served()


def test_restart_gives_the_next_client_a_new_worker_and_with_now_this_one_too(three: Serving) -> None:
    three.said("restart", "one")
    three.until(lambda: three.states()["one"] == "warm", "launch another")
    assert three.standings()["one"].generation == 2
    caller = three.client("one")
    said = three.said("restart", "one")
    assert said[1] == f"pid {os.getpid()} (uid {os.geteuid()}) keeps its worker until it leaves"
    assert caller.served()
    three.said("restart", "one", "--now")
    assert caller.closed()
    again = three.client("one")
    standing = three.standings()["one"]
    # Nothing has failed.
    assert (standing.generation > 2, standing.restarts) == (True, 0)
    assert again.served()


def test_stop_all_ends_the_process_as_a_signal_does(three: Serving) -> None:
    caller = three.client("one")
    three.family()
    assert three.said("stop", "--all") == ["the supervisor is stopping"]
    assert three.process.wait(15) == 0
    assert caller.closed()
    three.nobody_left()
    assert three.ask("stop").returncode == three.ask("stop", "one", "--all").returncode == 2


def test_a_killed_worker_takes_down_nobody_else(policies: Policies) -> None:
    for name in ("one", "two"):
        policies.put(name, log_level='"debug"')
    with Serving(policies.place) as serving:
        serving.ready()
        caller, other = serving.client("one"), serving.client("two")
        keeper = re.search(r"one#1: worker ready \(keeper pid (\d+)", serving.log.read_text())
        assert keeper is not None
        os.kill(int(keeper[1]), signal.SIGKILL)
        assert caller.closed()
        serving.until(lambda: serving.states() == {"one": "warm", "two": "serving"}, "launch another")
        assert [share.restarts for share in serving.standings().values()] == [1, 0]
        assert other.served()


def test_a_killed_zygote_is_replaced_and_every_share_goes_on(three: Serving) -> None:
    caller = three.client("one")
    (zygote,) = [pid for pid in children(three.process.pid) if process_name(pid) != WORKER]
    os.kill(zygote, signal.SIGKILL)
    three.logged("a new zygote runs")
    assert caller.served()
    for name in ("two", "three"):
        three.said("restart", name)
        assert three.client(name)


def test_after_a_kill_nothing_is_left_and_the_next_one_serves(three: Serving) -> None:
    caller = three.client("one")
    three.family()
    three.process.kill()
    three.process.wait()
    assert caller.closed()
    three.nobody_left()
    assert (three.place / "one.sock").exists()
    with Serving(three.place) as again:
        again.ready()
        assert again.states() == {"one": "warm", "three": "warm", "two": "warm"}
        assert again.client("one")
        assert again.stop() == 0


def test_stop_is_one_grace_for_all_and_a_second_signal_does_not_wait_for_it(three: Serving) -> None:
    callers = [three.client(name) for name in ("one", "two", "three")]
    # Workers that cannot drain: they are stopped.
    for pid in three.family():
        if process_name(pid) == WORKER:
            os.kill(pid, signal.SIGSTOP)
    three.process.send_signal(signal.SIGTERM)
    three.logged("stopping on SIGTERM")
    three.process.send_signal(signal.SIGTERM)
    assert three.process.wait(4) == 0
    assert all(caller.closed() for caller in callers)
    three.nobody_left()


def test_a_share_without_a_warm_worker_says_since_when_and_launches_for_who_connects(policies: Policies) -> None:
    for name in ("one", "two"):
        policies.put(name)
    (policies.place / "defaults.toml").write_text("[site]\nwarm = 1\n")
    before = time.time()
    with Serving(policies.place) as serving:
        serving.ready()
        assert serving.states() == {"one": "warm", "two": "idle"}
        assert before <= serving.standings()["two"].since <= time.time()
        caller = serving.client("two")
        caller.close()
        # Used last, it keeps the one spare there is.
        serving.until(lambda: serving.states() == {"one": "idle", "two": "warm"}, "keep another worker warm")
        assert before < serving.standings()["one"].since <= time.time()
