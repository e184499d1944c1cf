"""The filters are wide enough: a worker that answers every kind of request makes no call beyond its roles' tables."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import records
from virtiofs_sandbox.ipc.exits import ExitCode

from tests.escape.conftest import REPOSITORY, Scenario

WORKER = REPOSITORY / ".venv/bin/virtiofs-worker"
ENDINGS = {
    "client left": ExitCode.CLIENT_LEFT,
    "stopped": ExitCode.STOPPED,
    "refused": ExitCode.PROTOCOL,
    "memory gone": ExitCode.GUEST_MEMORY,
}


@pytest.fixture
def worker(tmp_path: Path) -> str:
    """The worker's binary, where an ordinary user may run it."""
    copy = tmp_path / "virtiofs-worker"
    copy.write_bytes(WORKER.read_bytes())
    copy.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    return str(copy)


@pytest.mark.parametrize("user", ["root", "unprivileged"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_request_is_answered_below_filters_that_kill(
    scenario: Scenario, worker: str, user: str, ending: str
) -> None:
    result = scenario("serve", worker=worker, user=user, ending=ending)
    assert result["ended"] == ENDINGS[ending], result["log"]
    assert result["refused"] == {}
    assert result["odd"] == {
        "FALLOCATE": errno.EOPNOTSUPP,
        "LSEEK": errno.EINVAL,
        "COPY_FILE_RANGE": errno.EINVAL,
        "SETXATTR": errno.EINVAL,
        "MKNOD": errno.EPERM,
        "RENAME2": errno.EINVAL,
    }
    assert result["serves"]


BY_RECORD = "seccomp refused system call fstatfs to the worker's thread 'queue-1': not on its list (docs/syscalls.md)"
BY_WORKER = "seccomp refused system call fstatfs to the worker: not on its list (docs/syscalls.md)"


def test_a_refusal_is_a_line_from_the_kernel_s_record(scenario: Scenario, worker: str) -> None:
    """As root of the initial namespaces, with CAP_AUDIT_READ."""
    if records.try_reading():
        pytest.skip("the audit records of this machine cannot be read here")
    result = scenario("denial", worker=worker, source="records")
    assert result == {"answers": [errno.EPERM], "serves": True, "told": [BY_RECORD]}


def test_a_refusal_is_a_line_from_the_worker_where_no_record_can_be_read(scenario: Scenario, worker: str) -> None:
    """The call answers as it would have without the signal, and the worker goes on."""
    result = scenario("denial", worker=worker, user="unprivileged", source="own report")
    assert result == {"answers": [errno.EPERM], "serves": True, "told": [BY_WORKER]}


def test_a_worker_bounds_its_own_reports(scenario: Scenario, worker: str) -> None:
    result = scenario("denial", worker=worker, user="unprivileged", source="own report", times="200")
    assert result["answers"] == [errno.EPERM] * 200
    told = [line for line in result["told"] if line == BY_WORKER]
    # Ten a second, on either side.
    assert 10 <= len(told) <= 30
