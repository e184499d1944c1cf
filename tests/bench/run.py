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
from contextlib import contextmanager
from pathlib import Path

from tests.guest.service import Processes, Service

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "target/x86_64-unknown-linux-gnu/release/vhost-load"
PEER = ROOT / "build/peer"
START_SECONDS = 20
RUN_SECONDS = 1800
MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs, so that no disk is measured; the directory made in it is private


@contextmanager
def stock(share: Path, socket: Path) -> Iterator[int]:
    """Debian 13's virtiofsd in its fastest form, sandbox and filter off, by its own loader. Gives its pid."""
    libraries = PEER / "usr/lib/x86_64-linux-gnu"
    command: list[str | Path] = [
        libraries / "ld-linux-x86-64.so.2",
        "--library-path",
        libraries,
        PEER / "usr/libexec/virtiofsd",
    ]
    options: list[str | Path] = [
        "--shared-dir",
        share,
        "--socket-path",
        socket,
        "--sandbox",
        "none",
        "--seccomp",
        "none",
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.01)
            if not socket.exists():
                log.seek(0)
                raise SystemExit(f"stock virtiofsd did not start: {log.read().decode()}")
            yield process.pid
        finally:
            process.terminate()
            process.wait(timeout=START_SECONDS)


def load(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run([str(LOAD), *arguments], capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"vhost-load {' '.join(arguments)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(label: str, micros: list[float]) -> str:
    micros = sorted(micros)
    late = micros[min(len(micros) - 1, int(len(micros) * 0.95))]
    return f"| {label} | {micros[0] / 1e3:.2f} | {statistics.median(micros) / 1e3:.2f} | {late / 1e3:.2f} |"


def idle_figures(work: Path, count: int) -> None:
    """What a share costs before its first client, and how soon that one is served."""
    with Service(work, guarded=False) as service:
        print_memory(service.start().wait_worker())
        print("\n| connect() to FUSE INIT reply, ms | min | median | 95 % |\n| --- | --- | --- | --- |")
        (warm,) = load("connect", str(service.socket), str(count), "200")
        (cold,) = load("connect", str(service.socket), str(count), "0")
        print(row("warm worker", warm["connect_us"]))  # type: ignore[arg-type]
        # The first of these still finds a warm worker.
        print(row("cold launch (the client before has just left)", cold["connect_us"][1:]))  # type: ignore[index]


def operation_figures(work: Path, *plan: str) -> list[dict[str, object]]:
    """One run of the load against both daemons, on one directory."""
    with Service(work, guarded=False) as service:
        processes = service.start().wait_worker()
        with stock(service.share, work / "stock.sock") as peer:
            targets = [f"ours={service.socket},{processes.workers[0]}", f"stock={work / 'stock.sock'},{peer}"]
            lines = load("ops", str(service.share), *plan, *targets)
            peaks = {str(line["target"]): int(str(line["peak_kib"])) for line in lines if "peak_kib" in line}
            peaks["supervisor"] = peak_kib(processes.supervisor)
            print(f"\nPeak RSS under the load below, MiB: {in_mib(peaks)}.")
            return [line for line in lines if "operation" in line]


def in_mib(peaks: dict[str, int]) -> str:
    return ", ".join(f"{name} {kib / 1024:.1f}" for name, kib in peaks.items())


def print_memory(processes: Processes) -> None:
    print("\n| memory, warm and idle | peak RSS, MiB | Pss, MiB |\n| --- | --- | --- |")
    roles = {
        "supervisor": processes.supervisor,
        "zygote": processes.zygotes[0],
        "keeper": processes.keepers[0],
        "worker": processes.workers[0],
    }
    for role, pid in roles.items():
        print(f"| {role} | {peak_kib(pid) / 1024:.1f} | {share_kib(pid) / 1024:.1f} |")


def peak_kib(pid: int) -> int:
    """The most memory the process ever had resident, shared pages included (proc(5), VmHWM)."""
    return kib(Path(f"/proc/{pid}/status"), "VmHWM:")


def share_kib(pid: int) -> int:
    """Resident memory, each page divided by the number of its users (proc(5), Pss)."""
    return kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def kib(path: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(field))


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
    parser.add_argument(
        "--rounds",
        type=int,
        default=6,
        help="rounds of each operation, as many for either to be first",
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round")
    options = parser.parse_args()
    plan = ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory(dir=MEMORY) as work:
        idle_figures(Path(work) / "idle", options.connects)
        print_operations(operation_figures(Path(work) / "shallow", *plan))
        print_depth(operation_figures(Path(work) / "deep", *plan, "--depth", "8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
