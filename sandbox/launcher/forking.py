"""What the zygote does all its life, and the intermediate process of each launch.

A fork copies page tables, so this process stays small: it imports what the stages need and nothing else, and freezes
its heap. It trusts its one peer, the supervisor, and reads from nobody else.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

import landlock.plumbing
import msgspec
import prctl
from virtiofs_sandbox.confine import ids
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.launcher import keeper, mounting, stages
from virtiofs_sandbox.launcher.adjusting import Adjuster, Adjustment
from virtiofs_sandbox.launcher.mounting import Taken
from virtiofs_sandbox.launcher.reports import ANSWER, LAUNCH, MAPPED, RECORD, REQUEST, Stage, call_number
from virtiofs_sandbox.policies.share import Tier
from virtiofs_sandbox.syscalls import processes
from virtiofs_sandbox.syscalls.base import SyscallError, named

SOCKET = 3
MAX_REQUEST_BYTES = 192 * 1024
DESCRIPTORS = 6
MAX_MOUNTS = 253


def serve(supervisor: socket.socket) -> NoReturn:
    """Becomes the zygote: keeps *supervisor* and nothing else, and forks for each request until it closes."""
    peer = _shed(supervisor)
    # Both look up the C library on first use; done here, no child does it.
    landlock.plumbing.get_add_rule()
    landlock.plumbing.get_restrict_self()
    plans = msgspec.msgpack.Decoder(LaunchPlan)
    adjustments = msgspec.msgpack.Decoder(Adjustment)
    gc.disable()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(peer, MAX_REQUEST_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not request:
            os._exit(0)
        try:
            number, kind = REQUEST.unpack_from(request)
            body = memoryview(request)[REQUEST.size :]
            if kind == LAUNCH:
                answer = _fork_jail(plans.decode(body), stages.Received.of(descriptors))
            else:
                answer = _fork_adjuster(adjustments.decode(body))
            peer.send(ANSWER.pack(number, *answer))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


def _shed(supervisor: socket.socket) -> socket.socket:
    """Lets go of everything inherited but the socket, which moves to a fixed number."""
    prctl.set_pdeathsig(signal.SIGKILL)
    # A terminal's interrupt and a service manager's stop go to the whole group; the supervisor decides the order.
    signal.set_wakeup_fd(-1)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    parked = os.dup(supervisor.detach())
    for number in range(SOCKET):
        os.dup2(null, number)
    os.dup2(parked, SOCKET, inheritable=False)
    processes.close_from(SOCKET + 1)
    return socket.socket(fileno=SOCKET)


def _fork_jail(plan: LaunchPlan, received: stages.Received) -> tuple[int, int, int, int]:
    """Forks the intermediate, writes its id maps and waits until it is gone.

    Returns (stage, call, errno, keeper's pid). By then the keeper has been handed to the next subreaper.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        try:
            intermediate = named("fork", os.fork)
        except SyscallError as error:
            theirs.close()
            return _failure(Stage.LIMITS, error)
        if intermediate == 0:
            ours.close()
            _intermediate(plan, received, theirs)
        theirs.close()
        try:
            return _attend(plan, intermediate, ours)
        finally:
            # Its socket closed, an intermediate that still waits ends.
            ours.close()
            os.waitpid(intermediate, 0)


def _attend(plan: LaunchPlan, intermediate: int, peer: socket.socket) -> tuple[int, int, int, int]:
    """Follows the intermediate from the zygote's side, see _fork_jail."""
    if plan.tier is Tier.BARE:
        return _answer(peer)
    first = _answer(peer)
    if first[1]:
        return first
    try:
        _write_maps(plan, intermediate)
    except SyscallError as error:
        return _failure(Stage.USER_NAMESPACE, error)
    try:
        with _early_mounts(plan, intermediate) as mounts:
            named("send(mounts)", socket.send_fds, peer, [MAPPED], mounts)
    except SyscallError as error:
        return _failure(Stage.MOUNTS, error)
    return _answer(peer)


def _write_maps(plan: LaunchPlan, intermediate: int) -> None:
    if plan.map_helpers is None:
        ids.write_maps(intermediate, plan.uid_map, plan.gid_map, deny_setgroups=plan.deny_setgroups)
        return
    for name, path, own_map in zip(ids.HELPERS, plan.map_helpers, (plan.uid_map, plan.gid_map), strict=True):
        # They say why not on standard error, which goes nowhere here; the hint knows the reasons.
        child = named(name, os.posix_spawn, path, (path, b"%d" % intermediate, *own_map.split()), {})
        if os.waitpid(child, 0)[1]:
            raise SyscallError(0, name)


@contextlib.contextmanager
def _early_mounts(plan: LaunchPlan, intermediate: int) -> Iterator[tuple[int, ...]]:
    """Descriptors of the jail's mounts, where they have to be taken with the caller's ids and rights."""
    with contextlib.ExitStack() as held:
        if not plan.early_mounts:
            yield ()
            return
        namespace = None
        if plan.idmapped:
            path = b"/proc/%d/ns/user" % intermediate
            namespace = named("open(user namespace)", os.open, path, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, namespace)
        numbers = mounting.take(plan, namespace).numbers()
        for number in numbers:
            held.callback(os.close, number)
        yield numbers


def _fork_adjuster(wanted: Adjustment) -> tuple[int, int, int, int]:
    """Changes a jail's mounts in a child, which leaves our namespaces; (stage, call, errno, place of the failure)."""
    reading, writing = os.pipe()
    try:
        child = named("fork", os.fork)
    except SyscallError as error:
        os.close(reading)
        os.close(writing)
        return _failure(Stage.ADJUST, error)
    if child == 0:
        _adjust(wanted, writing)
    os.close(writing)
    try:
        record = os.read(reading, RECORD.size)
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    place, call, errno = RECORD.unpack(record) if record else (0, call_number("unknown call"), 0)
    return (Stage.ADJUST, call, errno, place)


def _adjust(wanted: Adjustment, answering: int) -> NoReturn:
    adjuster = Adjuster(wanted)
    try:
        adjuster.run()
        os.write(answering, RECORD.pack(0, 0, 0))
    except SyscallError as error:
        os.write(answering, RECORD.pack(adjuster.current, call_number(error.call), error.errno or 0))
    finally:
        os._exit(0)


def _answer(peer: socket.socket) -> tuple[int, int, int, int]:
    """The next answer of the intermediate; one that ended without any has failed in a way it could not name."""
    answer = peer.recv(ANSWER.size)
    if not answer:
        return (Stage.LIMITS, call_number("unknown call"), 0, 0)
    _, stage, call, errno, pid = ANSWER.unpack(answer)
    return (stage, call, errno, pid)


def _failure(stage: Stage, error: SyscallError) -> tuple[int, int, int, int]:
    return (stage, call_number(error.call), error.errno or 0, 0)


def _intermediate(plan: LaunchPlan, received: stages.Received, zygote: socket.socket) -> NoReturn:
    """Sets what the whole jail inherits, forks the keeper into the new namespaces, tells its pid and ends."""
    stage = Stage.LIMITS
    taken = None
    try:
        stages.limits(plan)
        if plan.tier is not Tier.BARE:
            stage = Stage.USER_NAMESPACE
            stages.user_namespace()
            zygote.send(ANSWER.pack(0, stage, 0, 0, 0))
            taken = _mapped(plan, zygote)
        stage = Stage.IDENTITY
        stages.become(plan)
        if plan.tier is not Tier.BARE:
            stage = Stage.NAMESPACES
            stages.namespaces()
        pid = named("fork", os.fork)
        if pid == 0:
            keeper.run(plan, received, taken)
        zygote.send(ANSWER.pack(0, stage, 0, 0, pid))
    except SyscallError as error:
        zygote.send(ANSWER.pack(0, *_failure(stage, error)))
    finally:
        os._exit(0)


def _mapped(plan: LaunchPlan, zygote: socket.socket) -> Taken | None:
    """Waits until the maps are written; the mounts that came with the word. Ends with a zygote that gave up."""
    word, descriptors, _, _ = socket.recv_fds(zygote, len(MAPPED), MAX_MOUNTS, socket.MSG_CMSG_CLOEXEC)
    if word != MAPPED:
        os._exit(0)
    return Taken.of(descriptors, plan) if descriptors else None
