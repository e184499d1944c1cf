"""What a supervisor may take while no client is there (docs/figures.md has what it does take)."""

from __future__ import annotations

from pathlib import Path

from tests.bench.rest import at_rest


def test_a_supervisor_at_rest_is_small_and_its_jails_sleep(tmp_path: Path) -> None:
    found = at_rest(12, 2, tmp_path / "site")
    assert found.supervisor.resident < 40
    assert found.slot.resident < 3
    assert found.wakes["zygote"] == found.wakes["slots"] == 0
