"""The last process before the worker: runs the stages in order and reports each one."""

from __future__ import annotations

import os
from typing import NoReturn

from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.launcher import stages
from virtiofs_sandbox.launcher.mounting import Taken
from virtiofs_sandbox.launcher.reports import RECORD, Stage, call_number
from virtiofs_sandbox.policies.share import Tier
from virtiofs_sandbox.syscalls.base import SyscallError

EXIT_FAILED = 127


class Progress:
    """Where the launch stands, and how the supervisor learns of it."""

    def __init__(self, report: int) -> None:
        self.report = report
        self._stage = Stage.PARENT

    def done(self, stage: Stage) -> None:
        self._send(stage, 0, 0)
        self._stage = Stage(stage + 1)

    def unheld(self, rule: int) -> None:
        """One rule found nothing to be mounted over. No failure: its number, counted from 1, in the place of errno."""
        self._send(self._stage, 0, rule + 1)

    def failed(self, error: SyscallError) -> None:
        self._send(self._stage, call_number(error.call), error.errno or 0)

    def _send(self, stage: Stage, call: int, errno: int) -> None:
        os.write(self.report, RECORD.pack(stage, call, errno))


def run(plan: LaunchPlan, received: stages.Received, taken: Taken | None) -> NoReturn:
    """Becomes the worker, or reports why not and ends."""
    progress = Progress(received.report)
    try:
        _build(plan, received, taken, progress)
    except SyscallError as error:
        progress.failed(error)
    finally:
        os._exit(EXIT_FAILED)


def _build(plan: LaunchPlan, received: stages.Received, taken: Taken | None, progress: Progress) -> None:
    stages.parent(plan, received.report)
    progress.done(Stage.PARENT)
    stages.supervisor_alive(received.report)
    handed = _plain(plan, progress) if plan.tier is Tier.BARE else _mounted(plan, taken, progress)
    stages.descriptors(plan, received, handed)
    progress.report = stages.FD_REPORT
    progress.done(Stage.DESCRIPTORS)
    stages.drop_capabilities(plan)
    stages.parent_signal_holds(plan)
    progress.done(Stage.CAPABILITIES)
    stages.landlock_domain(plan)
    progress.done(Stage.LANDLOCK)
    stages.seccomp_filter(plan)
    progress.done(Stage.SECCOMP)
    stages.execute(plan)


def _mounted(plan: LaunchPlan, taken: Taken | None, progress: Progress) -> stages.Handed:
    taken, proc = stages.own_mounts(plan, taken)
    progress.done(Stage.MOUNTS)
    share = stages.own_root(plan, taken, progress.unheld)
    null = stages.null_of_a_mount(proc, taken.null)
    if plan.program is not None:
        stages.own_program(plan.program, taken, proc)
    progress.done(Stage.ROOT)
    return stages.Handed(share, proc, taken.binary, *null)


def _plain(plan: LaunchPlan, progress: Progress) -> stages.Handed:
    handed = stages.plain_directories(plan)
    progress.done(Stage.MOUNTS)
    # The root stays the host's: nothing is done in that stage.
    progress.done(Stage.ROOT)
    return handed
