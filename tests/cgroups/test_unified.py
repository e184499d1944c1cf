"""Control groups of version 2, by our code in a guest kernel that has them: a real disk, real limits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cgroups import in_guest
from tests.guest import hosted

ABOVE = 1.06
QUICK = (
    "disks",
    "facts",
    "every_limit",
    "a_weight_that_the_kernel_lacks",
    "a_group_of_our_own",
    "a_part_of_a_budget",
    "a_share_in_service",
)


def boot(work: Path, *scenes: str, seconds: float = 5.0) -> dict[str, Any]:
    """Runs *scenes* in a guest; what each came to, by name."""
    disk = work / "disk"
    with disk.open("wb") as file:
        file.truncate(300 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True, capture_output=True)
    printed = hosted.boot(
        work,
        "tests/cgroups/in_guest.py",
        "mem=384M",
        f"ubd0={disk}",
        f"seconds={seconds}",
        f"scenes={','.join(scenes)}",
    )
    lines = [line.partition(in_guest.MARK)[2] for line in printed.splitlines() if in_guest.MARK in line]
    outcomes = {name: json.loads(text) for name, _, text in (line.partition(": ") for line in lines)}
    assert set(outcomes) == set(scenes), printed[-6000:]
    for name, outcome in outcomes.items():
        assert not (isinstance(outcome, dict) and "failed" in outcome), f"{name}:\n{outcome['failed']}"
    return outcomes


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return boot(tmp_path_factory.mktemp("unified"), *QUICK, seconds=1.0)


def test_the_disk_and_the_hierarchy_are_found(outcomes: dict[str, Any]) -> None:
    assert [disk["name"] for disk in outcomes["disks"]] == ["ubda"]
    assert "io: version 2, below /sys/fs/cgroup" in outcomes["facts"]
    assert any(fact.startswith("disk behind /mnt: ") for fact in outcomes["facts"])


def test_every_limit_is_written_changed_and_lifted(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["every_limit"]
    assert outcome["directory"] == "/sys/fs/cgroup/virtiofs-sandbox/share-data"
    number, rates = outcome["written"].pop("io.max").split(" ", 1)
    assert rates == "rbps=20971520 wbps=10485760 riops=max wiops=500"
    assert outcome["written"] == {
        "memory.high": str(64 << 20),
        "memory.max": str(128 << 20),
        "cpu.max": "50000 100000",
        "cpu.weight": "200",
        "pids.max": "50",
    }
    assert outcome["changed"] == {
        "io.max": f"{number} rbps=max wbps=5242880 riops=max wiops=max",
        "memory.high": "max",
        "memory.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "pids.max": "max",
    }
    assert outcome["left"] == []


def test_a_file_that_the_kernel_lacks_is_refused_or_warned_of(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["a_weight_that_the_kernel_lacks"]
    if "file" in outcome:
        assert outcome == {"file": "default 300", "refuse": "taken", "warn": "taken", "left": []}
    else:
        for choice in ("refuse", "warn"):
            assert "limits.disk.weight is not taken by the kernel: there is no /sys/fs/cgroup/" in outcome[choice]
        assert outcome["left"] == []


def test_a_part_of_a_budget_holds_and_what_is_used_of_it_is_counted(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["a_part_of_a_budget"]
    assert " wbps=10485760 " in outcome["whole"]["io.max"]
    assert " wbps=5242880 " in outcome["half"]["io.max"]
    assert outcome["again"] == outcome["whole"]
    assert 3 < outcome["got"] < 5 * ABOVE
    assert outcome["used"]["write"] >= outcome["got"] * (1 << 20)
    assert outcome["used"]["write_ops"] > 0
    assert outcome["left"] == []


def test_in_a_group_of_our_own_we_make_way_for_the_shares(outcomes: dict[str, Any]) -> None:
    """Version 2 wants no processes in a group that gives controllers to those below it."""
    outcome = outcomes["a_group_of_our_own"]
    assert outcome["directory"] == "/sys/fs/cgroup/service/virtiofs-sandbox/share-data"
    assert outcome["us"] == "0::/service/virtiofs-sandbox-supervisor"
    assert outcome["child"] == "0::/service/virtiofs-sandbox/share-data"
    assert outcome["again"] == outcome["directory"], "a reload finds the same place"
    assert outcome["pids.max"] == {"pids.max": "40"}
    assert outcome["unremoved"] == []


@pytest.mark.slow
def test_a_disk_is_held_to_its_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of docs/limits-disk.md, for version 2."""
    outcome = boot(tmp_path, "rates")["rates"]
    with capsys.disabled():
        print()
        for key, who, asked, got in outcome["rows"]:
            said = key.replace("_", "-")
            print(
                f"| version 2, ext4 | `disk.{said}` | {who} | {asked} | {got:.1f} | {100 * (got / asked - 1):+.1f} % |"
            )
    assert [row for row in outcome["rows"] if not 0.5 * row[2] < row[3] < ABOVE * row[2]] == []
    (figures,) = outcome["figures"].values()
    assert figures["wbytes"] > 100 << 20
    assert figures["rbytes"] > 100 << 20


def test_a_share_in_service_is_held_by_its_group_and_a_reload_reaches_the_guest_that_writes(
    outcomes: dict[str, Any],
) -> None:
    outcome = outcomes["a_share_in_service"]
    assert outcome["group"] == "/virtiofs-sandbox/share-data", "where the worker is"
    assert outcome["before"]["io.max"].endswith(" rbps=20971520 wbps=10485760 riops=max wiops=max")
    assert outcome["after"]["io.max"].endswith(" rbps=20971520 wbps=5242880 riops=max wiops=max")
    assert "limits.disk.write 10MiB/s -> 5MiB/s" in outcome["said"]
    assert 1 < outcome["slower"] < 5 * ABOVE
    assert (outcome["status"], outcome["left"]) == (0, [])


def test_doctor_says_what_the_kernel_without_landlock_lacks(outcomes: dict[str, Any]) -> None:
    outcome = outcomes["a_share_in_service"]
    assert "(jail: userns," in outcome["log"]
    assert "Landlock is not available" in outcome["log"]
    assert outcome["doctor"]["tier"] == "userns"
    (landlock,) = (feature for feature in outcome["doctor"]["features"] if feature["name"] == "Landlock")
    assert landlock["state"] == "missing"
    assert landlock["lost"]
    assert landlock["remedy"]


@pytest.mark.slow
def test_a_share_in_service_gets_what_its_policy_allows_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = boot(tmp_path, "a_share_in_service", seconds=6.0)["a_share_in_service"]
    rows = (
        ("wrote", "write", "fsync every 4 MiB", 10),
        ("read", "read", "nothing cached", 20),
        ("slower", "write", "fsync every MiB, after a reload", 5),
    )
    with capsys.disabled():
        print()
        for key, limit, how, asked in rows:
            got = outcome[key]
            off = 100 * (got / asked - 1)
            print(
                f"| version 2, ext4 | `disk.{limit}` | a guest, {how}, 128 KiB | {asked} | {got:.1f} | {off:+.1f} % |"
            )
    assert [key for key, _, _, asked in rows if not 0.5 * asked < outcome[key] < ABOVE * asked] == []
