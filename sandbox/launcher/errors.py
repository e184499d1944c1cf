"""What a failed launch says, for the person who reads it at night."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from virtiofs_sandbox.confine.plan import LaunchPlan, MountAction, MountChange
from virtiofs_sandbox.launcher.reports import Stage, call_name
from virtiofs_sandbox.policies.share import Tier

if TYPE_CHECKING:
    from virtiofs_sandbox.launcher.adjusting import Place

_NAMES = {
    Stage.REQUEST: "asking the zygote",
    Stage.LIMITS: "setting limits",
    Stage.USER_NAMESPACE: "entering a user namespace",
    Stage.IDENTITY: "taking on the worker's ids",
    Stage.NAMESPACES: "entering namespaces",
    Stage.PARENT: "binding to the supervisor",
    Stage.MOUNTS: "taking the mounts",
    Stage.ROOT: "emptying the root",
    Stage.DESCRIPTORS: "placing descriptors",
    Stage.CAPABILITIES: "dropping capabilities",
    Stage.LANDLOCK: "entering the Landlock domain",
    Stage.SECCOMP: "loading the seccomp filter",
    Stage.EXEC: "starting the worker",
    Stage.ADJUST: "changing mounts of a running jail",
}
_BY_CALL = {
    "send(request)": "the zygote is gone; a new one has to be started",
    "receive(answer)": "the zygote ended or hangs; a new one has to be started",
    "setrlimit(RLIMIT_NOFILE)": "the hard limit on open files is lower; raise it with LimitNOFILE= or ulimit -Hn",
    "open(cgroup.procs)": "the control group is missing or not delegated to this user",
    "write(cgroup.procs)": "the control group does not take processes; delegate it to this user",
    "write(setgroups)": "a container's policy forbids writing id maps",
    "write(uid_map)": "the ids may not be mapped by this user; run as root or check /etc/subuid",
    "write(gid_map)": "the ids may not be mapped by this user; run as root or check /etc/subgid",
    "newuidmap": "the range must be the user's in /etc/subuid, and newuidmap set-ID root and free to be (nosuid, "
    "no_new_privs)",
    "newgidmap": "the range must be the user's in /etc/subgid, and newgidmap set-ID root and free to be (nosuid, "
    "no_new_privs)",
    "mount_setattr(MOUNT_ATTR_IDMAP)": "the share's file system does not support id-mapped mounts, or is one already; "
    "leave out identity.idmapped",
    "compare(namespace)": "the process is not in the namespaces it was started in; launch a new jail",
    "open(namespace)": "the jail has ended",
    "fork": "raise the limit on processes or memory (TasksMax=, ulimit -u)",
    "send(go)": "the process that was to become the jail is gone; see whether memory ran out (dmesg)",
    "read(go)": "the supervisor went away during the launch",
    "read(alive)": "the supervisor went away during the launch",
    "fsmount": "/proc is partly masked here, as in containers; a fresh procfs needs an unmasked one",
    "pivot_root": "the root directory here is not a mount of its own; leave the chroot",
    "compare(capabilities)": "the kernel kept other capabilities than asked for; report this with the kernel's version",
    "compare(securebits)": "the kernel kept other securebits than asked for; report this with the kernel's version",
    "execveat": "the worker must be a static program for this machine that its user may execute",
}
_BY_STAGE = {
    Stage.USER_NAMESPACE: "user namespaces are switched off or exhausted here (user.max_user_namespaces), or forbidden "
    "by a chroot or a container's policy",
    Stage.IDENTITY: "the ids are not mapped, or CAP_SETUID and CAP_SETGID are missing",
    Stage.NAMESPACES: "namespaces are exhausted here (user.max_*_namespaces) or forbidden by a container's policy",
    Stage.LANDLOCK: "the kernel's Landlock differs from what was probed; restart the supervisor",
}
_ELSE = "an unexpected refusal: look for a denial in the kernel's log (dmesg)"


class LaunchError(Exception):
    """One stage of a launch failed. str() is one sentence: stage, call, what the system said, what to do.

    *errno* is 0 when no system call failed: a process vanished, or did not answer in time.
    """

    def __init__(self, stage: str, call: str, errno: int, hint: str) -> None:
        said = f": {os.strerror(errno)}" if errno else ""
        super().__init__(f"{stage}: {call}{said}; {hint}")
        self.stage = stage
        self.call = call
        self.errno = errno
        self.hint = hint


def failure(plan: LaunchPlan, stage: int, call: str | int, number: int) -> LaunchError:
    """The error for a report, with the hint that fits. Any *stage* and *call* number is taken."""
    name = call_name(call) if isinstance(call, int) else call
    known = Stage(stage) if stage in _NAMES else Stage.REQUEST
    return LaunchError(_NAMES[known], name, number, _hint(plan, known, name, number))


def unanswered(call: str, number: int) -> LaunchError:
    """The error for a zygote that does not take a request, or does not answer it."""
    return LaunchError(_NAMES[Stage.REQUEST], call, number, _BY_CALL[call])


def check_changes(tier: Tier, place: Place | None, changes: tuple[MountChange, ...]) -> Place:
    """The place, if it is one where *changes* can be made. Raises LaunchError."""
    if tier is Tier.BARE:
        raise _refused("this tier has no mounts of its own: launch a new jail with the changed share")
    if place is None:
        raise _refused(
            "the share was launched without exact path rules or children, so it is no place to mount on: "
            "launch a new jail with the changed share"
        )
    for change in changes:
        of_children = change.action in (MountAction.ATTACH, MountAction.DETACH)
        shown = os.fsdecode(change.path)
        if of_children and not place.tree:
            raise _refused(f"{shown!r}: only a tree share has children that come and go")
        if of_children and b"/" in change.path:
            raise _refused(f"{shown!r}: a child is named by one component")
        if any(part in (b"", b".", b"..") for part in change.path.split(b"/")):
            raise _refused(
                f"{shown!r}: a path below the share's root is wanted, without empty components, '.' and '..'"
            )
    return place


def adjustment_failure(
    changes: tuple[MountChange, ...], failed: int, stage: int, call: int, number: int
) -> LaunchError:
    """The error for the zygote's answer about *changes*, of which the one at *failed* could not be made."""
    name = call_name(call)
    known = Stage(stage) if stage in _NAMES else Stage.REQUEST
    if failed >= len(changes):
        return LaunchError(_NAMES[known], name, number, _BY_CALL.get(name, _ELSE))
    change = changes[failed]
    done = f"{_NAMES[known]}, {change.action.value} {os.fsdecode(change.path)!r}"
    return LaunchError(done, name, number, _change_hint(change, name, number))


def _refused(why: str) -> LaunchError:
    return LaunchError(_NAMES[Stage.ADJUST], "adjust", 0, why)


def _change_hint(change: MountChange, call: str, number: int) -> str:
    if call == "open_tree(share)":
        return _path_hint("the directory", change.source, number)
    if call == "mkdir" and number == errno.EEXIST:
        return "a child of that name is there already"
    if call == "umount2" and number == errno.EINVAL:
        return "nothing is mounted there, or it came with the share"
    if call in ("openat2", "umount2") and number in (errno.ENOENT, errno.ENOTDIR):
        return "there is nothing at that path"
    if call == "openat2" and number == errno.ELOOP:
        return "a symbolic link is on the way"
    return _BY_CALL.get(call, _ELSE)


def _hint(plan: LaunchPlan, stage: Stage, call: str, number: int) -> str:
    if call in ("open_tree(share)", "open(share)") and plan.source:
        return _path_hint("the shared directory", plan.source, number)
    if call == "open_tree(share)":
        sources = ", ".join(repr(os.fsdecode(child.source)) for child in plan.children)
        return f"one of the share's directories does not exist, or cannot be reached or cloned: {sources}"
    if call in ("open_tree(worker)", "open(worker)"):
        return _path_hint("the worker", plan.worker, number)
    return _BY_CALL.get(call) or _BY_STAGE.get(stage) or _ELSE


def _path_hint(what: str, path: bytes, number: int) -> str:
    shown = os.fsdecode(path)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"{what} {shown!r} does not exist"
    if number == errno.EACCES:
        return f"{what} {shown!r} cannot be reached by this user; check the directories above it"
    return f"{what} {shown!r} cannot be cloned as a mount"
