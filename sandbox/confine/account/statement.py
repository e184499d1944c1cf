"""What an account is made of: sentences, each with the same facts as data."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.syscalls import mounts

# MOUNT_ATTR_*, what it is called, and what it takes away.
MOUNT_FLAGS = (
    (mounts.MOUNT_ATTR_RDONLY, "read-only", "nothing is changed through it"),
    (mounts.MOUNT_ATTR_NOSUID, "nosuid", "no set-ID bit and no file capability counts"),
    (mounts.MOUNT_ATTR_NODEV, "nodev", "no device node opens a device"),
    (mounts.MOUNT_ATTR_NOEXEC, "noexec", "nothing in it is run"),
    (mounts.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "the kernel follows no symbolic link in it"),
)


@dataclass(frozen=True)
class Launch:
    """What is accounted for: a share, where it is offered (None: an inherited socket), and the plan made of it here.

    *file* is the policy, None for a share that has none.
    """

    share: Share
    socket: Socket | None
    file: Path | None
    plan: LaunchPlan
    host: HostProbe


@dataclass(frozen=True)
class Statement:
    """*key* is stable within its section; *label* stands before *text*, and *facts* are JSON."""

    key: str
    label: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Topic:
    """*fields* of the launch plan are accounted for here, and nowhere else."""

    key: str
    title: str
    fields: frozenset[str]
    tell: Callable[[Launch], tuple[Statement, ...]]


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    statements: tuple[Statement, ...]


def flag_names(attributes: int) -> list[str]:
    """What the MOUNT_ATTR_* *attributes* are called."""
    return [name for bit, name, _ in MOUNT_FLAGS if attributes & bit]


def printed(path: bytes) -> str:
    """A path of the plan as it can stand in a sentence."""
    return shown(os.fsdecode(path))
