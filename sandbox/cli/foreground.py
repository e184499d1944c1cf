"""The resident part in the foreground, loaded once the zygote is forked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.cli.output import Output
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan, prepare, probe_host
from virtiofs_sandbox.launcher import Launcher, Zygote
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.resident import run_share
from virtiofs_sandbox.supervisor.service import StartError
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z


def serve(share: Share, worker: Path, zygote: Zygote, listen: Callable[[], Listener]) -> int:
    """Returns the exit status."""
    try:
        plan = prepare(share, probe_host(), worker=worker)
    except CannotConfineError as error:
        zygote.close()
        complain("run", error)
        return 1
    return hold(share, plan, Launching(zygote, Zygote.start, Launcher), listen)


def hold(share: Share, plan: LaunchPlan, launching: Launching[Z], listen: Callable[[], Listener]) -> int:
    """Serves until a signal; returns the exit status."""
    output = Output(share, plan)
    try:
        clean = asyncio.run(run_share(share, plan, launching, listen=listen, sink=output.show, timing=Timing()))
    except (ListenError, StartError) as error:
        complain("run", error)
        return 1
    return 0 if clean else 1
