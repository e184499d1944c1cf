"""The filter is wide enough: a worker that answers every kind of request makes no call beyond the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.escape.conftest import REPOSITORY, Scenario

WORKER = REPOSITORY / ".venv/bin/virtiofs-worker"


@pytest.mark.parametrize("user", ["root", "unprivileged"])
def test_every_request_is_answered_below_a_filter_that_kills(scenario: Scenario, tmp_path: Path, user: str) -> None:
    worker = tmp_path / "virtiofs-worker"
    worker.write_bytes(WORKER.read_bytes())
    worker.chmod(0o755)
    for directory in tmp_path.parents[:2]:
        directory.chmod(0o755)
    tmp_path.chmod(0o755)
    result = scenario("serve", worker=str(worker), user=user)
    # Its monitor has just left: it may be gone by now, but not killed.
    assert result["ended"] in (None, 0), result["log"]
    assert result["refused"] == {}
    assert result["serves"]
