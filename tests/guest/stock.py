"""Debian 13's virtiofsd, unpacked below build/ with its own loader and libraries, as the worker of a share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.guest.images import ROOT
from tests.guest.policed import Policed
from tests.guest.service import Processes, children

PEER = ROOT / "build/peer/usr"
PROGRAM = PEER / "libexec/virtiofsd"
LIBRARIES = PEER / "lib/x86_64-linux-gnu"
LOADER = LIBRARIES / "ld-linux-x86-64.so.2"


def program(*arguments: str) -> str:
    """The policy's table [worker] that names it. Skips the test where it was not fetched."""
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not there: make peer fetches it")
    given = f", arguments = {list(arguments)}" if arguments else ""
    return f'[worker]\nprogram = {{ path = "{PROGRAM}", loader = "{LOADER}", libraries = ["{LIBRARIES}"]{given} }}\n'


class Stock(Policed):
    """Serves by the stock daemon; its one process is `workers` and `keepers` alike."""

    def __init__(self, work: Path, policy: str = "", *arguments: str, prefix: Sequence[str] = ()) -> None:
        self.worker_table = program(*arguments)
        super().__init__(work, policy + self.worker_table, guarded=not prefix, prefix=prefix)

    def processes(self) -> Processes:
        below = children(self.supervisor)
        served = tuple(pid for pid in below if _is_stock(pid))
        return Processes(self.supervisor, tuple(pid for pid in below if pid not in served), served, served)

    def ask(self, command: str, *options: str) -> Any:
        """What a command says of this share, as data."""
        asked = [str(self.program), command, *options, "--json", "--control-dir", str(self.control), self.file.stem]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)


def _is_stock(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"virtiofsd\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
