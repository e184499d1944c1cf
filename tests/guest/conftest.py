"""Guests as fixtures. One whose programs are missing is skipped with the name of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.images import MissingProgramError
from tests.guest.machine import Machine
from tests.guest.qemu import Qemu
from tests.guest.uml import UserModeLinux

KINDS: dict[str, Callable[[Path, Path | None], Machine]] = {"uml": UserModeLinux, "qemu": Qemu}


def new_machine(kind: str, work: Path, share: Path | None = None) -> Machine:
    try:
        return KINDS[kind](work, share)
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=list(KINDS))
def bare_guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A running guest of each kind, without a share."""
    work = tmp_path_factory.mktemp(f"guest-{request.param}")
    with new_machine(request.param, work) as machine:
        yield machine.boot()
