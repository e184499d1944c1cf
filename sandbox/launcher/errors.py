"""What a failed launch says, for the person who reads it at night."""

from __future__ import annotations

import errno
import os

from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.launcher.reports import Stage, call_name

_NAMES = {
    Stage.REQUEST: "asking the zygote",
    Stage.LIMITS: "setting limits",
    Stage.USER_NAMESPACE: "entering a user namespace",
    Stage.NAMESPACES: "entering namespaces",
    Stage.PARENT: "binding to the supervisor",
    Stage.MOUNTS: "taking the mounts",
    Stage.ROOT: "emptying the root",
    Stage.DESCRIPTORS: "placing descriptors",
    Stage.CAPABILITIES: "dropping capabilities",
    Stage.LANDLOCK: "entering the Landlock domain",
    Stage.SECCOMP: "loading the seccomp filter",
    Stage.EXEC: "starting the worker",
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


def _hint(plan: LaunchPlan, stage: Stage, call: str, number: int) -> str:
    if call == "open_tree(share)":
        return _path_hint("the shared directory", plan.source, number)
    if call == "open_tree(worker)":
        return _path_hint("the worker", plan.worker, number)
    return _BY_CALL.get(call) or _BY_STAGE.get(stage) or _ELSE


def _path_hint(what: str, path: bytes, number: int) -> str:
    shown = os.fsdecode(path)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return f"{what} {shown!r} does not exist"
    if number == errno.EACCES:
        return f"{what} {shown!r} cannot be reached by this user; check the directories above it"
    return f"{what} {shown!r} cannot be cloned as a mount"
