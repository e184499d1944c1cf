"""A place of our own in every hierarchy of control groups, and shares whose groups are made there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from virtiofs_sandbox.cgroups.hierarchies import UNIFIED, find
from virtiofs_sandbox.cgroups.planning import ABOVE, standing

from tests.guest.policed import Policed

SHARE = "share-guest"
# How a limit of each key is said to the kernel, by version: the file, and what stands in it.
FILES = {
    1: {
        "io": "blkio.throttle.write_bps_device",
        "memory": "memory.limit_in_bytes",
        "cpu": "cpu.cfs_quota_us",
        "pids": "pids.max",
    },
    2: {"io": "io.max", "memory": "memory.max", "cpu": "cpu.max", "pids": "pids.max"},
}


class Site:
    """The group *parent* in each hierarchy that has a controller we use; `close` removes what is left below."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("makes control groups at the root of each hierarchy: needs root")
        self.parent = f"/{ABOVE}-tests-{os.getpid()}"
        self._made = []
        for hierarchy in find():
            if hierarchy.version == UNIFIED and not hierarchy.controllers:
                continue
            directory = Path(hierarchy.directory(self.parent))
            with contextlib.suppress(FileExistsError):
                try:
                    directory.mkdir()
                except OSError as error:
                    pytest.skip(f"control groups are not ours to make: {error}")
            self._made.append(directory)

    def group(self, controller: str, name: str = SHARE) -> Path:
        """Where the share's group is made that has *controller*."""
        return self.base(controller) / ABOVE / name

    def base(self, controller: str) -> Path:
        found = next(one for one in standing(find(), self.parent) if one.controller == controller)
        if found.place is None:
            pytest.skip(found.problem)
        return Path(found.place.base)

    def version(self, controller: str) -> int:
        return next(
            one.place.version for one in standing(find(), self.parent) if one.controller == controller and one.place
        )

    def limit(self, controller: str) -> str:
        """What the kernel says of it."""
        return (self.group(controller) / FILES[self.version(controller)][controller]).read_text().strip()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the group is in each hierarchy, each once: some have several controllers."""
        return tuple(dict.fromkeys(self._made))

    def left(self) -> list[Path]:
        """Groups below ours."""
        return [found for made in self._made for found in sorted(made.rglob("*")) if found.is_dir()]

    def close(self) -> None:
        for directory in [*reversed(self.left()), *self._made]:
            deadline = time.monotonic() + 5
            while directory.exists():
                try:
                    directory.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


class Limited(Policed):
    """A share on *directory* whose groups are made at *site*."""

    def __init__(self, work: Path, site: Site, policy: str, prefix: Sequence[str] = ()) -> None:
        (work / "shares.d").mkdir(parents=True, exist_ok=True)
        (work / "defaults.toml").write_text(f'[limits]\nparent = "{site.parent}"\n')
        super().__init__(work, policy, ("--policy-dir", str(work / "shares.d")), guarded=False, prefix=prefix)


def members(group: Path) -> set[int]:
    """Pids in it."""
    return set(map(int, (group / "cgroup.procs").read_text().split()))


def group_of(pid: int, group: Path) -> bool:
    """Whether /proc says that the process is in it."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return any(str(group).endswith(path) and path != "/" for path in (line.split(":", 2)[2] for line in lines))


@dataclass(frozen=True)
class Mounted:
    """A file system that only the mount namespace of process *holder* sees, at *point*."""

    holder: int
    point: Path

    @property
    def seen(self) -> Path:
        """The way to it from here."""
        return Path(f"/proc/{self.holder}/root{self.point}")

    @property
    def prefix(self) -> tuple[str, ...]:
        """Before a command that is to see it."""
        return ("nsenter", f"--mount=/proc/{self.holder}/ns/mnt", "--")


@contextlib.contextmanager
def file_system(kind: str, work: Path, mebibytes: int = 400) -> Iterator[Mounted]:
    """An empty file system on a loop device, mounted at work/share; gone with all that it needed at the end.

    In a mount namespace of its own: one that somebody else makes meanwhile would have a copy, and hold the device.
    """
    image, point = work / "image", work / "share"
    point.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    try:
        subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"there is no mkfs.{kind}: install xfsprogs or e2fsprogs")
    # The device goes with the mount: mount(8) sets it up so.
    inside = f"mount -t {kind} -o loop {image} {point} && echo mounted && exec sleep infinity"
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", inside]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"a loop device cannot be mounted: {holder.stderr.read().strip()}")
        mounted = Mounted(holder.pid, point)
        device = os.stat(mounted.seen).st_dev
        attached = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/loop/backing_file")
        try:
            yield mounted
        finally:
            holder.kill()
            holder.wait()
            # A jail's clone of the mount goes with its namespace, and that a little later than the jail.
            deadline = time.monotonic() + 10
            while attached.exists() and str(image) in attached.read_text():
                assert time.monotonic() < deadline, f"{attached} is still there"
                time.sleep(0.01)
            image.unlink()
