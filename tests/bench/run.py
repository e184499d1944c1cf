"""`make bench`: figures of this machine, as ratios against the stock daemon and native calls within one run.

Three tables: time from connect() to the reply to FUSE INIT, memory by process, and time and processor use per
operation. Absolute times depend on the machine and on what else it does; compare rows of one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.processes import Running, peak_kib, running, share_kib

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "target/x86_64-unknown-linux-gnu/release/vhost-load"
SANDBOX = ROOT / ".venv/bin/virtiofs-sandbox"
PEER = ROOT / "build/peer"
START_SECONDS = 20
RUN_SECONDS = 1800
MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs, so that no disk is measured; the directory made in it is private


@dataclass(frozen=True)
class Daemon:
    name: str
    socket: Path
    pid: int

    def argument(self, worker: int) -> str:
        return f"{self.name}={self.socket},{worker}"


@contextmanager
def started(name: str, command: list[str], socket: Path) -> Iterator[Daemon]:
    """Runs a daemon until the block ends; it is ready when its socket is there."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            if not socket.exists():
                log.seek(0)
                raise SystemExit(f"{name} did not start: {log.read().decode()}")
            time.sleep(0.3)
            yield Daemon(name, socket, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)


def ours(share: Path, socket: Path) -> list[str]:
    return [str(SANDBOX), "run", str(share), "--socket", str(socket), "--tag", "bench"]


def stock(share: Path, socket: Path, sandbox: str) -> list[str]:
    """Debian 13's virtiofsd with its own libraries, through its own loader."""
    libraries = PEER / "usr/lib/x86_64-linux-gnu"
    loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
    daemon = [str(PEER / "usr/libexec/virtiofsd"), "--shared-dir", str(share), "--socket-path", str(socket)]
    return [*loader, *daemon, "--sandbox", sandbox, "--seccomp", "none" if sandbox == "none" else "kill"]


def load(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run([str(LOAD), *arguments], capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"vhost-load {' '.join(arguments)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(label: str, micros: list[float]) -> str:
    micros = sorted(micros)
    late = micros[min(len(micros) - 1, int(len(micros) * 0.95))]
    return f"| {label} | {micros[0] / 1e3:.2f} | {statistics.median(micros) / 1e3:.2f} | {late / 1e3:.2f} |"


def connect_figures(share: Path, work: Path, count: int) -> None:
    print("\n| connect() to FUSE INIT reply, ms | min | median | 95 % |\n| --- | --- | --- | --- |")
    with started("ours", ours(share, work / "connect.sock"), work / "connect.sock") as daemon:
        (warm,) = load("connect", str(daemon.socket), str(count), "200")
        (cold,) = load("connect", str(daemon.socket), str(count), "0")
        print(row("warm worker", warm["connect_us"]))  # type: ignore[arg-type]
        # The first of these still finds a warm worker.
        print(row("cold launch (the client before has just left)", cold["connect_us"][1:]))  # type: ignore[index]


def operation_figures(share: Path, work: Path, rounds: int, seconds: float) -> Running:
    with ExitStack() as stack:
        mine = stack.enter_context(started("ours", ours(share, work / "a.sock"), work / "a.sock"))
        peer = stack.enter_context(started("stock", stock(share, work / "b.sock", "none"), work / "b.sock"))
        processes = running(mine.pid)
        print_memory("memory, warm and idle", processes)
        targets = [mine.argument(processes.worker), peer.argument(peer.pid)]
        plan = ["--rounds", str(rounds), "--seconds", str(seconds)]
        print_operations(load("ops", str(share), *plan, *targets))
        print_peaks(processes)
    with ExitStack() as stack:
        mine = stack.enter_context(started("ours", ours(share, work / "c.sock"), work / "c.sock"))
        peer = stack.enter_context(started("stock", stock(share, work / "d.sock", "none"), work / "d.sock"))
        targets = [mine.argument(running(mine.pid).worker), peer.argument(peer.pid)]
        print_depth(load("ops", str(share), *plan, "--depth", "8", *targets))
    return processes


def print_memory(title: str, processes: Running) -> None:
    print(f"\n| {title} | peak RSS, MiB | Pss, MiB |\n| --- | --- | --- |")
    for role, pid in processes.roles():
        print(f"| {role} | {peak_kib(pid) / 1024:.1f} | {share_kib(pid) / 1024:.1f} |")


def print_peaks(processes: Running) -> None:
    print(f"\nPeak RSS after the load: supervisor {peak_kib(processes.supervisor) / 1024:.1f} MiB.")


def by_operation(lines: list[dict[str, object]]) -> dict[str, dict[str, dict[str, object]]]:
    table: dict[str, dict[str, dict[str, object]]] = {}
    for line in lines:
        table.setdefault(str(line["operation"]), {})[str(line["target"])] = line
    return table


def ratio(first: object, second: object) -> str:
    return f"{float(str(first)) / max(float(str(second)), 0.01):.2f}"


def print_operations(lines: list[dict[str, object]]) -> None:
    print("\n| depth 1, median us / CPU us | ours | stock | native | time ratio | CPU ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for operation, targets in by_operation(lines).items():
        mine, peer, native = targets["ours"], targets["stock"], targets["native"]
        cells = [f"{target['p50_us']} / {target['cpu_us']}" for target in (mine, peer)]
        ratios = [ratio(mine[key], peer[key]) for key in ("p50_us", "cpu_us")]
        print(f"| {operation} | {cells[0]} | {cells[1]} | {native['p50_us']} | {ratios[0]} | {ratios[1]} |")


def print_depth(lines: list[dict[str, object]]) -> None:
    print("\n| depth 8, operations per second / CPU us | ours | stock | rate ratio | CPU ratio |")
    print("| --- | --- | --- | --- | --- |")
    for operation, targets in by_operation(lines).items():
        mine, peer = targets["ours"], targets["stock"]
        cells = [f"{target['per_second']} / {target['cpu_us']}" for target in (mine, peer)]
        ratios = [ratio(mine[key], peer[key]) for key in ("per_second", "cpu_us")]
        print(f"| {operation} | {cells[0]} | {cells[1]} | {ratios[0]} | {ratios[1]} |")


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{os.cpu_count()} x {name}, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connects", type=int, default=40, help="connections timed of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each operation and target")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round")
    parser.add_argument("--share", type=Path, default=MEMORY, help="where to make the shared directory")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(dir=options.share) as share, tempfile.TemporaryDirectory() as work:
        connect_figures(Path(share), Path(work), options.connects)
        operation_figures(Path(share), Path(work), options.rounds, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
