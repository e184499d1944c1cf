"""What the kernel says about the processes of a running supervisor: who they are, how much memory they have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    command: str


def children_of(pid: int) -> list[Process]:
    """Direct children of *pid*, oldest first (proc(5), status)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = status(int(entry.name))
            if fields.get("PPid") == str(pid):
                found.append(Process(int(entry.name), pid, fields["Name"]))
    return sorted(found, key=lambda process: process.pid)


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; empty when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def peak_kib(pid: int) -> int:
    """The most memory the process ever had resident, shared pages included (VmHWM)."""
    return int(status(pid).get("VmHWM", "0 kB").split()[0])


def share_kib(pid: int) -> int:
    """Resident memory, each page divided by the number of its users (Pss)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


@dataclass(frozen=True)
class Running:
    """The processes of one share: the supervisor's, by role."""

    supervisor: int
    zygote: int
    keeper: int
    worker: int

    def roles(self) -> list[tuple[str, int]]:
        return [
            ("supervisor", self.supervisor),
            ("zygote", self.zygote),
            ("keeper", self.keeper),
            ("worker", self.worker),
        ]


def running(supervisor: int) -> Running:
    """Sorts the children of *supervisor* by role: the keeper runs the worker's binary, the zygote does not."""
    children = children_of(supervisor)
    keeper = next(child.pid for child in children if child.command.startswith("virtiofs-worker"))
    zygote = next(child.pid for child in children if not child.command.startswith("virtiofs-worker"))
    return Running(supervisor, zygote, keeper, children_of(keeper)[0].pid)
