"""Each feature is tried where it can do no harm, and whatever the system answers becomes a state and a sentence."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import prctl
import pytest
from tests.guest.service import children
from virtiofs_sandbox.cli import doctor_report
from virtiofs_sandbox.cli.main import main
from virtiofs_sandbox.cli.page import COLUMNS
from virtiofs_sandbox.confine import Tier, probe_host
from virtiofs_sandbox.confine.features import Answer, Probe, State, ask, probes, survey
from virtiofs_sandbox.confine.features.feature import refused, there
from virtiofs_sandbox.confine.features.trying import SilentError, in_child
from virtiofs_sandbox.confine.ways import Way, best, ways
from virtiofs_sandbox.syscalls.base import SyscallError

SHAPE = ["shape", "kernel", "uid", "gid", "tier", "features", "ways"]
FEATURE = ["group", "key", "name", "state", "said", "errno", "lost", "remedy"]


def answer(attempt: Callable[[], Answer]) -> Answer:
    return ask(Probe("group", "key", "name", attempt, "loss", "remedy")).answer


def fails(number: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        raise SyscallError(number, "openat2")

    return attempt


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (errno.ENOSYS, State.MISSING),
        (errno.EOPNOTSUPP, State.MISSING),
        (errno.EPERM, State.RESTRICTED),
        (errno.EACCES, State.RESTRICTED),
        (errno.ENOSPC, State.RESTRICTED),
        (errno.EIO, State.UNKNOWN),
    ],
)
def test_a_refused_call_gives_its_state_its_name_and_its_errno(number: int, state: State) -> None:
    said = answer(fails(number))
    assert (said.state, said.errno) == (state, number)
    assert said.said == f"openat2: {errno.errorcode[number]} ({os.strerror(number)})"


def test_an_attempt_that_a_filter_kills_is_restricted() -> None:
    def attempt() -> Answer:
        os.kill(os.getpid(), signal.SIGSYS)
        return there("survived")

    assert answer(attempt) == Answer(State.RESTRICTED, "the attempt was killed by SIGSYS")


def test_an_attempt_that_breaks_is_unknown_and_nothing_of_the_caller_runs_twice() -> None:
    def attempt() -> Answer:
        raise ZeroDivisionError

    before = os.getpid()
    assert answer(attempt) == Answer(State.UNKNOWN, "the attempt ended without an answer")
    assert os.getpid() == before


def test_a_library_that_is_not_there_is_missing() -> None:
    def attempt() -> Answer:
        raise ImportError("no libseccomp")

    assert answer(attempt) == Answer(State.MISSING, "no libseccomp")


def test_an_attempt_that_hangs_is_ended() -> None:
    def attempt() -> bytes:
        time.sleep(60)
        return b"late"

    before = set(children(os.getpid()))
    start = time.monotonic()
    with pytest.raises(SilentError, match=r"no answer within 0\.2 s"):
        in_child(attempt, 0.2)
    assert time.monotonic() - start < 30
    assert set(children(os.getpid())) <= before


def test_asking_changes_nothing_of_the_asker() -> None:
    def state() -> list[object]:
        seen = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")]
        status = Path("/proc/self/status").read_text().splitlines()
        kept = [line for line in status if line.startswith(("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid"))]
        return [seen, kept, prctl.get_securebits(), sorted(os.listdir("/proc/self/fd")), os.umask(0o022)]

    os.umask(0o022)
    before = state()
    survey(probe_host())
    assert state() == before


def test_every_feature_says_what_is_lost_and_how_to_get_it_under_a_key_of_its_own() -> None:
    asked = probes(probe_host())
    keys = [probe.key for probe in asked]
    assert len(keys) == len(set(keys))
    assert [probe.key for probe in asked if not (probe.lost and probe.remedy and probe.name)] == []


def test_the_data_have_the_documented_fields_and_the_text_fits() -> None:
    host = probe_host()
    features, found = survey(host), ways(host)
    data = json.loads(json.dumps(doctor_report.data(host, features, found)))
    assert list(data) == SHAPE
    assert {tuple(feature) for feature in data["features"]} == {tuple(FEATURE)}
    documented = (Path(__file__).resolve().parents[2] / "docs/reports.md").read_text()
    assert [field for field in (*SHAPE, *FEATURE, *data["ways"][0]) if f"{field}`" not in documented] == []
    lines = doctor_report.text(host, features, found).splitlines()
    # A sentence of another's, such as a path, may hold a word that fits no line.
    assert [line for line in lines if len(line) > COLUMNS and len(line.split()) > 3] == []


def test_the_text_names_loss_and_remedy_of_what_is_not_there_and_only_of_that() -> None:
    host = probe_host()

    def feature(key: str, attempt: Callable[[], Answer]) -> Probe:
        return Probe("group", key, key, attempt, f"loss of {key}", f"remedy for {key}")

    asked = (feature("this", lambda: there("fine")), feature("that", lambda: refused(errno.EPERM, "unshare")))
    text = doctor_report.text(host, tuple(ask(probe) for probe in asked), ())
    assert "remedy for that" in text
    assert "loss of that" in text
    assert "EPERM" in text
    assert "loss of this" not in text


def test_the_status_is_1_where_no_jail_of_namespaces_can_be_had(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = best(ways(probe_host()))
    assert main(["doctor", "--as", "json"]) == (0 if wanted in (Tier.FULL, Tier.USERNS) else 1)
    assert json.loads(capfd.readouterr().out)["tier"] == (None if wanted is None else wanted.value)
    monkeypatch.setattr("virtiofs_sandbox.confine.ways.ways", lambda _host: (Way("x", None, None, (), "no"),))
    assert main(["doctor"]) == 1
    assert "no jail can be built" in capfd.readouterr().out
