"""What check says of a share that another program than our own worker serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.guest.stock import LIBRARIES, LOADER, PROGRAM
from tests.unit.checking import host, none, only, share_of, source, subject
from virtiofs_sandbox.confine import HostProbe
from virtiofs_sandbox.confine.preflight import Severity
from virtiofs_sandbox.policies.share import Program

__all__ = ["host", "source"]


@pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there: make peer fetches it")
def test_check_notes_what_falls_away_and_finds_a_program_that_is_not_there(source: Path, host: HostProbe) -> None:
    noted = only(subject(share_of(source, program=Program(PROGRAM, LOADER, (LIBRARIES,))), host), "another-program")
    assert (noted.severity, noted.key) == (Severity.NOTE, "worker.program")
    none(subject(share_of(source), host), "another-program")
    missing = only(subject(share_of(source, program=Program(Path("/nonexistent"))), host), "cannot-confine")
    assert (missing.severity, missing.key) == (Severity.ERROR, "worker.program")
