"""Runs scenarios below the guard: hostile programs get one writable directory and no more."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
BINARY = REPOSITORY / "target/x86_64-unknown-linux-gnu/debug/escape-prober"
SECONDS = 120


def build_prober() -> Path:
    """The fake worker, built."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--package", "escape-prober"], cwd=REPOSITORY, check=True)
    return BINARY


def run_guarded(name: str, work: Path, prober: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Runs one scenario of scenarios.py in a process of its own, *work* its directory, and returns its result."""
    # Whoever the jail belongs to has to get there: temporary directories are private.
    for directory in (work, *work.parents[:3]):
        if stat.S_IMODE(directory.stat().st_mode) == 0o700:
            directory.chmod(0o755)
    guard = [sys.executable, "tests/guard.py", "--work", str(work), "--"]
    words = [f"{key}={value}" for key, value in options.items()]
    command = [*guard, sys.executable, "-m", "tests.escape.scenarios", name, str(work), str(prober), *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr or f"it ended with status {done.returncode}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result
