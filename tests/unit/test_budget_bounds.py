"""What a group's budget, and a part of it, make of the limits of a share: requests, disks, and what cannot be held."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.cgroups import planning
from virtiofs_sandbox.cgroups.groups import Groups, _Held
from virtiofs_sandbox.cgroups.narrowing import narrowed
from virtiofs_sandbox.cgroups.nodes import GroupNode
from virtiofs_sandbox.cgroups.planning import CannotLimitError
from virtiofs_sandbox.confine.plan import ControlGroup, GroupSetting
from virtiofs_sandbox.policies.bounding import bounded, bounded_disk
from virtiofs_sandbox.policies.share import (
    ControlLimits,
    DiskLimits,
    Membership,
    Rates,
    RequestLimits,
    Share,
    Unenforceable,
)
from virtiofs_sandbox.supervisor.sharing import Sharing

MIB = 1 << 20
GROUP = Membership("disk1", 100, Rates(write=8 * MIB, metadata_ops=500), Rates(read=4 * MIB))
SHARE = Share(name="data", source=Path("/srv/data"), tag="data", group=GROUP)
MAX = "max"


def test_a_share_in_no_group_keeps_what_it_has() -> None:
    alone = dataclasses.replace(SHARE, group=None, limits=RequestLimits(read=MIB))
    assert bounded(alone) is alone
    assert bounded_disk(alone) == DiskLimits()


def test_the_lower_of_own_limit_and_part_holds_and_without_a_part_the_budget_does() -> None:
    assert bounded(SHARE).limits == RequestLimits(write=8 * MIB, metadata_ops=500)
    own = dataclasses.replace(SHARE, limits=RequestLimits(write=2 * MIB, read=MIB, burst=0.5))
    part = Rates(write=3 * MIB, metadata_ops=100)
    assert bounded(own, part).limits == RequestLimits(write=2 * MIB, read=MIB, metadata_ops=100, burst=0.5)
    assert bounded(own, Rates(write=MIB)).limits == RequestLimits(write=MIB, read=MIB, burst=0.5)
    assert bounded_disk(SHARE) == DiskLimits(read=4 * MIB)


@given(rate=st.integers(64, 1 << 40), among=st.integers(1, 64), part=st.none() | st.integers(64, 1 << 40))
def test_the_workers_of_a_share_are_together_let_no_more_than_it_is(rate: int, among: int, part: int | None) -> None:
    budget = Membership("disk1", 100, Rates(read=1 << 40), Rates())
    own = dataclasses.replace(SHARE, limits=RequestLimits(read=rate, burst=0.5), group=budget)
    each = bounded(own, None if part is None else Rates(read=part), among).limits
    assert each is not None
    assert each.read is not None
    most = rate if part is None else min(rate, part)
    assert most - among < each.read * among <= most
    assert (each.burst, each.write) == (0.5, None)


def group(*settings: GroupSetting, version: int = 1) -> ControlGroup:
    return ControlGroup("/base", "/base/x/share-data", version, ("io",), settings, refuse=True)


def test_a_part_lowers_the_rates_of_every_disk_in_both_versions_and_raises_none() -> None:
    part = Rates(read=1000, write=2000)
    first = group(
        GroupSetting("limits.disk.read", "blkio.throttle.read_bps_device", "8:0 4000", "8:0 0"),
        GroupSetting("limits.disk.write", "blkio.throttle.write_bps_device", "8:16 500", "8:16 0"),
        GroupSetting("limits.pids.max", "pids.max", "50", MAX),
    )
    assert [setting.text for setting in narrowed(first, part).settings] == ["8:0 1000", "8:16 500", "50"]
    second = group(
        GroupSetting("limits.disk.read", "io.max", "8:0 rbps=4000 wbps=max riops=10 wiops=max", "8:0 rbps=max"),
        GroupSetting("limits.disk.weight", "io.weight", "default 300", "default 100"),
        version=2,
    )
    assert [setting.text for setting in narrowed(second, part).settings] == [
        "8:0 rbps=1000 wbps=max riops=10 wiops=max",
        "default 300",
    ]
    assert narrowed(second, Rates()) == second


def test_a_budget_of_the_disk_that_nothing_here_holds_is_refused_by_the_group_s_name(tmp_path: Path) -> None:
    share = dataclasses.replace(SHARE, source=tmp_path)
    with pytest.raises(
        CannotLimitError, match=r"^limits\.disk\.read \(as the group disk1 has it\) cannot be held here"
    ):
        planning.plan(share, ())


def test_what_was_used_of_a_disk_is_read_in_either_version(tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text(
        "8:0 rbytes=100 wbytes=20 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=50 wbytes=70 rios=9 wios=1\n"
    )
    (tmp_path / "blkio.throttle.io_service_bytes").write_text("8:0 Read 100\n8:0 Write 70\n8:0 Total 170\nTotal 170\n")
    (tmp_path / "blkio.throttle.io_serviced").write_text("8:0 Read 9\n8:16 Read 2\n8:0 Write 4\nTotal 15\n")
    for version, controller in ((1, "blkio"), (2, "io")):
        groups = Groups("data", pytest.fail)
        held = ControlGroup("/", str(tmp_path), version, (controller,), (), refuse=True)
        groups._held[str(tmp_path)] = _Held(held, GroupNode(held.directory, version, held.controllers), -1)
        assert groups.disk_usage() == {"read": 100, "write": 70, "read_ops": 9, "write_ops": 4}


@pytest.mark.parametrize("unenforceable", list(Unenforceable))
def test_a_group_that_cannot_be_joined_is_refused_or_warned_of(tmp_path: Path, unenforceable: Unenforceable) -> None:
    (tmp_path / "groups").write_text("in the way")
    warnings: list[str] = []
    sharing = Sharing(tmp_path / "groups", warnings.append)
    share = dataclasses.replace(SHARE, control=ControlLimits(unenforceable=unenforceable))
    if unenforceable is Unenforceable.REFUSE:
        with pytest.raises(CannotLimitError, match=r"^limits\.group\.name: the group disk1 cannot be joined: "):
            sharing.follow(share)
        return
    sharing.follow(share)
    (warning,) = warnings
    assert warning.startswith("limits.group.name is not held: the group disk1 cannot be joined: ")
    assert sharing.part is None
    assert sharing.bounded(share).limits == RequestLimits(write=8 * MIB, metadata_ops=500)


def test_a_share_goes_from_group_to_group_and_out_and_leaves_nothing(tmp_path: Path) -> None:
    sharing = Sharing(tmp_path / "groups", pytest.fail)
    sharing.follow(SHARE)
    assert sharing.requests == Rates(write=8 * MIB, metadata_ops=500)
    assert sharing.disk == Rates(read=4 * MIB)
    sharing.follow(dataclasses.replace(SHARE, group=dataclasses.replace(GROUP, name="disk2")))
    assert [path.name for path in (tmp_path / "groups").iterdir()] == ["disk2"]
    sharing.follow(dataclasses.replace(SHARE, group=None))
    assert sharing.part is None
    assert list((tmp_path / "groups").iterdir()) == []
    sharing.close()
