"""What is written to which file of a control group for each limit, in both versions of the interface.

Source: the kernel's cgroup-v2.rst, and cgroup-v1/{blkio-controller,memory,pids}.rst.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virtiofs_sandbox.cgroups.hierarchies import UNIFIED
from virtiofs_sandbox.confine.plan import GroupSetting
from virtiofs_sandbox.policies.share import ControlLimits, CpuLimits, DiskLimits, MemoryLimits

DEFAULT_WEIGHT = 100
_DEFAULT_SHARES = 1024
_LEAST_SHARES = 2


@dataclass(frozen=True)
class Impossible:
    """The interface has nothing for *key*; *reason* is half a sentence."""

    key: str
    reason: str


Made = GroupSetting | Impossible


def keys(limits: ControlLimits, controller: str) -> tuple[str, ...]:
    """The keys of the policy that need *controller*."""
    disk, memory, cpu = limits.disk, limits.memory, limits.cpu
    said: dict[str, dict[str, object]] = {
        "io": {**disk_rates(disk), "limits.disk.weight": disk.weight, "limits.disk.latency": disk.latency},
        "memory": {"limits.memory.high": memory.high, "limits.memory.max": memory.max},
        "cpu": {"limits.cpu.max": cpu.max, "limits.cpu.weight": cpu.weight},
        "pids": {"limits.pids.max": limits.pids},
    }
    return tuple(key for key, value in said[controller].items() if value is not None)


def made(limits: ControlLimits, controller: str, version: int, disks: Sequence[str]) -> Iterator[Made]:
    """What is to be written for *controller*, in order; *disks* are "MAJOR:MINOR" each."""
    unified = version == UNIFIED
    match controller:
        case "io":
            yield from _io(limits.disk, disks) if unified else _blkio(limits.disk, disks)
        case "memory":
            yield from _memory(limits.memory, unified=unified)
        case "cpu":
            yield from _cpu(limits.cpu) if unified else _cpu_v1(limits.cpu)
        case "pids":
            if limits.pids is not None:
                yield GroupSetting("limits.pids.max", "pids.max", str(limits.pids), "max")


def disk_rates(disk: DiskLimits) -> dict[str, int]:
    """Those that there are, by key."""
    rates = {
        "limits.disk.read": disk.read,
        "limits.disk.write": disk.write,
        "limits.disk.read-ops": disk.read_ops,
        "limits.disk.write-ops": disk.write_ops,
    }
    return {key: rate for key, rate in rates.items() if rate is not None}


def disk_by_disk(disk: DiskLimits) -> tuple[str, ...]:
    """The keys of what is said of each disk by its number."""
    latency = () if disk.latency is None else ("limits.disk.latency",)
    return (*disk_rates(disk), *latency)


# By the kernel's names: of one line in io.max, and of a file each.
UNIFIED_RATES = {"rbps": "read", "wbps": "write", "riops": "read_ops", "wiops": "write_ops"}
THROTTLES = {
    "read": "blkio.throttle.read_bps_device",
    "write": "blkio.throttle.write_bps_device",
    "read_ops": "blkio.throttle.read_iops_device",
    "write_ops": "blkio.throttle.write_iops_device",
}


def _io(disk: DiskLimits, disks: Sequence[str]) -> Iterator[Made]:
    names = {name: getattr(disk, field) for name, field in UNIFIED_RATES.items()}
    rates = disk_rates(disk)
    for number in disks if rates else ():
        # All four every time: what the policy does not limit is lifted by the same line.
        text = " ".join(f"{name}={'max' if rate is None else rate}" for name, rate in names.items())
        lift = " ".join(f"{name}=max" for name in names)
        yield GroupSetting(", ".join(rates), "io.max", f"{number} {text}", f"{number} {lift}")
    if disk.weight is not None:
        yield GroupSetting("limits.disk.weight", "io.weight", f"default {disk.weight}", f"default {DEFAULT_WEIGHT}")
    for number in disks if disk.latency is not None else ():
        microseconds = round((disk.latency or 0) * 1_000_000)
        text, lift = f"{number} target={microseconds}", f"{number} target=max"
        yield GroupSetting("limits.disk.latency", "io.latency", text, lift)


def _blkio(disk: DiskLimits, disks: Sequence[str]) -> Iterator[Made]:
    for key, rate in disk_rates(disk).items():
        for number in disks:
            yield GroupSetting(key, THROTTLES[_field(key)], f"{number} {rate}", f"{number} 0")
    if disk.weight is not None:
        yield Impossible("limits.disk.weight", "control groups of version 1 have no weight that every scheduler knows")
    if disk.latency is not None:
        yield Impossible("limits.disk.latency", "control groups of version 1 promise no time")


def _field(key: str) -> str:
    return key.removeprefix("limits.disk.").replace("-", "_")


def _memory(memory: MemoryLimits, *, unified: bool) -> Iterator[Made]:
    if memory.high is not None:
        if unified:
            yield GroupSetting("limits.memory.high", "memory.high", str(memory.high), "max")
        else:
            yield Impossible(
                "limits.memory.high", "control groups of version 1 have no such mark; limits.memory.max holds"
            )
    if memory.max is not None:
        file, lift = ("memory.max", "max") if unified else ("memory.limit_in_bytes", "-1")
        yield GroupSetting("limits.memory.max", file, str(memory.max), lift)


def _cpu(cpu: CpuLimits) -> Iterator[Made]:
    if cpu.max is not None:
        yield GroupSetting("limits.cpu.max", "cpu.max", f"{cpu.max.quota} {cpu.max.period}", "max 100000")
    if cpu.weight is not None:
        yield GroupSetting("limits.cpu.weight", "cpu.weight", str(cpu.weight), str(DEFAULT_WEIGHT))


def _cpu_v1(cpu: CpuLimits) -> Iterator[Made]:
    if cpu.max is not None:
        yield GroupSetting("limits.cpu.max", "cpu.cfs_period_us", str(cpu.max.period), "100000")
        yield GroupSetting("limits.cpu.max", "cpu.cfs_quota_us", str(cpu.max.quota), "-1")
    if cpu.weight is not None:
        shares = max(_LEAST_SHARES, cpu.weight * _DEFAULT_SHARES // DEFAULT_WEIGHT)
        yield GroupSetting("limits.cpu.weight", "cpu.shares", str(shares), str(_DEFAULT_SHARES))
