"""From the limits of a policy, the host's hierarchies and the disks behind a share to the groups that hold them."""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.cgroups import bounds, disks, settings
from virtiofs_sandbox.cgroups.hierarchies import NAMES_V1, UNIFIED, Hierarchy, available
from virtiofs_sandbox.confine.plan import ControlGroup, GroupSetting
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.bounding import bounded_disk
from virtiofs_sandbox.policies.share import ControlLimits, Share, Unenforceable

ABOVE = "virtiofs-sandbox"
PREFIX = "share-"
_MAX_NAME = 200
_DELEGATION = (
    "start it as a systemd service with Delegate=yes, or by systemd-run --scope -p Delegate=yes (a user with --user; "
    "loginctl enable-linger keeps a user's services), or name a group that is yours by limits.parent in defaults.toml"
)


_UNCHARGED = (
    "limits.disk holds what is written directly or synced, but not what the kernel writes back by itself later, which "
    "control groups of version 1 charge to nobody; those of version 2 do; limits.requests.write bounds what is asked"
)


class CannotLimitError(CannotConfineError):
    """A limit of the policy cannot be held here; str() names the key, and what to change."""


@dataclass(frozen=True)
class Place:
    """Where a controller's groups are made: below *base*, a group that is there."""

    base: str
    version: int


@dataclass(frozen=True)
class Standing:
    """What there is for one controller: a *place*, or else *problem*, half a sentence. *delegated*: we own the base."""

    controller: str
    place: Place | None
    delegated: bool
    problem: str


@dataclass(frozen=True)
class Planned:
    groups: tuple[ControlGroup, ...]
    warnings: tuple[str, ...]


def plan(share: Share, hierarchies: Sequence[Hierarchy]) -> Planned:
    """The groups for *share*, and a sentence for each limit that will not hold. Looks at its directories and disks.

    Raises CannotLimitError for a limit that cannot be held where the policy refuses that, and for one above what the
    groups around allow.
    """
    return _Planning(share, hierarchies).planned()


def standing(hierarchies: Sequence[Hierarchy], parent: str | None = None) -> tuple[Standing, ...]:
    """What there is for each controller that a limit may need, in the order of CONTROLLERS."""
    return tuple(_standing(controller, hierarchies, parent) for controller in NAMES_V1)


def bases(hierarchies: Sequence[Hierarchy], parent: str | None = None) -> tuple[str, ...]:
    """The groups below which shares have theirs."""
    return tuple(dict.fromkeys(found.place.base for found in standing(hierarchies, parent) if found.place))


def facts(share: Share, hierarchies: Sequence[Hierarchy]) -> Iterator[str]:
    """A sentence for each controller and each disk, to be shown to who asks how a share's limits are held."""
    for found in standing(hierarchies, share.control.parent):
        if found.place is None:
            yield f"{found.controller}: no limit can be held: {found.problem}"
        else:
            owned = ", delegated to this user" if found.delegated else ""
            yield f"{found.controller}: version {found.place.version}, below {found.place.base}{owned}"
    for directory in _directories(share):
        try:
            for disk in disks.behind(directory):
                yield f"disk behind {directory}: {disk.number} ({disk.way})"
        except (disks.NoDiskError, OSError) as error:
            yield f"disk behind {directory}: none: {error}"


def group_name(share: str) -> str:
    """The directory for a share of this name: no file of the kernel's is called so, whatever the share is."""
    name = PREFIX + urllib.parse.quote(share, safe="")
    if len(name) <= _MAX_NAME:
        return name
    # Few names are that long, and hashlib brings OpenSSL along.
    import hashlib  # noqa: PLC0415

    return f"{name[: _MAX_NAME - 20]}-{hashlib.sha256(share.encode()).hexdigest()[:16]}"


class _Planning:
    def __init__(self, share: Share, hierarchies: Sequence[Hierarchy]) -> None:
        self._share = share
        self._limits: ControlLimits = dataclasses.replace(share.control, disk=bounded_disk(share))
        self._hierarchies = hierarchies
        self._warnings: list[str] = []
        self._wanted: dict[Place, list[tuple[str, GroupSetting]]] = {}

    def planned(self) -> Planned:
        numbers = self._disks() if settings.disk_by_disk(self._limits.disk) else ()
        for controller in NAMES_V1:
            keys = settings.keys(self._limits, controller)
            if not keys:
                continue
            found = _standing(controller, self._hierarchies, self._limits.parent)
            if found.place is None:
                for key in keys:
                    self._cannot(key, found.problem)
            else:
                self._place(controller, found.place, numbers)
        groups = tuple(self._group(place, made) for place, made in self._wanted.items())
        return Planned(groups, tuple(self._warnings))

    def _place(self, controller: str, place: Place, numbers: tuple[str, ...]) -> None:
        disk = self._limits.disk
        if controller == "io" and place.version != UNIFIED and numbers and (disk.write or disk.write_ops):
            self._warnings.append(_UNCHARGED)
        for setting in settings.made(self._limits, controller, place.version, numbers):
            if isinstance(setting, settings.Impossible):
                self._cannot(setting.key, setting.reason)
                continue
            above = bounds.exceeded(place.base, setting)
            if above is not None:
                raise CannotLimitError(f"{setting.key}: {above}")
            self._wanted.setdefault(place, []).append((controller, setting))

    def _group(self, place: Place, made: Sequence[tuple[str, GroupSetting]]) -> ControlGroup:
        unified = place.version == UNIFIED
        controllers = dict.fromkeys(controller if unified else NAMES_V1[controller] for controller, _ in made)
        return ControlGroup(
            base=place.base,
            directory=os.path.join(place.base, ABOVE, group_name(self._share.name)),
            version=place.version,
            controllers=tuple(controllers),
            settings=tuple(setting for _, setting in made),
            refuse=self._limits.unenforceable is Unenforceable.REFUSE,
        )

    def _disks(self) -> tuple[str, ...]:
        """The numbers of all disks behind the share; of none where there is no disk behind one of its directories."""
        numbers: dict[str, None] = {}
        keys = ", ".join(settings.disk_by_disk(self._limits.disk))
        for directory in _directories(self._share):
            try:
                numbers |= dict.fromkeys(disk.number for disk in disks.behind(directory))
            except disks.NoDiskError as error:
                self._cannot(keys, f"{directory}: {error}")
            except OSError as error:
                self._cannot(keys, f"{directory}: its disk cannot be found: {error}")
        return tuple(numbers)

    def _cannot(self, key: str, reason: str) -> None:
        own = ("limits.disk.weight", "limits.disk.latency")
        if (group := self._share.group) is not None and "limits.disk" in key and key not in own:
            key = f"{key} (as the group {group.name} has it)"
        if self._limits.unenforceable is Unenforceable.REFUSE:
            raise CannotLimitError(
                f"{key} cannot be held here: {reason}; "
                'take it out, or start without it by limits.unenforceable = "warn"'
            )
        self._warnings.append(f"{key} is not held: {reason}")


def _directories(share: Share) -> list[Path]:
    return [share.source] if share.source is not None else [child.source for child in share.children]


def _standing(controller: str, hierarchies: Sequence[Hierarchy], parent: str | None) -> Standing:
    problems = []
    for hierarchy in sorted(hierarchies, key=lambda one: -one.version):
        bases = _bases(hierarchy, parent)
        for base in bases:
            there = available(base) if hierarchy.version == UNIFIED else hierarchy.controllers
            if controller not in there:
                continue
            problem = _not_ours(base, hierarchy.version)
            if problem is None:
                return Standing(
                    controller, Place(base, hierarchy.version), base == hierarchy.own and os.geteuid() != 0, ""
                )
            problems.append(f"{problem}; {_DELEGATION}")
    missing = f"this host gives the controller {controller} to no hierarchy of control groups that is mounted here"
    return Standing(controller, None, False, problems[0] if problems else missing)


def _bases(hierarchy: Hierarchy, parent: str | None) -> list[str]:
    """The site's choice alone, or our own group, or (where that is shared with others) the root."""
    if parent is not None:
        return [hierarchy.directory(parent)]
    if hierarchy.version != UNIFIED or hierarchy.own == hierarchy.mount or not os.path.isdir(hierarchy.own):
        return [hierarchy.own]
    return [hierarchy.own, hierarchy.mount] if _only_ours(hierarchy.own) else [hierarchy.mount]


def _not_ours(base: str, version: int) -> str | None:
    files = ("", "cgroup.procs", "cgroup.subtree_control") if version == UNIFIED else ("", "cgroup.procs")
    for file in files:
        path = os.path.join(base, file)
        if not os.path.exists(path):
            return f"there is no group {base}"
        if not os.access(path, os.W_OK):
            return f"the control group {base} is not this user's to divide"
    return None


def _only_ours(directory: str) -> bool:
    """Whether nobody but this process and its children is in the group, so that they can move to one below."""
    try:
        with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
            there = set(map(int, file.read().split()))
    except OSError:
        # Not ours to read, or of threads.
        return False
    return there <= own_processes()


def own_processes() -> set[int]:
    """This process and those below it."""
    found: set[int] = set()
    unseen = [os.getpid()]
    while unseen:
        pid = unseen.pop()
        found.add(pid)
        try:
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                unseen += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
