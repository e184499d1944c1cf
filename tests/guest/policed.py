"""A share in service by a policy file, which a test may rewrite while guests are at work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.guest.service import PROGRAM, TAG, Service

_READ_AGAIN = ("policy reloaded: ", "reload refused: ")
_TAKEN_OVER = "works by the new settings"


class LimitRefusedError(Exception):
    """`virtiofs-sandbox limit` failed: its status, and what it said."""


class Policed(Service):
    """Runs `virtiofs-sandbox run FILE`. *policy* is the file without tag and socket, and without the source where that
    is the directory of the service; it begins with keys of [share], if there are any, before any other table.
    """

    def __init__(
        self,
        work: Path,
        policy: str,
        options: Sequence[str] = (),
        *,
        guarded: bool = True,
        prefix: Sequence[str] = (),
    ) -> None:
        super().__init__(work, options, guarded=guarded, prefix=prefix)
        self.file = work / "guest.toml"
        self._policy = policy

    def command(self) -> list[str]:
        self.write(self._policy)
        return ["run", str(self.file)]

    def write(self, policy: str) -> None:
        """Puts another policy in place of the one there is, at once and whole."""
        source = "" if "tree" in policy else f'source = "{self.share}"\n'
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f'[share]\ntag = "{TAG}"\nsocket = "{self.socket}"\n{source}{policy}')
        fresh.chmod(0o644)
        os.replace(fresh, self.file)

    def reload(self, policy: str) -> str:
        """Rewrites the policy, sends SIGHUP, waits until it was read, and returns the log from there on."""
        before = len(self.log)
        self.write(policy)
        os.kill(self.supervisor, signal.SIGHUP)
        self.wait(lambda: any(word in self.log[before:] for word in _READ_AGAIN), "read the policy again")
        return self.log[before:]

    def limit(self, *assignments: str) -> Any:
        """What `virtiofs-sandbox limit` says, as data, once it has carried these out."""
        command = [str(PROGRAM), "limit", "--json", "--control-dir", str(self.control), self.file.stem, *assignments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise LimitRefusedError(done.returncode, done.stderr)
        return json.loads(done.stdout)

    def change(self, policy: str, times: int = 1) -> str:
        """As `reload`, and waits until a worker has taken over new settings that often."""
        before = len(self.log)
        self.reload(policy)
        self.wait(lambda: self.log[before:].count(_TAKEN_OVER) >= times, "take over the new settings")
        return self.log[before:]
