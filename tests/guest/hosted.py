"""A user-mode-linux guest whose root is the host's, read-only: what our code does under another kernel's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.images import ROOT, MissingProgramError, user_mode_linux
from tests.guest.machine import ENDS_WITH_TEST


def boot(work: Path, program: str, *arguments: str, seconds: float = 300) -> str:
    """Boots with *arguments* for the kernel and *program*, a path in the repository, as the first and only process.

    Returns what was printed until the guest was powered off.
    """
    if os.geteuid() != 0:
        pytest.skip("the guest has the host's root directory as its own: needs root")
    try:
        image = user_mode_linux()
    except MissingProgramError as error:
        pytest.skip(str(error))
    start = work / "init"
    start.write_text(
        f"#!/bin/sh\nexport PATH={os.environ['PATH']} PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={ROOT}\n"
        f"exec {sys.executable} {ROOT / program}\n"
    )
    start.chmod(0o755)
    command = [
        *ENDS_WITH_TEST,
        str(image.program),
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"uml_dir={work}",
        "umid=uml",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        "panic=1",
        "quiet",
        f"init={start}",
        *arguments,
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
    )
    return run.stdout + run.stderr[-2000:]
