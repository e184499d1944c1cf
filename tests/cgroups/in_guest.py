"""The first and only program of a guest kernel with control groups of version 2: what our code does there.

The guest's root is the host's, read-only; its disk is /dev/ubda with a file system on it. Prints one line for each
outcome, "NAME: JSON" after a mark, and powers the guest off.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from virtiofs_sandbox.cgroups import disks, planning
from virtiofs_sandbox.cgroups.groups import Groups
from virtiofs_sandbox.cgroups.hierarchies import LEAF, find
from virtiofs_sandbox.policies.share import (
    ControlLimits,
    CpuLimits,
    CpuQuota,
    DiskLimits,
    Membership,
    MemoryLimits,
    Rates,
    Share,
    Unenforceable,
)

from tests.cgroups.files import Guest, forget
from tests.guest.frontend import FrontEnd
from tests.guest.service import children, is_jailed

PROGRAM = Path(sys.executable).with_name("virtiofs-sandbox")
MARK = "OUTCOME "
MIB = 1 << 20
DISK = Path("/mnt")
TREE = Path("/sys/fs/cgroup")
LOAD = Path(__file__).with_name("load.py")
_POWER_OFF = 0x4321FEDC
SHARE = Share(name="data", source=DISK, tag="data")


def tell(name: str, outcome: object) -> None:
    print(f"{MARK}{name}: {json.dumps(outcome)}", flush=True)


def mount(kind: str, source: str, target: str) -> None:
    subprocess.run(["mount", "-n", "-t", kind, source, target], check=True)


def limited(**limits: object) -> Share:
    return dataclasses.replace(SHARE, control=dataclasses.replace(ControlLimits(), **limits))  # type: ignore[arg-type]


def load(group: str, way: str, how: str, block: int, seconds: float) -> tuple[float, float]:
    """Operations and MiB a second."""
    file = DISK / ("there" if way == "read" else "written")
    command = [sys.executable, "-S", str(LOAD), group, str(file), way, how, str(block), str(seconds)]
    got = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(got[0]), float(got[1]) / MIB


def files(directory: str, *names: str) -> dict[str, str]:
    return {name: (Path(directory) / name).read_text().strip() for name in names}


class Scenes:
    """Each is a method, in this order; *seconds* is how long a rate is measured."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.warnings: list[str] = []

    def disks(self) -> object:
        return [dataclasses.asdict(disk) for disk in disks.behind(DISK)]

    def facts(self) -> object:
        return list(planning.facts(SHARE, find()))

    def every_limit(self) -> object:
        """All of them, written, then changed, then lifted; and the directories when it is over."""
        share = limited(
            disk=DiskLimits(read=20 * MIB, write=10 * MIB, write_ops=500),
            memory=MemoryLimits(high=64 * MIB, max=128 * MIB),
            cpu=CpuLimits(CpuQuota(50_000, 100_000), 200),
            pids=50,
        )
        names = ("io.max", "memory.high", "memory.max", "cpu.max", "cpu.weight", "pids.max")
        groups = Groups("data", self.warnings.append)
        (planned,) = planning.plan(share, find()).groups
        groups.apply([planned])
        written = files(planned.directory, *names)
        (changed,) = planning.plan(limited(disk=DiskLimits(write=5 * MIB)), find()).groups
        groups.apply([changed])
        after = files(planned.directory, *names)
        asyncio.run(groups.close())
        return {"directory": planned.directory, "written": written, "changed": after, "left": self._left()}

    def a_weight_that_the_kernel_lacks(self) -> object:
        """This one has io.weight or not; both ways are right, and each is told apart."""
        outcomes = {}
        for choice in Unenforceable:
            groups = Groups("data", self.warnings.append)
            planned = planning.plan(limited(disk=DiskLimits(weight=300), unenforceable=choice), find()).groups
            try:
                groups.apply(planned)
                with contextlib.suppress(FileNotFoundError):
                    outcomes["file"] = (Path(planned[0].directory) / "io.weight").read_text().strip()
                outcomes[choice.value] = "; ".join(self.warnings) or "taken"
            except planning.CannotLimitError as error:
                outcomes[choice.value] = str(error)
            asyncio.run(groups.close())
        return {**outcomes, "left": self._left()}

    def a_group_of_our_own(self) -> object:
        """As systemd delegates one: our process is in it, and it has to leave it before controllers go down."""
        own = TREE / "service"
        own.mkdir()
        (TREE / "cgroup.subtree_control").write_text("+io +memory +pids +cpu")
        (own / "cgroup.procs").write_text(str(os.getpid()))
        groups = Groups("data", self.warnings.append)
        (planned,) = planning.plan(limited(pids=40, disk=DiskLimits(read=MIB)), find()).groups
        groups.apply([planned])
        child = subprocess.Popen(["sleep", "60"])
        groups.enter(child.pid)
        outcome: dict[str, object] = {
            "directory": planned.directory,
            "us": Path("/proc/self/cgroup").read_text().strip(),
            "child": Path(f"/proc/{child.pid}/cgroup").read_text().strip(),
            "again": planning.plan(limited(pids=41), find()).groups[0].directory,
            "pids.max": files(planned.directory, "pids.max"),
        }
        child.kill()
        child.wait()
        outcome["unremoved"] = asyncio.run(groups.close())
        (TREE / "cgroup.procs").write_text(str(os.getpid()))
        (own / LEAF).rmdir()
        own.rmdir()
        return outcome

    def a_part_of_a_budget(self) -> object:
        """A share that draws from 10 MiB/s, with half of it as its part, and what a process in its group gets."""
        budget = Membership("disk1", 100, Rates(), Rates(write=10 * MIB))
        groups = Groups("data", self.warnings.append)
        (planned,) = planning.plan(dataclasses.replace(SHARE, group=budget), find()).groups
        groups.apply([planned])
        whole = files(planned.directory, "io.max")
        groups.narrow(Rates(write=5 * MIB))
        half, before = files(planned.directory, "io.max"), groups.disk_usage()
        _, got = load(planned.directory, "write", "direct", 64 << 10, 2)
        used = {name: count - before[name] for name, count in groups.disk_usage().items()}
        groups.narrow(Rates())
        again = files(planned.directory, "io.max")
        asyncio.run(groups.close())
        return {"whole": whole, "half": half, "again": again, "got": got, "used": used, "left": self._left()}

    def a_share_in_service(self) -> object:
        """The command itself, a policy with limits, and a front end that writes with fsync and reads what is cold."""
        share, policy, socket = DISK / "share", Path("/run/data.toml"), Path("/run/fs.sock")
        share.mkdir()
        size = round(20 * self.seconds) * MIB
        (share / "there").write_bytes(os.urandom(size))
        forget(share / "there")
        text = f'[share]\nsource = "{share}"\ntag = "data"\nsocket = "{socket}"\n[sandbox]\nminimum = "userns"\n'
        text += '[limits.disk]\nread = "20MiB/s"\nwrite = '
        policy.write_text(f'{text}"10MiB/s"\n')
        command = [str(PROGRAM), "run", str(policy), "--control-dir", "/run/control"]
        with open("/run/log", "wb") as log:
            service = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while not socket.exists() and service.poll() is None:
                time.sleep(0.01)
            with FrontEnd.connect(socket, 120) as client:
                guest = Guest(client)
                workers = [pid for keeper in children(service.pid) for pid in children(keeper)]
                (worker,) = (pid for pid in workers if is_jailed(pid))
                group = Path(f"/proc/{worker}/cgroup").read_text().strip().removeprefix("0::")
                before = files(f"{TREE}{group}", "io.max")
                wrote = guest.write(b"written", size // 2, sync_every=4 * MIB) / MIB
                read = guest.read(b"there", size) / MIB
                policy.write_text(f'{text}"5MiB/s"\n')
                reload = [str(PROGRAM), "reload", "data", "--control-dir", "/run/control"]
                said = subprocess.run(reload, capture_output=True, text=True, check=False)
                after = files(f"{TREE}{group}", "io.max")
                slower = guest.write(b"slower", 10 * MIB, sync_every=MIB) / MIB
        finally:
            service.send_signal(signal.SIGTERM)
            status = service.wait()
        doctor = subprocess.run([str(PROGRAM), "doctor", "--as", "json"], capture_output=True, text=True, check=False)
        return {
            "log": Path("/run/log").read_text(),
            "group": group,
            "before": before,
            "after": after,
            "said": said.stdout + said.stderr,
            "wrote": wrote,
            "read": read,
            "slower": slower,
            "status": status,
            "left": self._left(),
            "doctor": json.loads(doctor.stdout),
        }

    def rates(self) -> object:
        """(limit, load, asked, got)"""
        rows = []
        with contextlib.ExitStack() as after:
            groups = Groups("data", self.warnings.append)
            after.callback(lambda: asyncio.run(groups.close()))

            def measure(key: str, way: str, how: str, block: int, asked: int) -> None:
                rate = asked if key.endswith("ops") else asked * MIB
                planned = planning.plan(limited(disk=DiskLimits(**{key: rate})), find()).groups
                groups.apply(planned)
                operations, mebibytes = load(planned[0].directory, way, how, block, self.seconds)
                got = operations if key.endswith("ops") else mebibytes
                rows.append((key, f"a process, {how}, {block >> 10} KiB", asked, got))

            for block in (4 << 10, 64 << 10, 1 << 20):
                measure("write", "write", "direct", block, 10)
                measure("read", "read", "direct", block, 20)
            measure("write", "write", "buffered", 64 << 10, 10)
            measure("write_ops", "write", "direct", 8 << 10, 200)
            measure("read_ops", "read", "direct", 8 << 10, 500)
            figures = groups.disk_figures()
        return {"rows": rows, "figures": figures}

    def _left(self) -> list[str]:
        return [str(found) for found in TREE.glob("virtiofs-sandbox*")]


def run(seconds: float, wanted: Sequence[str]) -> None:
    scenes = Scenes(seconds)
    for name in wanted:
        scene: Callable[[], object] = getattr(scenes, name)
        try:
            tell(name, scene())
        except Exception:  # noqa: BLE001 - the outcome of a scene, told to the test
            tell(name, {"failed": traceback.format_exc()})


def main() -> None:
    # devtmpfs is on /dev since the kernel started.
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys")):
        mount(kind, kind, target)
    # The host's are read-only here.
    for target in ("/run", "/tmp"):  # noqa: S108
        mount("tmpfs", "tmpfs", target)
    mount("cgroup2", "cgroup2", str(TREE))
    mount("ext4", "/dev/ubda", str(DISK))
    with (DISK / "there").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
        os.fsync(file.fileno())
    words = dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)
    run(float(words["seconds"]), words["scenes"].split(","))


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        os.sync()
        ctypes.CDLL(None).reboot(_POWER_OFF)
