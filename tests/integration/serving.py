"""`virtiofs-sandbox serve` as a process, over policies that the test writes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from virtiofs_sandbox.cli.asking import ask
from virtiofs_sandbox.ipc.requests import Listing, ListShares, Standing
from virtiofs_sandbox.policies.places import serve_socket

from tests.integration.running import PROGRAMS, ROOT, Caller, Process

PROGRAM = os.fspath(PROGRAMS / "virtiofs-sandbox")


class Policies:
    """The directory of policies below *place*; each shares a directory of its name there, on the socket NAME.sock."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.directory = place / "shares.d"
        self.directory.mkdir(exist_ok=True)

    def put(self, name: str, rest: str = "", *, source: str | None = None, **share: str) -> None:
        """Puts a policy in place, whole; *share* has further keys of that table as TOML."""
        (self.place / (source or name)).mkdir(exist_ok=True)
        said = {
            "source": f'"{self.place / (source or name)}"',
            "tag": f'"{name}"',
            "socket": f'"{self.place / name}.sock"',
            **share,
        }
        self.write(name, "\n".join(["[share]", *(f"{key} = {value}" for key, value in said.items()), rest, ""]))

    def write(self, name: str, text: str) -> None:
        fresh = self.directory / "fresh"
        fresh.write_text(text)
        os.replace(fresh, self.directory / f"{name}.toml")

    def remove(self, name: str) -> None:
        (self.directory / f"{name}.toml").unlink()


class Serving(Process):
    """One `serve` of the policies below *place*, with real jails."""

    def __init__(
        self,
        place: Path,
        *options: str,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.place = place
        command = [PROGRAM, "serve", *self.directories(), *options]
        super().__init__("real", place, command, pass_fds=pass_fds, prefix=prefix, environment=environment)

    def directories(self) -> Sequence[str]:
        """Options that name those of the test."""
        return "--policy-dir", os.fspath(self.place / "shares.d"), "--control-dir", os.fspath(self.place / "control")

    def ready(self) -> Self:
        """Waits until every share was tried."""
        told = re.compile(r" share\(s\) of | waiting for a reload")
        self.until(lambda: told.search(self.log.read_text()) is not None, "start")
        return self

    def ask(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, command, "--control-dir", os.fspath(self.control), *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
        )

    def said(self, command: str, *words: str) -> list[str]:
        """The lines of a command that is carried out."""
        done = self.ask(command, *words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def standings(self) -> dict[str, Standing]:
        """Asked for as `status` does, without the time that a command takes to start."""
        listing = ask(serve_socket(self.control), ListShares(), Listing)
        return {share.share: share for share in listing.shares}

    def states(self) -> dict[str, str]:
        return {name: share.state for name, share in self.standings().items()}

    def reason(self, name: str) -> str:
        """Why a share is not in service, or will not stay so; empty when there is nothing to say."""
        return self.standings()[name].reason or ""

    def client(self, name: str) -> Caller:
        """A monitor that is served by the share of this name."""
        caller = self.connect(self.place / f"{name}.sock")
        assert caller.served()
        return caller
