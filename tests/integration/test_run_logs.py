"""The command `logs`, and the forms of the log, with a share in service."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.cli.run import WORKER

from tests.integration.running import COMMANDS, PROGRAMS, Running

COMMAND = os.fspath(PROGRAMS / "virtiofs-sandbox")


def logs(control: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "logs", "--control-dir", os.fspath(control), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@contextlib.contextmanager
def following(control: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [COMMAND, "logs", "--follow", "--control-dir", os.fspath(control), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture(params=COMMANDS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    options = ["--socket", os.fspath(tmp_path / "s"), "--log-level", "debug", "--log-format", "json"]
    with Running(request.param, tmp_path, *options) as run:
        run.until(lambda: '"event":"listening"' in run.log.read_text(), "get ready")
        yield run


def serve_one(run: Running, tmp_path: Path) -> None:
    before = run.log.read_text().count('"event":"worker-ended"')
    caller = run.connect(tmp_path / "s")
    assert caller.served()
    caller.close()
    run.logged('"event":"worker-ended"', before + 1)


def test_each_line_of_the_log_is_an_object_and_nothing_is_on_standard_output(run: Running, tmp_path: Path) -> None:
    serve_one(run, tmp_path)
    assert run.stop() == 0
    assert run.output.read_text() == ""
    lines = [json.loads(text) for text in run.log.read_text().splitlines()]
    assert {one["share"] for one in lines} == {"data"}
    (served,) = [one for one in lines if one["event"] == "client-served"]
    assert served["client"] == {"pid": os.getpid(), "uid": os.getuid()}
    assert served["generation"] == 1
    assert served["data"]["waited"] < 30
    assert lines[-1]["event"] == "stopped"


def test_logs_prints_what_was_logged(run: Running, tmp_path: Path) -> None:
    serve_one(run, tmp_path)
    printed = logs(run.control, "data", "--json")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout.splitlines() == run.log.read_text().splitlines()[: len(printed.stdout.splitlines())]
    assert '"event":"client-served"' in printed.stdout
    text = logs(run.control, "--level", "info").stdout
    assert f"info    data#1 pid {os.getpid()} (uid {os.getuid()}): connected; handed to the worker" in text
    assert " debug " not in text
    assert len(logs(run.control, "-n", "2").stdout.splitlines()) == 2


def test_a_follower_sees_each_line_as_it_comes_until_the_share_stops(run: Running, tmp_path: Path) -> None:
    with following(run.control, "data", "-n", "1") as process:
        assert line(process)
        serve_one(run, tmp_path)
        while "handed to the worker" not in (seen := line(process)):
            assert seen
        assert run.stop() == 0
        rest, said = process.communicate(timeout=15)
        assert process.returncode == 0
        assert "worker ended" in rest
        assert "stopping on SIGTERM" in rest
        assert said.startswith("virtiofs-sandbox logs: stopped: nobody answers on")


def test_many_followers_leave_room_for_other_questions(run: Running, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        followers = [stack.enter_context(following(run.control, "-n", "1")) for _ in range(12)]
        for process in followers:
            assert line(process)
        status = subprocess.run(
            [COMMAND, "status", "data", "--control-dir", os.fspath(run.control)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (status.returncode, status.stderr) == (0, "")
        serve_one(run, tmp_path)
        for process in followers:
            while "handed to the worker" not in (seen := line(process)):
                assert seen


def test_the_logs_of_several_shares_are_one(run: Running, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    options = ["--socket", os.fspath(tmp_path / "other/s"), "--tag", "other", "--control-dir", os.fspath(run.control)]
    with Running(run.kind, tmp_path / "other", *options, "--log-format", "text").ready():
        lines = [json.loads(one) for one in logs(run.control, "--json").stdout.splitlines()]
        assert {one["share"] for one in lines} == {"data", "other"}
        assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
        assert {json.loads(one)["share"] for one in logs(run.control, "other", "--json").stdout.splitlines()} == {
            "other"
        }


def test_a_reader_that_has_seen_enough_ends_the_follower(run: Running, tmp_path: Path) -> None:
    with following(run.control) as process:
        assert line(process)
        assert process.stdout is not None
        process.stdout.close()
        serve_one(run, tmp_path)
        assert process.wait(15) == 0


def test_interrupted_it_ends_without_a_word(run: Running) -> None:
    with following(run.control) as process:
        assert line(process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=15)[1] == ""


def test_whoever_asks_for_a_share_that_does_not_run_is_told_so(tmp_path: Path) -> None:
    asked = logs(tmp_path, "data")
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr.startswith("virtiofs-sandbox logs: no share called 'data' runs here: nobody answers in ")
    assert logs(tmp_path).stderr.startswith("virtiofs-sandbox logs: no share runs: nobody answers in")
    assert logs(tmp_path, "-n", "-1").returncode == 2


def test_the_supervisor_of_all_tells_the_log_of_each_share_and_its_own(tmp_path: Path) -> None:
    if not (PROGRAMS / WORKER).exists():
        pytest.skip("installed without a worker")
    policies, control = tmp_path / "shares.d", tmp_path / "control"
    policies.mkdir()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        text = f'[share]\nsource = "{tmp_path / name}"\ntag = "{name}"\nsocket = "{tmp_path / name / "s"}"\n'
        (policies / f"{name}.toml").write_text(f'{text}[sandbox]\nminimum = "bare"\n')
    options = ["--policy-dir", os.fspath(policies), "--control-dir", os.fspath(control), "--log-format", "json"]
    with subprocess.Popen([COMMAND, "serve", *options], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while json.loads(process.stderr.readline())["event"] != "in-service":
                pass
            of_all = [json.loads(line) for line in logs(control, "--json").stdout.splitlines()]
            assert {line["share"] for line in of_all} == {"one", "two", None}
            assert of_all[-1]["event"] == "in-service"
            of_one = [json.loads(line) for line in logs(control, "one", "--json").stdout.splitlines()]
            assert of_one == [line for line in of_all if line["share"] == "one"]
            unknown = logs(control, "three")
            assert (unknown.returncode, unknown.stdout) == (1, "")
            assert "no share called 'three' is known here" in unknown.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert process.returncode == 0
