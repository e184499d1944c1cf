"""The control groups of one share in service: made before its first jail, written on changes, removed after its last.

A group is held by a lock on its directory, which the kernel gives up when the supervisor dies, however it dies. So what
a killed one left is told from what a running one uses: it is removed when the share starts again, and made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from virtiofs_sandbox.cgroups.hierarchies import LEAF, UNIFIED
from virtiofs_sandbox.cgroups.narrowing import narrowed
from virtiofs_sandbox.cgroups.nodes import GroupNode
from virtiofs_sandbox.cgroups.planning import ABOVE, PREFIX, CannotLimitError, own_processes
from virtiofs_sandbox.confine.plan import ControlGroup, GroupSetting
from virtiofs_sandbox.policies.share import Rates

# A killed jail is gone from its group within milliseconds; one that hangs in the kernel is not.
_EMPTY_SECONDS = 2.0
_LOOK_SECONDS = 0.01
_TRIES = 20
# Where each rate is counted, by version.
_UNIFIED = {"read": "rbytes", "write": "wbytes", "read_ops": "rios", "write_ops": "wios"}
_BLKIO = {
    "read": ("blkio.throttle.io_service_bytes", "Read"),
    "write": ("blkio.throttle.io_service_bytes", "Write"),
    "read_ops": ("blkio.throttle.io_serviced", "Read"),
    "write_ops": ("blkio.throttle.io_serviced", "Write"),
}


@dataclass
class _Held:
    """A group that is there. *written* is what was set in it, by file and whatever stands before the value."""

    group: ControlGroup
    node: GroupNode
    lock: int
    written: dict[tuple[str, str], GroupSetting] = field(default_factory=dict)


class Groups:
    """To be closed once no jail is left. *warn* gets a sentence for each limit that is not taken."""

    def __init__(self, share: str, warn: Callable[[str], None]) -> None:
        self._share = share
        self._warn = warn
        self._held: dict[str, _Held] = {}
        self._wanted: tuple[ControlGroup, ...] = ()
        self._part = Rates()

    @property
    def joined(self) -> tuple[bytes, ...]:
        """The groups that jails belong to now."""
        return tuple(os.fsencode(group.directory) for group in self._wanted)

    def disk_figures(self) -> dict[str, dict[str, int]]:
        """What was read and written so far by disk, "MAJOR:MINOR": rbytes, wbytes, rios, wios, as io.stat has them.

        Empty without a limit on the disk. Raises OSError.
        """
        for held in self._held.values():
            if "io" in held.group.controllers:
                return dict(held.node.controller.io_stat)
            if "blkio" in held.group.controllers:
                counters = held.node.controller
                return _figures(counters.throttle_io_service_bytes, counters.throttle_io_serviced)
        return {}

    def disk_usage(self) -> dict[str, int]:
        """What the jails have used of the disk they used most, by the fields of Rates."""
        for held in self._held.values():
            if held.group.version == UNIFIED and "io" in held.group.controllers:
                figures = self.disk_figures().values()
                return {
                    name: max((disk.get(ours, 0) for disk in figures), default=0) for name, ours in _UNIFIED.items()
                }
            if "blkio" in held.group.controllers:
                return {
                    name: _most(os.path.join(held.group.directory, file), direction)
                    for name, (file, direction) in _BLKIO.items()
                }
        return {}

    def narrow(self, part: Rates) -> None:
        """No rate of a disk is above *part* from now on. Raises CannotLimitError, and the rates before hold then."""
        before, self._part = self._part, part
        if before != part:
            try:
                self.apply(self._wanted)
            except CannotLimitError:
                self._part = before
                raise

    def apply(self, groups: Sequence[ControlGroup], jails: Iterable[int] = ()) -> None:
        """Makes what is missing, writes what is new, lifts what is gone, and moves the *jails*, by keeper, into groups
        they are not in yet.

        Raises CannotLimitError, and what was set before is set again then.
        """
        before = self._wanted
        try:
            self._apply(groups)
        except CannotLimitError:
            with contextlib.suppress(CannotLimitError):
                self._apply(before)
            raise
        if before != self._wanted:
            for keeper in jails:
                self.enter(keeper)

    def enter(self, keeper: int) -> None:
        """Moves a jail that was launched by older terms; what the kernel refuses is warned of.

        What is forked while this looks is forked into the group already, or seen by looking again.
        """
        for group in self._wanted:
            moved: set[int] = set()
            while fresh := _family(keeper) - moved:
                for pid in fresh:
                    self._move(group.directory, pid)
                moved |= fresh

    async def close(self) -> tuple[str, ...]:
        """Removes the groups; returns those that cannot be removed, since a process hangs in them."""
        deadline = time.monotonic() + _EMPTY_SECONDS
        left = []
        for directory, held in self._held.items():
            while not _removed(directory):
                if time.monotonic() > deadline:
                    left.append(directory)
                    break
                await asyncio.sleep(_LOOK_SECONDS)
            os.close(held.lock)
            _removed(os.path.dirname(directory))
        self._held.clear()
        self._wanted = ()
        return tuple(left)

    def _apply(self, groups: Sequence[ControlGroup]) -> None:
        for group in groups:
            self._make(group)
            self._write(self._held[group.directory], narrowed(group, self._part))
        for directory, held in self._held.items():
            if directory not in {group.directory for group in groups}:
                self._lift(held, set())
        self._wanted = tuple(groups)

    def _make(self, group: ControlGroup) -> None:
        held = self._held.get(group.directory)
        with _said(f"the control group {group.directory} cannot be made", group.directory):
            if group.version == UNIFIED:
                _give_down(group)
            if held is None:
                lock = _locked(group.directory, self._share)
                held = _Held(group, GroupNode(group.directory, group.version, group.controllers), lock)
                self._held[group.directory] = held
        held.group = group

    def _write(self, held: _Held, group: ControlGroup) -> None:
        self._lift(held, {_place(setting) for setting in group.settings})
        for setting in group.settings:
            if held.written.get(_place(setting)) == setting:
                continue
            try:
                held.node.controller.set_property(os.fsencode(setting.file), setting.text)
            except OSError as error:
                sentence = f"{setting.key} is not taken by the kernel: {_reason(group, setting, error)}"
                if group.refuse:
                    raise CannotLimitError(sentence) from error
                self._warn(sentence)
            else:
                held.written[_place(setting)] = setting

    def _lift(self, held: _Held, kept: set[tuple[str, str]]) -> None:
        for place in set(held.written) - kept:
            setting = held.written.pop(place)
            with contextlib.suppress(OSError):
                held.node.controller.set_property(os.fsencode(setting.file), setting.lift)

    def _move(self, directory: str, pid: int) -> None:
        held = self._held[directory]
        try:
            held.node.controller.set_property(b"cgroup.procs", pid)
        except OSError as error:
            # Else it ended meanwhile.
            if error.errno != errno.ESRCH:
                self._warn(f"the control group {directory} does not take process {pid}: {error.strerror}")


def sweep(bases: Iterable[str]) -> None:
    """Removes what killed supervisors left below *bases*, of whichever share; what is locked or not empty stays."""
    for base in bases:
        above = os.path.join(base, ABOVE)
        with contextlib.suppress(OSError):
            for directory in [entry.path for entry in os.scandir(above) if entry.name.startswith(PREFIX)]:
                _sweep(directory)
            os.rmdir(above)


def _sweep(directory: str) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as held:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rmdir(directory)


def _figures(moved: dict[str, dict[str, int]], operations: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """The counters of version 1 by the names of version 2."""
    return {
        number: {
            "rbytes": moved[number].get("Read", 0),
            "wbytes": moved[number].get("Write", 0),
            "rios": operations.get(number, {}).get("Read", 0),
            "wios": operations.get(number, {}).get("Write", 0),
        }
        for number in moved
    }


def _place(setting: GroupSetting) -> tuple[str, str]:
    """What a setting takes the place of: files by disk have a line for each."""
    first = setting.text.split()[0]
    return setting.file, first if ":" in first else ""


def _most(file: str, direction: str) -> int:
    """The largest count of that *direction* among all disks: lines of "MAJOR:MINOR DIRECTION COUNT"."""
    with open(file, encoding="ascii") as lines:
        counts = [words for words in map(str.split, lines) if len(words) == 3]
    return max((int(count) for _, kind, count in counts if kind == direction), default=0)


def _reason(group: ControlGroup, setting: GroupSetting, error: OSError) -> str:
    path = f"{group.directory}/{setting.file}"
    if error.errno == errno.ENOENT or (error.errno == errno.EACCES and not os.path.exists(path)):
        return f"there is no {path}: this kernel lacks what is behind it"
    return f"{setting.text!r} into {path}: {error.strerror}"


def _family(keeper: int) -> set[int]:
    """The keeper of a jail and all below it; nobody when it is gone."""
    found: set[int] = set()
    unseen = [keeper]
    while unseen:
        pid = unseen.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                unseen += map(int, file.read().split())
            found.add(pid)
    return found


def _give_down(group: ControlGroup) -> None:
    """Gives the controllers to the groups below *base*, and below the one that is above every share's."""
    above = os.path.dirname(group.directory)
    base = GroupNode(group.base, UNIFIED)
    missing = _not_given(base, group)
    if missing and os.path.exists(os.path.join(group.base, "cgroup.type")):
        _make_way(group.base)
    if missing:
        base.controller.set_property(b"cgroup.subtree_control", missing)
    with contextlib.suppress(FileExistsError):
        os.mkdir(above)
    shares = GroupNode(above, UNIFIED)
    if missing := _not_given(shares, group):
        shares.controller.set_property(b"cgroup.subtree_control", missing)


def _not_given(node: GroupNode, group: ControlGroup) -> str:
    given: frozenset[str] = node.controller.subtree_control
    return " ".join(f"+{name}" for name in group.controllers if name not in given)


def _make_way(base: str) -> None:
    """Moves this process and its children out of *base*: version 2 wants none where controllers go further down.

    Others stay where they are, and the kernel then answers EBUSY.
    """
    node = GroupNode(base, UNIFIED)
    leaving = set(node.controller.procs) & own_processes()
    if not leaving:
        return
    leaf = GroupNode(os.path.join(base, LEAF), UNIFIED)
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(base, LEAF))
    for pid in leaving:
        with contextlib.suppress(ProcessLookupError):
            leaf.controller.set_property(b"cgroup.procs", pid)


def _locked(directory: str, share: str) -> int:
    """Makes the group, or makes anew what was left of it; returns a descriptor that holds its lock."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileExistsError):
            os.mkdir(os.path.dirname(directory))
        try:
            fresh = _made(directory)
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Another supervisor has just removed it, or what is above it.
            continue
        with contextlib.ExitStack() as unless_held:
            unless_held.callback(os.close, lock)
            _lock(lock, directory, share)
            if not _is_at(lock, directory):
                continue
            if fresh:
                unless_held.pop_all()
                return lock
            _clear(directory, share)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory)


def _made(directory: str) -> bool:
    """Whether the group was not there before."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return False
    return True


def _lock(lock: int, directory: str, share: str) -> None:
    # One that sweeps holds it for a moment.
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_SECONDS)
        else:
            return
    raise CannotLimitError(
        f"another supervisor has a share {share!r} in service: it holds {directory}; stop it or rename this one"
    )


def _is_at(lock: int, directory: str) -> bool:
    """Whether what was locked is what is there."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(directory))
    except FileNotFoundError:
        return False


def _clear(directory: str, share: str) -> None:
    """Removes a group that nobody holds. What its supervisor left in it dies with that one, but not at once."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while not _removed(directory):
        if time.monotonic() > deadline:
            with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                pids = ", ".join(file.read().split())
            raise CannotLimitError(
                f"the control group {directory} was left by an earlier supervisor of the share {share!r}, and "
                f"there are processes in it: {pids or 'none, but groups'}; end them, and it will be removed"
            )
        time.sleep(_LOOK_SECONDS)


def _removed(directory: str) -> bool:
    """Whether the group is gone; not while anything is in it."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


@contextlib.contextmanager
def _said(what: str, directory: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "; processes of others are in a group above it" if error.errno == errno.EBUSY else ""
        raise CannotLimitError(f"{what}: {error.filename or directory}: {error.strerror}{hint}") from error
