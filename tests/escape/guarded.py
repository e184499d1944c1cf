"""Runs scenarios below the guard: hostile programs get one writable directory and no more."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
BINARY = REPOSITORY / "target/x86_64-unknown-linux-gnu/debug/escape-prober"
SECONDS = 120


def build_prober() -> Path:
    """The fake worker, built."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--package", "escape-prober"], cwd=REPOSITORY, check=True)
    return BINARY


def reachable(directory: Path) -> Path:
    """Lets every user into *directory*, and through the private temporary directories above it."""
    for path in (directory, *directory.parents[:3]):
        if stat.S_IMODE(path.stat().st_mode) == 0o700:
            path.chmod(0o755)
    return directory


def run_guarded(name: str, prober: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Runs one scenario of scenarios.py in a process and a directory of its own, and returns its result."""
    words = [f"{key}={value}" for key, value in options.items()]
    # Not one of pytest's, which each of its runs makes private again for all others.
    with tempfile.TemporaryDirectory(prefix="jail-") as directory:
        work = reachable(Path(directory))
        command = [sys.executable, "-m", "tests.escape.scenarios", name, str(work), str(prober), *words]
        return run_below_guard(work, command)


def run_below_guard(work: Path, command: Sequence[str]) -> dict[str, Any]:
    """Runs *command*, which may change *work* only, and returns the JSON object it prints."""
    guard = [sys.executable, "tests/guard.py", "--work", str(work), "--"]
    done = subprocess.run(
        [*guard, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr or f"it ended with status {done.returncode}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result
