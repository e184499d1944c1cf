"""`make figures`: what a supervisor of 1, 50 and 200 shares takes while no client is there, as a table.

Sizes are those of one machine, and alike on others; times are told as ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.run import machine
from tests.guest.test_idle import processor_seconds
from tests.soak.groups import Groups
from tests.soak.memory import of
from tests.soak.run import WARM
from tests.soak.site import Policy, Site

NUMBERS = (1, 50, 200)


@dataclass(frozen=True)
class Memory:
    """MiB: *resident* with all it shares, *divided* with each page divided by its users, *private* its own alone."""

    resident: float
    divided: float
    private: float

    @classmethod
    def of(cls, pids: Iterable[int]) -> Memory:
        pids = tuple(pids)

        def mib(*keys: str) -> float:
            return sum(of(pid, "smaps_rollup", key) for pid in pids for key in keys) / 1024

        return cls(mib("Rss:"), mib("Pss:"), mib("Private_Clean:", "Private_Dirty:"))

    def divide(self, number: int) -> Memory:
        return Memory(self.resident / number, self.divided / number, self.private / number)

    def __str__(self) -> str:
        return f"{self.resident:.1f} / {self.divided:.1f} / {self.private:.1f}"


@dataclass(frozen=True)
class Rest:
    """A supervisor at rest. *processor* and *wakes*: seconds, and voluntary context switches of each role, while it
    was watched.
    """

    shares: int
    warm: int
    supervisor: Memory
    zygote: Memory
    slot: Memory
    descriptors: int
    processor: float
    wakes: dict[str, int]
    start: float
    stop: float


def at_rest(shares: int, seconds: float, work: Path) -> Rest:
    with Site(work, Groups()) as site:
        for number in range(shares):
            name = f"share{number:03}"
            site.add(name)
            site.write(name, Policy())
        start = site.start()
        warm = min(WARM, shares)
        found = site.settled(warm)
        jails = site.jails()
        roles = {
            "supervisor": (site.supervisor,),
            "zygote": tuple(site.zygotes()),
            "slots": tuple(pid for keeper, workers in jails for pid in (keeper, *workers)),
        }
        everybody = [pid for pids in roles.values() for pid in pids]
        before, used = {role: switches(pids) for role, pids in roles.items()}, sum(map(processor_seconds, everybody))
        time.sleep(seconds)
        wakes = {role: switches(pids) - before[role] for role, pids in roles.items()}
        processor = sum(map(processor_seconds, everybody)) - used
        memory = {role: Memory.of(pids) for role, pids in roles.items()}
        return Rest(
            shares,
            warm,
            memory["supervisor"],
            memory["zygote"],
            memory["slots"].divide(warm),
            sum(found.descriptors.values()),
            processor,
            wakes,
            start,
            site.stop(),
        )


def switches(pids: Iterable[int]) -> int:
    """How often their threads have gone to sleep (proc(5), voluntary_ctxt_switches)."""
    tasks = [int(task) for pid in pids for task in os.listdir(f"/proc/{pid}/task")]
    return sum(of(task, "status", "voluntary_ctxt_switches:") for task in tasks)


def table(found: list[Rest], seconds: float) -> str:
    first = found[0]
    rows = {
        "shares, warm workers": [f"{one.shares}, {one.warm}" for one in found],
        "supervisor, MiB: RSS / PSS / private": [str(one.supervisor) for one in found],
        "zygote, MiB": [str(one.zygote) for one in found],
        "a warm slot (keeper and worker), MiB": [str(one.slot) for one in found],
        "descriptors of the supervisor": [str(one.descriptors) for one in found],
        f"processor, all processes, ms in {seconds:g} s": [f"{one.processor * 1000:.1f}" for one in found],
        f"wake-ups in {seconds:g} s: supervisor, zygote, slots": [
            ", ".join(str(number) for number in one.wakes.values()) for one in found
        ],
        "start until all are in service, as a multiple of one share's": [
            f"{one.start / first.start:.1f}" for one in found
        ],
        "stop, as a multiple of one share's": [f"{one.stop / first.stop:.1f}" for one in found],
    }
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return "\n".join([lines[0], "| --- |" + " --- |" * len(found), *lines[1:]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="how long each is watched")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="figures-") as work:
        for number in NUMBERS:
            found.append(at_rest(number, options.seconds, Path(work) / str(number)))
    print(f"{machine()}; one share starts in {found[0].start:.2f} s, and stops in {found[0].stop:.2f} s.\n")
    print(table(found, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
