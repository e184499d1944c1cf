"""Control groups as cgroupspy's nodes, with what that library lacks: version 2, and write throttling of version 1.

Nodes are made by hand, one for each directory that is ours: its Tree would walk the whole hierarchy and trip over
groups of others that vanish meanwhile. Loaded by the supervisor alone, once the zygote is forked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from cgroupspy import controllers, interfaces
from cgroupspy.contenttypes import DeviceThrottle
from cgroupspy.nodes import Node
from virtiofs_sandbox.cgroups.hierarchies import UNIFIED


class CountsByDevice(interfaces.BaseFileInterface):  # type: ignore[misc]  # the library has no types
    """Lines of "MAJOR:MINOR name=value ...", as io.stat and io.max have; values that are no numbers stay away."""

    def sanitize_get(self, value: str) -> dict[str, dict[str, int]]:
        return {
            line.split()[0]: {
                name: int(count)
                for name, _, count in (pair.partition("=") for pair in line.split()[1:])
                if count.isdecimal()
            }
            for line in value.splitlines()
            if line.strip()
        }


class IntegerOrMax(interfaces.BaseFileInterface):  # type: ignore[misc]
    """A number, or None for "max"."""

    def sanitize_get(self, value: str) -> int | None:
        return None if value == "max" else int(value)

    def sanitize_set(self, value: int | None) -> str:
        return "max" if value is None else str(value)


class WordsFile(interfaces.BaseFileInterface):  # type: ignore[misc]
    """Words that are written with + or - before them."""

    def sanitize_get(self, value: str) -> frozenset[str]:
        return frozenset(value.split())


class UnifiedController(controllers.Controller):  # type: ignore[misc]
    """Every controller of a group of version 2: there they share one directory."""

    available = WordsFile("cgroup.controllers", readonly=True)
    subtree_control = WordsFile("cgroup.subtree_control")
    events = interfaces.DictFile("cgroup.events", readonly=True)
    kill = interfaces.FlagFile("cgroup.kill", writeonly=True)
    io_max = CountsByDevice("io.max")
    io_latency = CountsByDevice("io.latency")
    io_stat = CountsByDevice("io.stat", readonly=True)
    memory_high = IntegerOrMax("memory.high")
    memory_max = IntegerOrMax("memory.max")
    pids_max = IntegerOrMax("pids.max")
    cpu_weight = interfaces.IntegerFile("cpu.weight")


class Operations(interfaces.BaseFileInterface):  # type: ignore[misc]
    """Lines of "MAJOR:MINOR Read N" and Write, as the counters of version 1 have them; sums stay away."""

    def sanitize_get(self, value: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for number, way, count in (line.split() for line in value.splitlines() if line.count(" ") == 2):
            found.setdefault(number, {})[way] = int(count)
        return found


class BlkIOController(controllers.BlkIOController):  # type: ignore[misc]
    """The library's names of the two files for writes end in a blank, and no such file is there."""

    throttle_write_bps_device = interfaces.TypedFile(
        "blkio.throttle.write_bps_device", contenttype=DeviceThrottle, many=True
    )
    throttle_write_iops_device = interfaces.TypedFile(
        "blkio.throttle.write_iops_device", contenttype=DeviceThrottle, many=True
    )
    throttle_io_service_bytes = Operations("blkio.throttle.io_service_bytes", readonly=True)
    throttle_io_serviced = Operations("blkio.throttle.io_serviced", readonly=True)


class PidsController(controllers.Controller):  # type: ignore[misc]
    """Not in the library."""

    pids_max = IntegerOrMax("pids.max")


class GroupNode(Node):  # type: ignore[misc]
    """One directory; its `controller` reads and writes the files in it."""

    def __init__(self, directory: str, version: int, controllers_there: tuple[str, ...] = ()) -> None:
        self._kind = _kind(version, controllers_there)
        super().__init__(os.fsencode(directory))

    def _get_controller(self) -> controllers.Controller:
        return self._kind(self)


_V1: Mapping[str, type] = {
    "blkio": BlkIOController,
    "memory": controllers.MemoryController,
    "cpu": controllers.CpuController,
    "pids": PidsController,
}


def _kind(version: int, controllers_there: tuple[str, ...]) -> type:
    if version == UNIFIED:
        return UnifiedController
    return next((_V1[name] for name in controllers_there if name in _V1), controllers.Controller)
