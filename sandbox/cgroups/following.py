"""One process in the control groups of another.

Who manages virtual machines makes a machine's group once its daemon runs, and moves the one process it knows of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.cgroups.hierarchies import Mount, mounts, seen


def follow(process: int) -> tuple[str, ...]:
    """Moves *process* into every group that this process is in, of all hierarchies there are.

    Returns a sentence for each where it stays outside. Raises OSError if /proc cannot be read.
    """
    ours, theirs = (_membership(of) for of in ("self", str(process)))
    table = mounts(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))
    return tuple(
        problem
        for controllers, path in ours.items()
        if theirs.get(controllers) != path
        for problem in _move(process, controllers, path, table)
    )


def _membership(process: str) -> dict[str, str]:
    """Paths of groups by the controllers of their hierarchy, "" for version 2 (cgroups(7), /proc/PID/cgroup)."""
    text = Path(f"/proc/{process}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in text.splitlines())}


def _move(process: int, controllers: str, path: str, table: tuple[Mount, ...]) -> Iterator[str]:
    directory = _directory(controllers, path, table)
    name = controllers or "version 2"
    if directory is None:
        yield f"the control group {path} ({name}), where the supervisor was moved to, is not seen here"
        return
    try:
        with open(os.path.join(directory, "cgroup.procs"), "wb", buffering=0) as members:
            members.write(b"%d" % process)
    except OSError as error:
        yield f"the control group {directory}, where the supervisor was moved to, takes no worker: {error.strerror}"


def _directory(controllers: str, path: str, table: tuple[Mount, ...]) -> str | None:
    """Where the group is seen; None where its hierarchy, or this part of it, is not mounted."""
    for mount in table:
        if mount.kind == "cgroup2":
            fits = not controllers
        else:
            fits = mount.kind == "cgroup" and bool(set(controllers.split(",")) & set(mount.options))
        if fits and not os.path.relpath(path, mount.root).startswith(".."):
            return seen(mount.point, mount.root, path)
    return None
