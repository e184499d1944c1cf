"""What the zygote does all its life, and the intermediate process of each launch.

A fork copies page tables, so this process stays small: it imports what the stages need and nothing else, and freezes
its heap. It trusts its one peer, the supervisor, and reads from nobody else.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from typing import NoReturn

import landlock.plumbing
import msgspec
import prctl
from virtiofs_sandbox.confine import ids
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.launcher import keeper, stages
from virtiofs_sandbox.launcher.reports import ANSWER, MAPPED, REQUEST_NUMBER, Stage, call_number
from virtiofs_sandbox.syscalls import processes
from virtiofs_sandbox.syscalls.base import SyscallError, named

SOCKET = 3
MAX_REQUEST_BYTES = 128 * 1024
DESCRIPTORS = 6


def serve(supervisor: socket.socket) -> NoReturn:
    """Becomes the zygote: keeps *supervisor* and nothing else, and forks a jail for each request until it closes."""
    peer = _shed(supervisor)
    # Both look up the C library on first use; done here, no child does it.
    landlock.plumbing.get_add_rule()
    landlock.plumbing.get_restrict_self()
    decoder = msgspec.msgpack.Decoder(LaunchPlan)
    gc.disable()
    gc.freeze()
    while True:
        request, descriptors, _, _ = socket.recv_fds(peer, MAX_REQUEST_BYTES, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not request:
            os._exit(0)
        try:
            number = REQUEST_NUMBER.unpack_from(request)[0]
            plan = decoder.decode(memoryview(request)[REQUEST_NUMBER.size :])
            peer.send(ANSWER.pack(number, *_fork_jail(plan, stages.Received(*descriptors))))
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
    first = _answer(peer)
    if first[1]:
        return first
    try:
        ids.write_maps(intermediate, plan.uid_map, plan.gid_map, deny_setgroups=plan.deny_setgroups)
    except SyscallError as error:
        return _failure(Stage.USER_NAMESPACE, error)
    peer.send(MAPPED)
    return _answer(peer)


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
    try:
        stages.limits(plan)
        stage = Stage.USER_NAMESPACE
        stages.user_namespace()
        zygote.send(ANSWER.pack(0, stage, 0, 0, 0))
        if zygote.recv(1) == MAPPED:
            stage = Stage.NAMESPACES
            stages.namespaces()
            pid = named("fork", os.fork)
            if pid == 0:
                keeper.run(plan, received)
            zygote.send(ANSWER.pack(0, stage, 0, 0, pid))
    except SyscallError as error:
        zygote.send(ANSWER.pack(0, *_failure(stage, error)))
    finally:
        os._exit(0)
