"""What the threads of a jail do at the moment, as the kernel says: proc(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine import seccomp

# What our worker calls its threads. A name is its own doing, so nothing else is repeated.
_NAME = re.compile(rb"(hiprio|queue-[0-9]{1,2}|virtiofs-worker)", re.ASCII)
# A keeper or a thread without work.
_WAITING = frozenset({"ppoll", "poll", "wait4", "waitid"})


@dataclass(frozen=True)
class Thread:
    """*state* is one letter, *call* the system call that it is in, None where it is in none or that may not be seen."""

    name: str
    state: str
    call: str | None

    @property
    def sleeps_soundly(self) -> bool:
        """Where signals do not reach it: the kernel waits for storage on its behalf."""
        return self.state == "D"

    @property
    def works(self) -> bool:
        return self.state == "R" or (self.call is not None and self.call not in _WAITING)

    def __str__(self) -> str:
        return f"{self.name} in {self.call}" if self.call else self.name


def threads(keeper: int) -> tuple[Thread, ...]:
    """Of the keeper and its children; those that end meanwhile are left out."""
    found = []
    for pid in (keeper, *_children(keeper)):
        try:
            tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        found += [thread for task in tasks if (thread := _thread(task)) is not None]
    return tuple(found)


def _children(pid: int) -> tuple[int, ...]:
    try:
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))
    except OSError:
        return ()


def _thread(task: Path) -> Thread | None:
    try:
        # The letter stands behind the name, which may hold anything.
        head, _, rest = (task / "stat").read_bytes().rpartition(b") ")
    except OSError:
        return None
    name = head.partition(b" (")[2]
    known = name.decode("ascii") if _NAME.fullmatch(name) else "a thread"
    return Thread(known, rest[:1].decode("ascii"), _call(task))


def _call(task: Path) -> str | None:
    """Who may not trace the jail is told nothing, and one that runs is in no call."""
    try:
        number = (task / "syscall").read_text(encoding="ascii").split()[0]
    except OSError:
        return None
    return (seccomp.call_name(int(number)) or f"call {number}") if number.isdecimal() else None
