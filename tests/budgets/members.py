"""Shares of one group in service on tmpfs, each with a byte-level front end that asks for all it gets."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from virtiofs_sandbox.policies.places import group_directory

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.policed import Policed

KIB, MIB = 1 << 10, 1 << 20
_PIECE = 64 * KIB
_FILE = 4 * MIB


class Member(Policed):
    """A share of weight *weight*; not guarded, for it meets the others in the runtime directory."""

    def __init__(self, work: Path, group: str, weight: int, policies: Path) -> None:
        self.group = group
        super().__init__(work, self.weighing(weight), ["--policy-dir", str(policies)], guarded=False)

    def weighing(self, weight: int) -> str:
        """The policy with that weight."""
        return f'[limits.group]\nname = "{self.group}"\nweight = {weight}\n'

    def write(self, policy: str) -> None:
        self.work.mkdir(exist_ok=True)
        super().write(policy)


class Load:
    """A guest that writes one piece after the other until it is told to stop."""

    def __init__(self, member: Member) -> None:
        self.written = 0
        self._member = member
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._write()
        except (OSError, AssertionError) as error:
            self.failure = error

    def _write(self) -> None:
        with FrontEnd.connect(self._member.socket, seconds=60) as client:
            client.start().init()
            node = client.lookup(b"file").node
            handle = client.open(node, os.O_RDWR)
            data = os.urandom(_PIECE)
            while not self._stop.is_set():
                client.call(Opcode.WRITE, fuse.write(handle, self.written % _FILE, data), node)
                self.written += len(data)


@contextlib.contextmanager
def members(weights: Sequence[int], budget: str) -> Iterator[list[Member]]:
    """Shares with these weights, whose group may use *budget*: the lines of its table of requests."""
    work = Path(tempfile.mkdtemp(prefix="budgets-", dir="/dev/shm"))
    group = work.name.replace("_", "-")
    policies = work / "shares.d"
    policies.mkdir()
    (work / "defaults.toml").write_text(f"[groups.{group}.requests]\n{budget}\n")
    (work / "defaults.toml").chmod(0o644)
    work.chmod(0o755)
    try:
        with contextlib.ExitStack() as running:
            there = []
            for number, weight in enumerate(weights):
                member = Member(work / f"member{number}", group, weight, policies)
                running.enter_context(member)
                member.share.mkdir(parents=True)
                (member.share / "file").write_bytes(bytes(_FILE))
                there.append(member.start())
            yield there
        assert not (group_directory() / group).exists(), "the last member removes the group"
    finally:
        shutil.rmtree(work)


def rates(loads: Sequence[Load], seconds: float) -> list[float]:
    """What each writes in a second, in bytes, measured for so long."""
    before, began = [load.written for load in loads], time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    for load in loads:
        assert load.failure is None, load.failure
    return [(load.written - old) / took for load, old in zip(loads, before, strict=True)]
