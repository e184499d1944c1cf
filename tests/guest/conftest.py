"""Guests as fixtures. One whose programs are missing is skipped with the name of the package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.frontend import FrontEnd
from tests.guest.images import MissingProgramError
from tests.guest.machine import Machine
from tests.guest.qemu import Qemu
from tests.guest.service import Service
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


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A supervisor on an empty share, on a machine that is read-only but for its work directory."""
    with Service(tmp_path_factory.mktemp("served")) as service:
        yield service.start()


@pytest.fixture
def client(service: Service) -> Iterator[FrontEnd]:
    """A byte-level guest with the share mounted."""
    with FrontEnd.connect(service.socket) as client:
        client.start()
        client.init()
        yield client


@pytest.fixture
def reachable() -> Iterator[Path]:
    """An empty directory that everybody can get to, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
