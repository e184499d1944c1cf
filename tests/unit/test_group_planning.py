"""From limits and hierarchies to groups: which hierarchy, which place in it, which files, and what cannot be held."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from virtiofs_sandbox.cgroups import bounds, planning, settings
from virtiofs_sandbox.cgroups.hierarchies import Hierarchy, parse
from virtiofs_sandbox.confine.plan import GroupSetting
from virtiofs_sandbox.policies.share import (
    ControlLimits,
    CpuLimits,
    CpuQuota,
    DiskLimits,
    MemoryLimits,
    Share,
    Unenforceable,
)

EVERYTHING = ControlLimits(
    disk=DiskLimits(read=20 << 20, write=10 << 20, read_ops=500, write_ops=200, weight=300, latency=0.005),
    memory=MemoryLimits(high=64 << 20, max=128 << 20),
    cpu=CpuLimits(CpuQuota(50_000, 100_000), 200),
    pids=50,
)
WARN = Unenforceable.WARN


def tree(directory: Path, controllers: str) -> Hierarchy:
    """A hierarchy of version 2 that looks like one, at *directory*."""
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.controllers").write_text(controllers)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (directory / name).write_text("")
    return Hierarchy(2, str(directory), "/", str(directory), frozenset(controllers.split()))


def v1(directory: Path, controller: str) -> Hierarchy:
    directory.mkdir(exist_ok=True)
    (directory / "cgroup.procs").write_text("")
    return Hierarchy(1, str(directory), "/", str(directory), frozenset({controller}))


def share(source: Path, limits: ControlLimits) -> Share:
    return Share(name="data", source=source, tag="data", control=limits)


# Which hierarchies there are.


def test_a_hybrid_host_has_each_controller_in_its_own_hierarchy() -> None:
    mountinfo = (
        "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "32 30 0:28 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
        "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
        "35 30 0:28 / /elsewhere rw - cgroup cgroup rw,blkio\n"
    )
    membership = "4:blkio:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/user.slice\n"
    found = {hierarchy.mount: hierarchy for hierarchy in parse(mountinfo, membership)}
    assert {mount.rpartition("/")[2] for mount in found} == {"unified", "blkio", "cpu,cpuacct"}
    blkio = found["/sys/fs/cgroup/blkio"]
    assert (blkio.version, blkio.own, blkio.controllers) == (1, "/sys/fs/cgroup/blkio/a/b", frozenset({"io"}))
    assert found["/sys/fs/cgroup/cpu,cpuacct"].controllers == {"cpu"}
    assert found["/sys/fs/cgroup/unified"].own == "/sys/fs/cgroup/unified/user.slice"


def test_in_a_container_a_group_is_found_below_what_is_mounted() -> None:
    (one,) = parse(
        "31 30 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/docker/abc/virtiofs-sandbox-supervisor\n"
    )
    assert one.own == "/sys/fs/cgroup", "what the supervisor made room for is the place, not where it went"
    assert one.directory("/docker/abc/x") == "/sys/fs/cgroup/x"
    assert one.directory("/elsewhere") == "/sys/fs/cgroup"


# Which groups and files.


def test_without_limits_there_are_no_groups(tmp_path: Path) -> None:
    assert planning.plan(share(tmp_path, ControlLimits()), ()) == planning.Planned((), ())


def test_version_2_has_one_group_for_everything(tmp_path: Path) -> None:
    hierarchy = tree(tmp_path / "v2", "cpuset cpu io memory pids")
    (group,) = planning.plan(share(tmp_path, EVERYTHING), [hierarchy]).groups
    assert group.directory == f"{hierarchy.mount}/virtiofs-sandbox/share-data"
    assert group.controllers == ("io", "memory", "cpu", "pids")
    texts = [(setting.file, setting.text) for setting in group.settings]
    rates = [text for file, text in texts if file == "io.max"]
    assert rates
    assert all(text.endswith(" rbps=20971520 wbps=10485760 riops=500 wiops=200") for text in rates)
    targets = [text for file, text in texts if file == "io.latency"]
    assert len(targets) == len(rates)
    assert all(text.endswith(" target=5000") for text in targets)
    assert [pair for pair in texts if pair[0] not in ("io.max", "io.latency")] == [
        ("io.weight", "default 300"),
        ("memory.high", str(64 << 20)),
        ("memory.max", str(128 << 20)),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "200"),
        ("pids.max", "50"),
    ]


def test_version_1_has_a_group_in_each_hierarchy_and_says_what_it_cannot_do(tmp_path: Path) -> None:
    found = [v1(tmp_path / name, name) for name in ("io", "memory", "cpu", "pids")]
    limits = dataclasses.replace(EVERYTHING, unenforceable=WARN)
    planned = planning.plan(share(tmp_path, limits), found)
    assert [group.controllers for group in planned.groups] == [("blkio",), ("memory",), ("cpu",), ("pids",)]
    files = {setting.file for group in planned.groups for setting in group.settings}
    assert files == {
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_bps_device",
        "blkio.throttle.read_iops_device",
        "blkio.throttle.write_iops_device",
        "memory.limit_in_bytes",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpu.shares",
        "pids.max",
    }
    said = "\n".join(planned.warnings)
    assert "limits.disk.weight is not held" in said
    assert "limits.disk.latency is not held" in said
    assert "limits.memory.high is not held" in said
    assert "not what the kernel writes back by itself later" in said
    assert len(planned.warnings) == 4


def test_version_2_is_taken_where_it_has_the_controller(tmp_path: Path) -> None:
    found = [v1(tmp_path / "one", "memory"), tree(tmp_path / "two", "memory")]
    (group,) = planning.plan(share(tmp_path, ControlLimits(memory=MemoryLimits(max=1 << 30))), found).groups
    assert group.base == str(tmp_path / "two")


def test_every_disk_behind_a_tree_is_limited() -> None:
    made = list(settings.made(ControlLimits(disk=DiskLimits(write=1 << 20)), "io", 2, ["8:0", "8:16"]))
    assert [setting.text.split()[0] for setting in made if isinstance(setting, GroupSetting)] == ["8:0", "8:16"]


def test_two_members_of_a_disk_array_have_a_line_each_in_version_1() -> None:
    made = list(settings.made(ControlLimits(disk=DiskLimits(write=1 << 20)), "io", 1, ["8:0", "8:16"]))
    assert [setting.text for setting in made if isinstance(setting, GroupSetting)] == ["8:0 1048576", "8:16 1048576"]


# What cannot be held.


def test_without_any_hierarchy_each_limit_is_refused_by_its_key_or_warned_of(tmp_path: Path) -> None:
    limits = ControlLimits(memory=MemoryLimits(max=1 << 30), pids=50)
    with pytest.raises(planning.CannotLimitError, match=r"limits\.memory\.max cannot be held here: .* memory .*warn"):
        planning.plan(share(tmp_path, limits), ())
    planned = planning.plan(share(tmp_path, dataclasses.replace(limits, unenforceable=WARN)), ())
    assert planned.groups == ()
    assert [sentence.split()[0] for sentence in planned.warnings] == ["limits.memory.max", "limits.pids.max"]


def test_a_group_whose_processes_cannot_be_read_is_not_taken_for_our_own(tmp_path: Path) -> None:
    hierarchy = tree(tmp_path / "v2", "pids")
    own = tree(tmp_path / "v2/own", "pids")
    (tmp_path / "v2/own/cgroup.procs").unlink()
    (tmp_path / "v2/own/cgroup.procs").mkdir()
    inner = dataclasses.replace(hierarchy, own=own.mount)
    (group,) = planning.plan(share(tmp_path, ControlLimits(pids=50)), [inner]).groups
    assert group.base == hierarchy.mount


def test_a_group_with_processes_of_others_is_left_to_them(tmp_path: Path) -> None:
    hierarchy = tree(tmp_path / "v2", "pids")
    own = tree(tmp_path / "v2/own", "pids")
    inner = dataclasses.replace(hierarchy, own=own.mount)
    procs = tmp_path / "v2/own/cgroup.procs"
    for pids, base in ((f"{os.getpid()}\n", own.mount), (f"{os.getpid()}\n1\n", hierarchy.mount)):
        procs.write_text(pids)
        (group,) = planning.plan(share(tmp_path, ControlLimits(pids=50)), [inner]).groups
        assert group.base == base


def test_a_parent_of_the_site_that_is_not_there_is_said(tmp_path: Path) -> None:
    hierarchy = v1(tmp_path / "pids", "pids")
    with pytest.raises(planning.CannotLimitError, match=r"there is no group .*/pids/machine.slice; .*Delegate=yes"):
        planning.plan(share(tmp_path, ControlLimits(pids=50, parent="/machine.slice")), [hierarchy])


# Bounds of the groups around.


@pytest.mark.parametrize(
    ("file", "above", "text", "exceeded"),
    [
        ("pids.max", "max", "50", False),
        ("pids.max", "50", "50", False),
        ("pids.max", "49", "50", True),
        ("memory.max", "1048576", "1048577", True),
        ("memory.limit_in_bytes", "9223372036854771712", "1048577", False),
        ("memory.limit_in_bytes", "1048576", "1048577", True),
        ("cpu.max", "max 100000", "50000 100000", False),
        ("cpu.max", "50000 100000", "10000 10000", True),
        ("cpu.max", "50000 100000", "5000 10000", False),
        ("io.max", "8:0 rbps=max wbps=100 riops=max wiops=max", "8:0 rbps=5 wbps=101 riops=max wiops=max", True),
        ("io.max", "8:0 rbps=max wbps=100 riops=max wiops=max", "8:16 rbps=5 wbps=101 riops=max wiops=max", False),
        ("io.max", "8:0 rbps=max wbps=100 riops=max wiops=max", "8:0 rbps=5 wbps=max riops=max wiops=max", False),
        ("io.max", "", "8:0 rbps=5 wbps=max riops=max wiops=max", False),
        ("blkio.throttle.read_bps_device", "8:0 100\n8:16 200", "8:16 201", True),
        ("blkio.throttle.read_bps_device", "8:0 100\n8:16 200", "8:16 200", False),
        ("cpu.shares", "2", "1024", False),
    ],
)
def test_a_limit_above_that_of_a_group_around_is_found(
    tmp_path: Path, file: str, above: str, text: str, exceeded: bool
) -> None:
    inner = tmp_path / "outer/inner"
    inner.mkdir(parents=True)
    for directory in (inner, inner.parent):
        (directory / "cgroup.procs").write_text("")
    (inner.parent / file).write_text(above + "\n")
    said = bounds.exceeded(str(inner), GroupSetting("limits.x", file, text, ""))
    assert (said is not None) == exceeded
    assert said is None or str(inner.parent) in said


# Names.


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("data", "share-data"),
        ("cgroup.procs", "share-cgroup.procs"),
        ("a/b ü", "share-a%2Fb%20%C3%BC"),
        ("..", "share-.."),
        ("%2F", "share-%252F"),
    ],
)
def test_a_share_s_name_is_escaped_into_one_component(name: str, group: str) -> None:
    assert planning.group_name(name) == group


def test_long_names_stay_apart() -> None:
    one, other = (planning.group_name("ü" * 250 + last) for last in "ab")
    assert one != other
    assert max(len(one), len(other)) <= 255
