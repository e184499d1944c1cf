"""`make soak`: many shares under one supervisor, everything that can happen to them for a while, and then a count.

Prints the seed first: the same seed takes the same steps, though not at the same moments.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guest.service import alive
from tests.soak import groups
from tests.soak.memory import Growth
from tests.soak.mix import Mix
from tests.soak.site import LOG_TAIL, Site

WARM = 32
# What is no leak: the slope of a short run is mostly noise.
MOST_GROWTH_KIB = 4096
_BAD = re.compile(r"fault in the supervisor|Traceback|never retrieved|was destroyed but it is pending|ResourceWarning")
# The supervisor is killed in the first part only, so that its memory can be followed through the second.
_KILLS_UNTIL = 0.4


@dataclass(frozen=True)
class Plan:
    """*supervisor_kills* of the supervisor itself, evenly spread over the first part."""

    shares: int
    seconds: float
    seed: int
    supervisor_kills: int


@dataclass(frozen=True)
class Outcome:
    """*problems* are sentences; none means that all is as it was."""

    steps: int
    killed: int
    growth: Growth
    problems: tuple[str, ...]


def soak(plan: Plan, work: Path) -> Outcome:
    """Runs *plan* below *work*, which is not there yet. Raises what a step finds wrong."""
    chance = random.Random(plan.seed)  # noqa: S311 - to be had again
    warm = min(WARM, plan.shares)
    tell(f"soak: {plan.shares} shares for {plan.seconds:g} s, seed {plan.seed}")
    with groups.made() as allowed, Site(work, allowed, scraped=True) as site:
        mix = Mix(site, plan.shares, chance)
        tell(f"started in {site.start():.1f} s")
        mix.visit_all()
        before = site.settled(warm)
        growth = Growth()
        run(plan, mix, growth)
        mix.wind_up()
        mix.visit_all()
        after = site.settled(warm)
        problems = [f"at rest again: {found}" for found in after.beyond(before)]
        problems += grown(growth, plan)
        tell(f"supervisor: {growth}; {sum(after.descriptors.values())} descriptors")
        family = site.family()
        tell(f"stopped in {site.stop():.1f} s")
        problems += left_behind(site, family)
        problems += sorted({f"in its log: {line}" for line in site.log.splitlines() if _BAD.search(line)})
    for name, count in sorted(mix.done.items()):
        tell(f"  {name:18} {count:6}")
    return Outcome(sum(mix.done.values()), mix.killed, growth, tuple(problems))


def run(plan: Plan, mix: Mix, growth: Growth) -> None:
    begun = time.monotonic()
    kills = [
        plan.seconds * _KILLS_UNTIL * (number + 1) / plan.supervisor_kills for number in range(plan.supervisor_kills)
    ]
    told = 0.0
    while (passed := time.monotonic() - begun) < plan.seconds:
        if kills and passed >= kills[0]:
            kills.pop(0)
            tell(f"[{passed:5.0f} s] supervisor killed; the next one was there after {mix.kill_supervisor():.1f} s")
        try:
            mix.step()
        except Exception as error:
            error.add_note(f"after {sum(mix.done.values())} steps; the log ends:\n{mix.site.log[-LOG_TAIL:]}")
            raise
        growth.sample(mix.site.supervisor)
        if passed - told >= 30:
            told = passed
            tell(f"[{passed:5.0f} s] {sum(mix.done.values())} steps, {growth.samples[-1][1] / 1024:.1f} MiB")


def tell(text: str) -> None:
    print(text, flush=True)


def grown(growth: Growth, plan: Plan) -> Iterator[str]:
    """A leak that shows within the run shows in its end too."""
    rise = growth.slope * growth.seconds / 60
    if rise > MOST_GROWTH_KIB:
        yield f"the supervisor grew by {rise:.0f} KiB: {growth}"


def left_behind(site: Site, family: list[int]) -> Iterator[str]:
    """After a stop there is nothing but what the site itself wrote."""
    deadline = time.monotonic() + 5
    while (there := [pid for pid in family if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    if there:
        yield f"processes are left: {there}"
    policies = {site.policies / f"{source.name}.toml" for source in (site.work / "shares").iterdir()}
    files = site.files() - policies
    if files:
        yield f"files are left: {sorted(map(str, files))}"
    if site.groups():
        yield f"control groups are left: {sorted(map(str, site.groups()))}"
    stray = [file for source in (site.work / "shares").iterdir() for file in source.iterdir()]
    if len(stray) != 2 * len(policies):
        yield "shares hold other files than before"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--supervisor-kills", type=int, default=3)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    allow_many_descriptors()
    # What it started and made is to go with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="soak-") as work:
        outcome = soak(Plan(options.shares, options.seconds, seed, options.supervisor_kills), Path(work) / "site")
    for problem in outcome.problems:
        print(f"PROBLEM: {problem}")
    verdict = f"{len(outcome.problems)} problem(s)" if outcome.problems else "all is as it was"
    print(f"{outcome.steps} steps, {outcome.killed} processes killed: {verdict}")
    return 1 if outcome.problems else 0


def allow_many_descriptors() -> None:
    """Each client has eight."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
