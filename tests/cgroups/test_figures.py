"""What a group's own counters say of the disk, in the words of version 2 whichever version it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from virtiofs_sandbox.cgroups import planning
from virtiofs_sandbox.cgroups.groups import Groups
from virtiofs_sandbox.cgroups.hierarchies import find
from virtiofs_sandbox.policies.share import ControlLimits, DiskLimits, Share

from tests.cgroups.site import Site

MIB = 1 << 20
LOAD = Path(__file__).with_name("load.py")


def test_a_group_counts_what_its_processes_read_and_wrote(site: Site, tmp_path: Path) -> None:
    limits = ControlLimits(disk=DiskLimits(read=100 * MIB, write=100 * MIB), parent=site.parent)
    share = Share(name="figures", source=tmp_path, tag="data", control=limits)
    try:
        planned = planning.plan(share, find()).groups
    except planning.CannotLimitError as error:
        pytest.skip(str(error))
    warnings: list[str] = []
    groups = Groups("figures", warnings.append)
    groups.apply(planned)
    try:
        assert groups.disk_figures() in ({}, dict.fromkeys(groups.disk_figures(), dict.fromkeys(FIGURES, 0)))
        file = tmp_path / "there"
        for way in ("write", "read"):
            command = [sys.executable, str(LOAD), planned[0].directory, str(file), way, "direct", "65536", "0.5"]
            subprocess.run(command, check=True, capture_output=True)
        figures = list(groups.disk_figures().values())
        for name in ("rbytes", "wbytes"):
            assert sum(disk[name] for disk in figures) > MIB
        for name in ("rios", "wios"):
            assert sum(disk[name] for disk in figures) > 8
    finally:
        assert asyncio.run(groups.close()) == ()
    assert warnings == []
    assert site.left() == []


FIGURES = ("rbytes", "wbytes", "rios", "wios")
