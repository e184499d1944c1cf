"""From a directory to the disks that limits bind on, on trees of sysfs as kernels lay them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from virtiofs_sandbox.cgroups.disks import Disk, NoDiskError, behind, of_device, of_mount
from virtiofs_sandbox.cgroups.hierarchies import Mount, mounts

# Each line is one path of a recorded /sys: a file with its text, or a link with where it leads (relative, as there).
TREES = Path(__file__).with_name("sysfs")


@pytest.fixture
def sysfs(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for line in (TREES / f"{request.param}.txt").read_text(encoding="ascii").splitlines():
        if not line or line.startswith("#"):
            continue
        name, kind, value = line.split(" ", 2)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "->":
            path.symlink_to(value)
        else:
            path.write_text(f"{value}\n")
    return tmp_path


def numbers(disks: tuple[Disk, ...]) -> list[str]:
    return [disk.number for disk in disks]


@pytest.mark.parametrize(
    ("sysfs", "device", "found", "way"),
    [
        ("partition", "8:0", ["8:0"], "sda"),
        ("partition", "8:2", ["8:0"], "sda2 is a partition of sda"),
        ("nvme", "259:3", ["259:0"], "nvme0n1p2 is a partition of nvme0n1"),
        ("lvm", "253:1", ["8:0"], "dm-1 is made of sda3 is a partition of sda"),
        (
            "crypt-on-lvm-on-two-disks",
            "253:2",
            ["8:0", "8:16"],
            "dm-2 is made of dm-0 is made of sda1 is a partition of sda",
        ),
        ("raid", "9:127", ["8:0", "8:16"], "md127 is made of sda1 is a partition of sda"),
        ("raid", "259:0", ["8:0", "8:16"], "md127p1 is a partition of md127 is made of sda1 is a partition of sda"),
        ("loop", "7:0", ["7:0"], "loop0"),
        ("loop", "259:1", ["7:0"], "loop0p1 is a partition of loop0"),
    ],
    indirect=["sysfs"],
)
def test_a_device_leads_to_the_whole_disks_beneath(sysfs: Path, device: str, found: list[str], way: str) -> None:
    disks = of_device(device, sysfs)
    assert numbers(disks) == found
    assert disks[0].way == way


@pytest.mark.parametrize("sysfs", ["partition"], indirect=True)
def test_a_device_that_is_not_there_is_an_error_by_its_number(sysfs: Path) -> None:
    with pytest.raises(NoDiskError, match="no block device 8:77"):
        of_device("8:77", sysfs)


@pytest.mark.parametrize("sysfs", ["btrfs"], indirect=True)
def test_btrfs_leads_to_every_device_it_is_on(sysfs: Path) -> None:
    disks = of_mount(Mount(1, "/@home", "/home", "btrfs", "/dev/sda2", ("rw",)), sysfs)
    assert numbers(disks) == ["8:0", "8:16"]
    assert disks[1].way == "btrfs on sdb"
    with pytest.raises(NoDiskError, match="/dev/sdz"):
        of_mount(Mount(1, "/", "/mnt", "btrfs", "/dev/sdz", ("rw",)), sysfs)


def test_overlay_leads_to_the_disks_of_its_layers(tmp_path: Path) -> None:
    below = behind(tmp_path)
    options = ("rw", f"lowerdir={tmp_path}:{tmp_path}", f"upperdir={tmp_path}", "workdir=/nowhere")
    assert of_mount(Mount(1, "/", "/m", "overlay", "overlay", options)) == below
    assert of_mount(Mount(1, "/", "/m", "overlay", "overlay", ("rw", f"lowerdir+={tmp_path}"))) == below
    with pytest.raises(NoDiskError, match="its layer /nowhere/lower is not seen from here"):
        of_mount(Mount(1, "/", "/m", "overlay", "overlay", ("rw", "lowerdir=/nowhere/lower")))
    with pytest.raises(NoDiskError, match="layers are not told"):
        of_mount(Mount(1, "/", "/m", "overlay", "overlay", ("rw",)))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("tmpfs", "in memory"),
        ("nfs4", "across a network"),
        ("9p", "across a network"),
        ("fuse.sshfs", "another program"),
        ("fuseblk", "another program"),
        ("virtiofs", "another program"),
        ("zfs", "its own threads"),
        ("new-fs", "not known"),
    ],
)
def test_where_no_disk_can_be_limited_the_reason_is_said(kind: str, why: str) -> None:
    with pytest.raises(NoDiskError, match=f"it is on {kind}: .*{why}"):
        of_mount(Mount(1, "/", "/m", kind, "none", ()))


def test_a_directory_in_memory_has_no_disk() -> None:
    with pytest.raises(NoDiskError, match="it is on tmpfs"):
        behind(Path("/dev/shm"))  # noqa: S108 - the one place that is in memory everywhere


def test_the_table_of_mounts_is_read_with_its_escapes_and_optional_fields() -> None:
    text = (
        "36 35 0:31 /@a\\040b /mnt/x\\011y rw,noatime shared:1 master:2 - btrfs /dev/sda2 rw,subvol=/@a\\040b\n"
        "37 35 0:32 / /m rw - tmpfs  rw\n"
    )
    first, second = mounts(text)
    assert first == Mount(36, "/@a b", "/mnt/x\ty", "btrfs", "/dev/sda2", ("rw", "subvol=/@a b"))
    assert (second.kind, second.source, second.options) == ("tmpfs", "", ("rw",))


def test_here_a_file_system_of_a_device_leads_to_disks_that_the_kernel_knows(tmp_path: Path) -> None:
    try:
        disks = behind(tmp_path)
    except NoDiskError as error:
        pytest.skip(str(error))
    for disk in disks:
        assert os.path.exists(f"/sys/dev/block/{disk.number}")
        assert not os.path.exists(f"/sys/dev/block/{disk.number}/partition")
