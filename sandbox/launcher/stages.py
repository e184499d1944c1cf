"""Theory of operation: the stages between fork and exec.

A launch passes through two processes. The *intermediate*, forked by the zygote, is still the caller in all but its
limits and namespaces; it exists because a pid namespace begins with the next child. That child is the *keeper*: it
builds its own jail from the inside and becomes the worker binary.

Every function here is one stage and says what the process should, and must not, be able to do once it returns. None of
them imports, logs, takes a lock or decides anything: the plan holds the numbers. A failure is a SyscallError, reported
by the caller of the stage; the stages after it never run.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

import landlock.plumbing
import prctl
from virtiofs_sandbox.confine.plan import LaunchPlan, ProgramPlan
from virtiofs_sandbox.launcher import mounting
from virtiofs_sandbox.launcher.mounting import Taken
from virtiofs_sandbox.launcher.reports import ALIVE, GO, RECORD, Stage
from virtiofs_sandbox.syscalls import capabilities, mounts, notifying, processes
from virtiofs_sandbox.syscalls import landlock as landlock_syscalls
from virtiofs_sandbox.syscalls.base import SyscallError, named

# Where each descriptor of the worker ends up (ipc/README.md).
FD_NULL_IN, FD_NULL_OUT, FD_LOG, FD_CONTROL, FD_CONFIG, FD_STATS, FD_ARENA, FD_SHARE, FD_PROC, FD_BINARY = range(10)
FD_REPORT = 10
# What another program than our worker accepts its client on.
_WAITING = FD_CONTROL
FD_END = 11
_OUT_OF_THE_WAY = 64

NAMESPACES = (
    processes.CLONE_NEWNS
    | processes.CLONE_NEWPID
    | processes.CLONE_NEWNET
    | processes.CLONE_NEWIPC
    | processes.CLONE_NEWUTS
    | processes.CLONE_NEWCGROUP
)
# python-prctl refuses the two bits of the ambient set.
_AMBIENT_SECUREBITS = 0b1100_0000
_RULE_PATH_BENEATH = 1


@dataclass(frozen=True)
class Received:
    """Descriptors that came with the request, in the order in which they were sent.

    *own* are what our own worker gets beside its log: control socket, configuration, statistics, arena.
    """

    log: int
    report: int
    own: tuple[int, ...]

    @classmethod
    def of(cls, numbers: list[int]) -> Received:
        log, report, *own = numbers
        return cls(log, report, tuple(own))


@dataclass(frozen=True)
class Handed:
    """What the worker is handed of the file system: all but the two of /dev/null are O_PATH descriptors."""

    share: int
    proc: int
    binary: int
    null_in: int
    null_out: int


# In the intermediate ----------------------------------------------------------------------------------------------


def limits(plan: LaunchPlan) -> None:
    """Joins the control groups and sets the limits every later process of the jail inherits.

    Should: still do all that the caller may. Must not: be missed by the groups' accounting, dump core (guest memory
    would be in it), or outlive others when memory runs out.
    """
    for group in plan.cgroups:
        _write(group + b"/cgroup.procs", b"0", "cgroup.procs")
    _write(b"/proc/self/oom_score_adj", b"1000", "oom_score_adj")
    named("setrlimit(RLIMIT_NOFILE)", resource.prlimit, 0, resource.RLIMIT_NOFILE, plan.nofile)
    for number, bound in plan.limits:
        # A caller who is held to less stays there.
        hard = resource.prlimit(0, number)[1]
        lower = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        named("setrlimit", resource.prlimit, 0, number, (lower, lower))


def user_namespace() -> None:
    """Enters a user namespace of its own; the zygote writes its maps.

    Should: hold every capability over what belongs to this namespace. Must not: hold any over the host.
    """
    processes.unshare(processes.CLONE_NEWUSER)


def become(plan: LaunchPlan) -> None:
    """Takes on the ids that the worker acts as, where they are not the caller's.

    Should: hold the capabilities it held. Must not: own what the caller owns. In a user namespace the change costs no
    capability, since the caller was not its root; outside of one it costs them all, as it should.
    """
    if plan.process_limit is not None:
        # Inside, where it counts this jail's processes alone.
        limit = (plan.process_limit, plan.process_limit)
        named("setrlimit(RLIMIT_NPROC)", resource.prlimit, 0, resource.RLIMIT_NPROC, limit)
    if plan.become is None:
        return
    uid, gid = plan.become
    named("setgroups", os.setgroups, [])
    named("setresgid", os.setresgid, gid, gid, gid)
    named("setresuid", os.setresuid, uid, uid, uid)


def namespaces() -> None:
    """Enters all other namespaces; the pid namespace begins with the next child.

    Should: see the host's mounts, to take the share from them. Must not: reach the network, System V and POSIX message
    queues, or the host's name; nor may anything mounted from here on be seen outside.
    """
    processes.unshare(NAMESPACES)


# In the keeper ----------------------------------------------------------------------------------------------------


def parent(plan: LaunchPlan, report: int) -> None:
    """Becomes a session of its own, with default signal handling, tied to the supervisor if the plan says so.

    The intermediate is gone when "go" comes, so the signal is armed for the supervisor. This is the one place that
    decides whether a jail outlives it. Should: take SIGKILL from outside. Must not: share a terminal, a process group,
    supplementary groups or ignored signals with the supervisor.
    """
    _expect(report, GO, "read(go)")
    named("setsid", os.setsid)
    for number in range(1, processes.SIGNALS + 1):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            processes.default_signal(number)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if not plan.deny_setgroups and plan.become is None:
        named("setgroups", os.setgroups, [])
    if plan.end_with_supervisor:
        named("prctl(PR_SET_PDEATHSIG)", prctl.set_pdeathsig, signal.SIGKILL)


def supervisor_alive(report: int) -> None:
    """Waits for the supervisor's word that it was still there after the signal was armed.

    getppid() cannot tell: it is 0 for the first process of a pid namespace, whoever the parent is.
    """
    _expect(report, ALIVE, "read(alive)")


def own_mounts(plan: LaunchPlan, taken: Taken | None) -> tuple[Taken, int]:
    """Takes from the host's mounts what the jail consists of, unless the caller did that before; returns procfs too.

    Should: reach the share with nothing in it being run, obeyed as set-ID, opened as a device or followed as a link.
    Must not: climb out of any of them by ".."; nor change mode, owner or times of the worker binary or of /dev/null,
    which lie on read-only mounts because a descriptor alone is enough for fchmod(2).
    """
    mounts.make_all_private()
    taken = taken or mounting.take(plan)
    # subset=pid leaves out /proc/sys, kcore, sysrq and the rest of the machine.
    proc = mounts.new_filesystem(b"proc", ((b"subset", b"pid"),), mounting.READ_ONLY)
    return taken, proc


def own_root(plan: LaunchPlan, taken: Taken, unheld: Callable[[int], None]) -> int:
    """Replaces the root by an empty read-only file system; returns the share, which is mounted in it if the plan says.

    *unheld* is told the places of rules in the plan that had nothing to be mounted over. Should: reach what it holds
    descriptors of. Must not: name any path of the host; change what an exact rule froze, see what one hid.
    """
    root = mounting.furnished_root(plan) if plan.attached else mounting.empty_root()
    mounts.attach(root, b"/")
    named("fchdir", os.fchdir, root)
    # With both names "." the old root ends up on top of the new one, from where it is taken off again: pivot_root(2).
    mounts.pivot_root(b".", b".")
    mounts.detach(b".")
    named("chdir", os.chdir, b"/")
    os.close(root)
    if not plan.attached:
        return taken.share[0]
    share = mounting.attach_share(plan, taken)
    for index, rule in enumerate(plan.rule_mounts):
        if not mounting.hold(share, rule):
            unheld(index)
    return share


def own_program(plan: ProgramPlan, taken: Taken, proc: int) -> None:
    """Puts a program that serves in our worker's place, and what that looks for, into the root.

    Should: find itself, its libraries, and what procfs tells of itself. Must not: see another process there, nor change
    any of it.
    """
    mounting.furnish(plan, taken.files, proc)


def plain_directories(plan: LaunchPlan) -> Handed:
    """The tier without mounts: what the worker is handed lies where it lies on the host.

    Should: reach the share and its own descriptors through them. Must not: open anything else, which Landlock sees to,
    or hold a descriptor that is open for more than naming: as root it would own /dev/null, and could change its mode.
    """
    named("chdir", os.chdir, b"/")
    null = named("open(/dev/null)", os.open, b"/dev/null", os.O_PATH | os.O_CLOEXEC)
    return Handed(
        share=named("open(share)", os.open, plan.source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
        proc=named("open(/proc)", os.open, b"/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
        binary=named("open(worker)", os.open, plan.worker, os.O_PATH | os.O_CLOEXEC),
        null_in=null,
        null_out=null,
    )


def null_of_a_mount(proc: int, null: int) -> tuple[int, int]:
    """/dev/null opened to read and to write, on the read-only mount of which *null* is the root."""
    path = b"self/fd/%d" % null
    return (
        named("open(/dev/null)", _open_at, proc, path, os.O_RDONLY),
        named("open(/dev/null)", _open_at, proc, path, os.O_WRONLY),
    )


def descriptors(plan: LaunchPlan, received: Received, handed: Handed) -> None:
    """Moves every descriptor to its documented number and closes all others.

    Should: hold exactly the documented ones across exec, and the report socket until then. Must not: hold any other,
    whatever leaked into the zygote.
    """
    wanted = {
        FD_NULL_IN: handed.null_in,
        FD_NULL_OUT: handed.null_out,
        FD_LOG: received.log,
        FD_SHARE: handed.share,
        FD_PROC: handed.proc,
        FD_BINARY: handed.binary,
        FD_REPORT: received.report,
    }
    gone_by_exec = {FD_BINARY, FD_REPORT}
    if plan.program is None:
        wanted |= zip((FD_CONTROL, FD_CONFIG, FD_STATS, FD_ARENA), received.own, strict=True)
    else:
        # Of the jail's own network namespace, and neither bound nor listening: accept(2) is answered, not carried out.
        wanted[_WAITING] = named("socket", socket.socket, socket.AF_UNIX).detach()
        # It has them by path.
        gone_by_exec |= {FD_SHARE, FD_PROC}
    # Two moves, since a descriptor may already sit on a number that another one wants.
    parked = {
        number: named("fcntl(F_DUPFD)", fcntl.fcntl, held, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        for number, held in wanted.items()
    }
    for number, held in parked.items():
        named("dup2", os.dup2, held, number, number not in gone_by_exec)
    for number in set(range(FD_END)) - set(wanted):
        os.closerange(number, number + 1)
    processes.close_from(FD_END)


def drop_capabilities(plan: LaunchPlan) -> None:
    """Keeps the plan's capabilities, across exec, and locks everything that could bring others back.

    Should: do with files of mapped ids what the guest's root may. Must not: hold, or ever regain by exec, set-ID or a
    change of ids, any other capability. The kernel's own account is read back and compared.
    """
    if plan.lock_capabilities:
        _lock_capabilities(plan)
    capabilities.set_capabilities(plan.capabilities, plan.capabilities, plan.capabilities)
    named("prctl(PR_SET_NO_NEW_PRIVS)", prctl.set_no_new_privs, 1)
    _compare_status(plan)
    if plan.lock_capabilities and prctl.get_securebits() != plan.securebits:
        raise SyscallError(0, "compare(securebits)")


def landlock_domain(plan: LaunchPlan) -> None:
    """Enters a Landlock domain in which only the share can be opened, and only the worker binary run.

    Should: open and change files of the share as far as the share allows. Must not: open any file elsewhere, connect or
    bind TCP, signal or connect to a process outside, speak to a device.
    """
    if plan.landlock is None:
        return
    wanted = plan.landlock
    ruleset = landlock_syscalls.create_ruleset(wanted.handled_fs, wanted.handled_net, wanted.scoped)
    _allow(ruleset, FD_SHARE, wanted.share_rights)
    _allow(ruleset, FD_BINARY, wanted.binary_rights)
    for path, rights in plan.program.readable if plan.program else ():
        place = named("open(program)", os.open, path, os.O_PATH | os.O_CLOEXEC)
        _allow(ruleset, place, rights)
        os.close(place)
    # The package takes a leftover errno for a failure of its own call.
    processes.clear_errno()
    named("landlock_restrict_self", landlock.plumbing.get_restrict_self(), ruleset, wanted.restrict_flags)
    os.close(ruleset)


def seccomp_filter(plan: LaunchPlan) -> None:
    """Puts the filters before every further system call.

    Should: make the calls of the table. Must not: make any other, not even on the way to the worker's first line.
    """
    if plan.program is not None:
        _ask_supervisor(plan.program)
    processes.load_seccomp(plan.seccomp_unlogged, 0)
    processes.load_seccomp(plan.seccomp, plan.seccomp_flags)


def execute(plan: LaunchPlan) -> None:
    """Becomes the worker: `virtiofs-worker SHARE`, empty environment. Returns only by raising.

    Should: be the worker. Must not: execute anything ever again.
    """
    own = (b"virtiofs-worker", plan.share.encode())
    processes.execute_descriptor(FD_BINARY, plan.program.arguments if plan.program else own, plan.exec_key)


# ------------------------------------------------------------------------------------------------------------------


def parent_signal_holds(plan: LaunchPlan) -> None:
    """A change of ids or capabilities may clear the parent-death signal without a word: looks, once all are made."""
    if plan.end_with_supervisor and prctl.get_pdeathsig() != signal.SIGKILL:
        raise SyscallError(0, "compare(parent-death signal)")


def _write(path: bytes, content: bytes, name: str) -> None:
    descriptor = named(f"open({name})", os.open, path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        named(f"write({name})", os.write, descriptor, content)
    finally:
        os.close(descriptor)


def _open_at(directory: int, path: bytes, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, dir_fd=directory)


def _expect(report: int, word: bytes, call: str) -> None:
    """Waits for *word* from the supervisor; end of file means that it is gone, which is errno 0."""
    if named(call, os.read, report, 1) != word:
        raise SyscallError(0, call)


def _lock_capabilities(plan: LaunchPlan) -> None:
    """Empties the bounding set, locks the securebits, and makes the plan's capabilities survive exec."""
    everything = capabilities.permitted_set()
    # Before the bounding set goes: nothing outside of it may become inheritable.
    capabilities.set_capabilities(everything, everything, plan.capabilities)
    for capability in range(plan.last_capability + 1):
        _drop_bounding(capability)
    named("prctl(PR_SET_SECUREBITS)", prctl.set_securebits, plan.securebits & ~_AMBIENT_SECUREBITS)
    for capability in range(plan.last_capability + 1):
        if plan.capabilities >> capability & 1:
            capabilities.raise_ambient(capability)
    # Only now: these bits forbid the raising above.
    capabilities.set_securebits(plan.securebits)


def _drop_bounding(capability: int) -> None:
    if capability <= prctl.CAP_LAST_CAP:
        named("prctl(PR_CAPBSET_DROP)", prctl.capbset_drop, capability)
    else:
        # Newer than the headers python-prctl was built with: it refuses the number.
        capabilities.drop_bounding(capability)


def _ask_supervisor(program: ProgramPlan) -> None:
    """From here on accept(2) waits for the supervisor, which gets the descriptor to answer by."""
    listener = notifying.load_asking(program.waiting)
    report = socket.socket(fileno=FD_REPORT)
    named("sendmsg(listener)", socket.send_fds, report, [RECORD.pack(Stage.LANDLOCK, 0, 0)], [listener])
    report.detach()
    os.close(listener)


def _allow(ruleset: int, descriptor: int, rights: int) -> None:
    rule = landlock.plumbing.PathBeneathAttr(rights, descriptor)
    processes.clear_errno()
    named("landlock_add_rule", landlock.plumbing.get_add_rule(), ruleset, _RULE_PATH_BENEATH, rule, 0)


def _compare_status(plan: LaunchPlan) -> None:
    """Reads the capability sets and no_new_privs of this process back from the kernel. Raises SyscallError."""
    descriptor = named("read(status)", _open_at, FD_PROC, b"self/status", os.O_RDONLY)
    try:
        status = named("read(status)", os.read, descriptor, 16384)
    finally:
        os.close(descriptor)
    fields = dict(line.split(b":", 1) for line in status.splitlines())
    wanted = dict.fromkeys((b"CapInh", b"CapPrm", b"CapEff", b"CapAmb"), plan.capabilities)
    if plan.lock_capabilities:
        wanted[b"CapBnd"] = 0
    if any(int(fields[name], 16) != mask for name, mask in wanted.items()):
        raise SyscallError(0, "compare(capabilities)")
    if int(fields[b"NoNewPrivs"]) != 1:
        raise SyscallError(0, "compare(capabilities)")
