#!/usr/bin/env python3
"""What the tests of this folder run: one scenario per process, below tests/guard.py, its result as JSON on stdout.

tests/guard.py --work DIR -- python -m tests.escape.scenarios NAME DIR PROBER [OPTION=VALUE ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prctl
from virtiofs_sandbox.confine import LaunchPlan, prepare, probe_host, seccomp
from virtiofs_sandbox.launcher import Launcher, LaunchError, Zygote
from virtiofs_sandbox.policies.share import Access, LogLevel, PathRules, Sandbox, Share, Tier
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import Event, WorkerSaid, WorkerWarm
from virtiofs_sandbox.supervisor.loglines import parse_line

from tests.environments import ENVIRONMENTS
from tests.escape import attackers, layers, serving
from tests.escape.decoys import Decoys
from tests.escape.jailing import STATISTICS_BYTES, answers, lines, running
from tests.escape.layers import Layer
from tests.escape.seclusion import seclude
from tests.guest.fuse import Opcode

LAUNCH_SECONDS = 0.015
PREPARED = "-"
# The kernel's records tell processes by the machine's own numbers, and only in its own network namespace.
NOT_SECLUDED = {"denial"}
Options = dict[str, str]
Result = dict[str, Any]


class Stage:
    """A zygote and what is needed for plans of one share, on decoys that are there."""

    def __init__(self, work: Path, options: Options) -> None:
        self.work = work
        self.decoys = Decoys.at(work)
        if "groups" in options:
            os.setgroups([int(group) for group in options["groups"].split(",")])
        # A usual host's soft limit forbids core files too, and would hide what the jail's own does.
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
        self.zygote = Zygote.start()
        access = Access(options.get("access", "read-write"))
        sandbox = Sandbox(minimum=Tier.BARE)
        xattr = options.get("xattr", "yes") == "yes"
        paths = (
            PathRules(readonly=("above/frozen",), hide=("masked",)) if options.get("rules") == "yes" else PathRules()
        )
        self.share = Share("probe", self.decoys.share, "tag", access=access, xattr=xattr, sandbox=sandbox, paths=paths)
        self.host = probe_host()
        self.plan = prepare(self.share, self.host, worker=self.decoys.program)

    def plan_with(self, on: frozenset[Layer]) -> LaunchPlan:
        return layers.plan_with(on, self.share, self.host, self.decoys.program)


def probe(work: Path, options: Options) -> Result:
    """Runs the whole table of attempts in a jail with some layers: `layers`, joined by "+"; by default all."""
    stage = Stage(work, options)
    names = options.get("layers", "+".join(layer.value for layer in layers.ALL))
    plan = stage.plan_with(frozenset(Layer(name) for name in names.split("+") if name))
    if options.get("calls") == "stock":
        plan = layers.with_calls_of_stock(plan)
    facts = attackers.Facts(work, stage.decoys, stage.plan)
    told = facts.told() | {"filters": attackers.second_filters(plan, options.get("roles", "queue+control").split("+"))}
    before, ruled = stage.decoys.record(), stage.decoys.record_ruled()

    async def run() -> tuple[list[dict[str, Any]], int]:
        async with running(Launcher(stage.zygote), plan, lines(told)) as jail:
            said = await answers(jail)
            return said, len(os.pread(jail.statistics, STATISTICS_BYTES, 0))

    said, statistics_bytes = asyncio.run(run())
    return {
        "tier": plan.tier.value,
        "attempts": {entry["attempt"]: entry for entry in said if "attempt" in entry},
        "done": any("done" in entry for entry in said),
        "statistics_bytes": statistics_bytes,
        "untouched": before == stage.decoys.record(),
        "held": ruled == stage.decoys.record_ruled(),
    }


def inspect(work: Path, options: Options) -> Result:
    """Reads a live jail from outside, as the kernel reports it, of a supervisor that has much to leave behind."""
    for leaked in (os.open("/", os.O_PATH), os.open("/", os.O_RDONLY), *os.pipe(), os.memfd_create("leaked", 0)):
        os.set_inheritable(leaked, True)
    os.set_inheritable(socket.socket(socket.AF_INET).detach(), True)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    stage = Stage(work, options)

    async def run() -> Result:
        async with running(Launcher(stage.zygote), stage.plan, lines({})) as jail:
            await answers(jail)
            return _seen_from_outside(jail.jail.pid) | {"plan_capabilities": stage.plan.capabilities}

    return asyncio.run(run())


def _seen_from_outside(pid: int) -> Result:
    process = Path(f"/proc/{pid}")
    names = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    return {
        "status": dict(line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines()),
        "namespaces": {name: os.readlink(process / "ns" / name) for name in names},
        "our_namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in names},
        "uid_map": process.joinpath("uid_map").read_text().split(),
        "descriptors": {fd.name: os.readlink(fd) for fd in process.joinpath("fd").iterdir()},
        "flags": {
            fd.name: int(fd.read_text().split("flags:\t")[1].split()[0], 8)
            for fd in process.joinpath("fdinfo").iterdir()
        },
        "root_entries": os.listdir(process / "root"),
        "root_read_only": bool(os.statvfs(process / "root").f_flag & os.ST_RDONLY),
        "cwd": os.stat(process / "cwd").st_ino == os.stat(process / "root").st_ino,
        "mounts": process.joinpath("mountinfo").read_text().splitlines(),
        "environment": process.joinpath("environ").read_bytes().decode(),
        "command_line": process.joinpath("cmdline").read_bytes().decode().split("\0"),
        "session": os.getsid(pid) == pid,
        "core_limit": resource.prlimit(pid, resource.RLIMIT_CORE),
        "nofile_limit": resource.prlimit(pid, resource.RLIMIT_NOFILE),
        "oom_score_adj": int(process.joinpath("oom_score_adj").read_text()),
    }


def failure(work: Path, options: Options) -> Result:
    """One launch with a plan that cannot work; the sentence, and what was left behind."""
    stage = Stage(work, options)
    plan = _broken(stage.plan, options["stage"], work)

    async def run() -> Result:
        before = _count()
        try:
            async with running(Launcher(stage.zygote), plan):
                return {"launched": True}
        except LaunchError as error:
            return {
                "stage": error.stage,
                "call": error.call,
                "errno": error.errno,
                "sentence": str(error),
                "left": _difference(before, _count()),
            }

    return asyncio.run(run())


def _broken(plan: LaunchPlan, what: str, work: Path) -> LaunchPlan:
    replace = dataclasses.replace
    text = work / "not-a-program"
    text.write_text("text")
    text.chmod(0o755)
    assert plan.landlock
    return {
        "cgroup": lambda: replace(plan, cgroups=(os.fsencode(work / "no-such-group"),)),
        "nofile": lambda: replace(plan, nofile=(1 << 40, 1 << 40)),
        "uid_map": lambda: replace(plan, uid_map=b"0 0 4294967295\n0 0 4294967295\n"),
        "source": lambda: replace(plan, source=os.fsencode(work / "no-such-directory")),
        "worker": lambda: replace(plan, worker=os.fsencode(work / "no-such-worker")),
        "program": lambda: replace(plan, worker=os.fsencode(text)),
        "capabilities": lambda: replace(plan, capabilities=1 << 62),
        "securebits": lambda: replace(plan, securebits=1 << 20),
        "landlock": lambda: replace(plan, landlock=replace(plan.landlock, handled_fs=1 << 60)),
        "seccomp": lambda: replace(plan, seccomp=b"\xff" * 8),
    }[what]()


def _count() -> dict[str, int]:
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "processes": sum(1 for entry in os.listdir("/proc") if entry.isdigit() and _is_ours(entry)),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
    }


def _is_ours(pid: str) -> bool:
    """Descends from this process (which is a subreaper, so nothing of ours escapes the count)."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return False
    return parent == os.getpid() or (parent > 1 and parent != int(pid) and _is_ours(str(parent)))


def _difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before if after[name] != before[name]}


def leaks(work: Path, options: Options) -> Result:
    """Many launches in a row; what is left afterwards, here and in the zygote, and how long each took."""
    stage = Stage(work, options)
    durations: list[float] = []

    async def run() -> None:
        launcher = Launcher(stage.zygote)
        for _ in range(int(options["launches"])):
            start = time.perf_counter()
            async with running(launcher, stage.plan):
                durations.append(time.perf_counter() - start)

    def now() -> dict[str, int]:
        return _count() | {"zygote": len(os.listdir(f"/proc/{stage.zygote.pid}/fd"))}

    before = now()
    asyncio.run(run())
    durations.sort()
    milliseconds = {"min": durations[0] * 1e3, "median": durations[len(durations) // 2] * 1e3}
    return {"left": _difference(before, now()), "milliseconds": milliseconds}


def zygote_dies(work: Path, options: Options) -> Result:
    """Kills the zygote under a running jail; then launches with the dead one, and with a new one."""
    stage = Stage(work, options)

    async def run() -> Result:
        async with running(Launcher(stage.zygote), stage.plan, lines({})) as first:
            os.kill(stage.zygote.pid, signal.SIGKILL)
            said = await answers(first)
            try:
                async with running(Launcher(stage.zygote), stage.plan):
                    refused = ""
            except LaunchError as error:
                refused = str(error)
            stage.zygote.close()
            zygote = Zygote.start()
            async with running(Launcher(zygote), stage.plan, lines({})) as second:
                served = "done" in (await answers(second))[-1]
            zygote.close()
            return {"first_done": "done" in said[-1], "refused": refused, "second_done": served}

    return asyncio.run(run())


def cut_off(work: Path, options: Options) -> Result:
    """Cancels launches, or kills the zygote, at every moment of a launch; what is left of them."""
    stage = Stage(work, options)
    killing = options["by"] == "zygote"
    before = _count()
    outcomes: list[str] = []

    async def launch(launcher: Launcher) -> None:
        async with running(launcher, stage.plan):
            pass

    async def run() -> None:
        zygote = stage.zygote
        for step in range(int(options["launches"])):
            task = asyncio.ensure_future(launch(Launcher(zygote)))
            await asyncio.sleep(step / int(options["launches"]) * LAUNCH_SECONDS)
            if killing:
                os.kill(zygote.pid, signal.SIGKILL)
            else:
                task.cancel()
            done = (await asyncio.gather(task, return_exceptions=True))[0]
            outcomes.append(type(done).__name__)
            if killing:
                zygote.close()
                zygote = Zygote.start()
        stage.zygote = zygote

    asyncio.run(run())
    return {"left": _difference(before, _count()), "outcomes": sorted(set(outcomes))}


def supervisor_dies(work: Path, options: Options) -> Result:
    """Launches from a child that then dies by SIGKILL; does the jail outlive it?"""
    prctl.set_child_subreaper(1)
    reading, writing = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        stage = Stage(work, options)
        plan = dataclasses.replace(stage.plan, end_with_supervisor=options["ends"] == "yes")

        async def run() -> None:
            async with running(Launcher(stage.zygote), plan) as jail:
                os.write(writing, jail.jail.pid.to_bytes(4, "little"))
                # The prober would leave when its control socket closes; a stopped one can only be killed.
                os.kill(jail.jail.pid, signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(run())
    pid = int.from_bytes(os.read(reading, 4), "little")
    os.waitpid(supervisor, 0)
    for _ in range(100):
        if _state(pid) in ("Z", None):
            break
        time.sleep(0.01)
    state = _state(pid)
    if state is not None and state != "Z":
        os.kill(pid, signal.SIGKILL)
    return {"jail_ended": state in ("Z", None)}


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def serve(work: Path, options: Options) -> Result:
    """A real worker answers every kind of request below a filter that kills for whatever is not in the table."""
    stage = Stage(work, options)
    key, fatal = stage.plan.exec_key, seccomp.Refusal.KILL
    plan = dataclasses.replace(
        stage.plan,
        worker=os.fsencode(options["worker"]),
        seccomp=seccomp.program(key, refusal=fatal),
        filters=seccomp.role_programs(refusal=fatal),
    )

    async def run() -> Result:
        async with running(Launcher(stage.zygote), plan, serving.document(plan)) as jail:
            answered = serving.every_request(jail.control, options.get("ending", "client left"))
            ended = os.waitid(os.P_PIDFD, jail.jail.pidfd, os.WEXITED | os.WNOWAIT)
            log = b"".join(_logged(jail.log)).decode()
            return answered | {"ended": ended and ended.si_status, "tier": plan.tier.value, "log": log}

    return asyncio.run(run())


def _logged(log: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while lines := os.read(log, 65536):
            yield lines


def denial(work: Path, options: Options) -> Result:
    """A real worker whose queue threads are refused one call more than they should be; what its supervisor is told."""
    stage = Stage(work, options)
    assert stage.plan.filters
    one_more = _refuses_fstatfs(0x30000 if options["source"] == "own report" else 0x50000 | errno.EPERM)
    filters = dataclasses.replace(stage.plan.filters, queue=one_more)
    plan = dataclasses.replace(stage.plan, worker=os.fsencode(options["worker"]), filters=filters)
    told: list[Event] = []

    async def run() -> Result:
        with Denials(told.append) as denials:
            async with running(Launcher(stage.zygote), plan, serving.document(plan)) as jail:
                denials.launched("probe", serving.GENERATION, jail.jail.pid)
                with serving.connect(jail.control) as guest:
                    denials.show(WorkerWarm("probe", serving.GENERATION, None, jail.jail.pid, 0.0))
                    guest.start(queues=2)
                    guest.init()
                    answers = [guest.request(Opcode.STATFS).error for _ in range(int(options.get("times", "1")))]
                    serves = guest.serves()
                await _a_warning(told, 5.0 if options["source"] == "records" else 0.0)
                for line in b"".join(_logged(jail.log)).splitlines():
                    said = parse_line(line)
                    denials.show(WorkerSaid("probe", serving.GENERATION, None, said.level, said.text))
        return {
            "answers": answers,
            "serves": serves,
            "told": [str(event) for event in told if event.level is LogLevel.WARNING],
        }

    return asyncio.run(run())


async def _a_warning(told: list[Event], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not any(event.level is LogLevel.WARNING for event in told):
        await asyncio.sleep(0.01)


def _refuses_fstatfs(answer: int) -> bytes:
    """A program that gives *answer* to fstatfs(2), and allows the rest."""
    instructions = ((0x20, 0, 0, 0), (0x15, 0, 1, 138), (6, 0, 0, answer), (6, 0, 0, 0x7FFF0000))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)


SCENARIOS: dict[str, Callable[[Path, Options], Result]] = {
    scenario.__name__: scenario
    for scenario in (probe, inspect, failure, leaks, zygote_dies, cut_off, supervisor_dies, serve, denial)
}


def main() -> None:
    """Prepares as root; then runs the scenario, as another user in a new program that only then starts."""
    name, directory, prober, *words = sys.argv[1:]
    # Not the guard's own directory, whose procfs belongs to nobody else.
    work = Path(directory, "stage")
    options = dict(word.split("=", 1) for word in words)
    if prober != PREPARED:
        if name not in NOT_SECLUDED:
            seclude()
        work.mkdir()
        Decoys.make(work, Path(prober))
        environment = ENVIRONMENTS[
            "user" if options.get("user") == "unprivileged" else options.get("environment", "root")
        ]
        if environment.name != "root":
            again = [sys.executable, "-m", "tests.escape.scenarios", name, directory, PREPARED, *words]
            os.execv(sys.executable, [*environment.command(work), *again])  # noqa: S606
    print(json.dumps(SCENARIOS[name](work, options)))


if __name__ == "__main__":
    main()
