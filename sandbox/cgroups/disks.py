"""From a directory to the disks behind it, as the limits of control groups take them: whole disks by number.

A partition has no queue of its own, so its disk is limited; device-mapper and md devices pass requests on, so what is
beneath them is, each member with the whole limit. File systems that span devices or other file systems are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.cgroups.hierarchies import Mount, mounts

SYSFS = Path("/sys")
# st_dev of file systems that are on no single device has this major number.
_ANONYMOUS = 0
_MAX_DEPTH = 16
_IN_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs", "rootfs")
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "lustre", "ocfs2", "gfs2")


class NoDiskError(Exception):
    """No limit on a disk can bind there; str() is half a sentence that says why."""


@dataclass(frozen=True)
class Disk:
    """*number* is "MAJOR:MINOR"; *way* says how it was come to, from the file system's own device on."""

    number: str
    name: str
    way: str


def behind(directory: Path, sysfs: Path = SYSFS) -> tuple[Disk, ...]:
    """The disks that take the reads and writes of *directory*. Raises NoDiskError, OSError."""
    return _distinct(_of_directory(directory, sysfs, 0))


def of_device(number: str, sysfs: Path = SYSFS) -> tuple[Disk, ...]:
    """The whole disks beneath the block device *number*, "MAJOR:MINOR". Raises NoDiskError."""
    entry = sysfs / "dev/block" / number
    if not entry.exists():
        raise NoDiskError(f"there is no block device {number}")
    return _distinct(_beneath(entry.resolve(), sysfs, "", 0))


def _distinct(disks: Iterable[Disk]) -> tuple[Disk, ...]:
    return tuple({disk.number: disk for disk in disks}.values())


def _beneath(device: Path, sysfs: Path, way: str, depth: int) -> tuple[Disk, ...]:
    if depth > _MAX_DEPTH:
        raise NoDiskError(f"{device.name} is stacked more than {_MAX_DEPTH} devices deep")
    if (device / "partition").exists():
        return _beneath(device.parent, sysfs, f"{way}{device.name} is a partition of ", depth + 1)
    slaves = sorted((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    if not slaves:
        number = (device / "dev").read_text(encoding="ascii").strip()
        return (Disk(number, device.name, f"{way}{device.name}"),)
    return tuple(
        disk
        for slave in slaves
        for disk in _beneath(slave.resolve(), sysfs, f"{way}{device.name} is made of ", depth + 1)
    )


def _of_directory(directory: Path, sysfs: Path, depth: int) -> tuple[Disk, ...]:
    handle = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        device = os.fstat(handle).st_dev
        if os.major(device) != _ANONYMOUS:
            return of_device(f"{os.major(device)}:{os.minor(device)}", sysfs)
        mount = _mount_of(handle)
    finally:
        os.close(handle)
    if depth > _MAX_DEPTH:
        raise NoDiskError(f"{directory} is stacked too deep")
    return of_mount(mount, sysfs, depth)


def of_mount(mount: Mount, sysfs: Path = SYSFS, depth: int = 0) -> tuple[Disk, ...]:
    """The disks of a file system without a device number of its own. Raises NoDiskError, OSError."""
    if mount.kind == "btrfs":
        return _of_btrfs(mount, sysfs)
    if mount.kind == "overlay":
        return _of_overlay(mount, sysfs, depth)
    raise NoDiskError(f"it is on {mount.kind}: {_why(mount.kind)}")


def _why(kind: str) -> str:
    if kind in _IN_MEMORY:
        return "it is in memory, and no disk is behind it"
    if kind in _NETWORK:
        return "it is across a network, and no disk of this host is behind it"
    if kind.startswith("fuse") or kind == "virtiofs":
        return "another program does its input and output, in groups of its own"
    if kind == "zfs":
        return "its own threads do its input and output, for everybody alike"
    return "which disks are behind it is not known"


def _of_btrfs(mount: Mount, sysfs: Path) -> tuple[Disk, ...]:
    """All members: any of them may hold a file's data."""
    name = os.path.basename(os.path.realpath(mount.source))
    for members in sorted((sysfs / "fs/btrfs").glob("*/devices")):
        if (members / name).exists():
            found = [_beneath(member.resolve(), sysfs, "btrfs on ", 0) for member in sorted(members.iterdir())]
            return _distinct(disk for disks in found for disk in disks)
    raise NoDiskError(f"it is on btrfs, of whose device {mount.source} sysfs knows nothing")


def _of_overlay(mount: Mount, sysfs: Path, depth: int) -> tuple[Disk, ...]:
    """Those of every layer: it is read from all, and written to the upper one."""
    options = dict(option.partition("=")[::2] for option in mount.options)
    layers = [layer for name in ("upperdir", "lowerdir") for layer in options.get(name, "").split(":") if layer]
    # Newer kernels name each lower layer on its own.
    layers += [option.partition("=")[2] for option in mount.options if option.startswith("lowerdir+=")]
    if not layers:
        raise NoDiskError("it is on overlay, whose layers are not told")
    try:
        found = [_of_directory(Path(layer), sysfs, depth + 1) for layer in layers]
    except OSError as error:
        raise NoDiskError(f"it is on overlay, and its layer {error.filename} is not seen from here") from error
    return _distinct(disk for disks in found for disk in disks)


def _mount_of(handle: int) -> Mount:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{handle}").read_text(encoding="ascii").splitlines()
    )
    number = int(fields["mnt_id"])
    for mount in mounts(Path("/proc/self/mountinfo").read_text()):
        if mount.number == number:
            return mount
    raise NoDiskError("its mount is not in the table of mounts")
