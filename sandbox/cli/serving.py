"""The resident part of `serve`, loaded once the zygote is forked."""

from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

from virtiofs_sandbox.cli.foreground import REFUSALS, bind, check_sources, serve_listener
from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.cli.output import Output, form_of
from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.confine import LaunchPlan, prepare, probe_host
from virtiofs_sandbox.launcher import Launcher, Zygote
from virtiofs_sandbox.policies import loader
from virtiofs_sandbox.policies.narrowing import WideningError
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor.activation import PassedSockets
from virtiofs_sandbox.supervisor.berth import Ground
from virtiofs_sandbox.supervisor.listener import Listener, ListenError
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.serving import Fleeting, run_fleet
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z


class Planner:
    """Plans launches for the host as it was when looked at last: one look serves many shares."""

    def __init__(self, worker: Path | None) -> None:
        self._worker = worker
        self._host = probe_host()

    def look_anew(self) -> None:
        self._host = probe_host()

    def plan(self, share: Share) -> LaunchPlan:
        """Raises ShareError, CannotConfineError."""
        check_sources(share)
        return prepare(share, self._host, worker=self._worker)


def serve(
    directory: Path,
    *,
    control: Path,
    worker: Path | None,
    zygote: Zygote,
    passed: tuple[tuple[str, int], ...],
    notifier: Notifier,
    log_format: LogForm | None = None,
    metrics: MetricsAddress | None = None,
) -> int:
    """Serves until a signal; returns the exit status. *passed* are the inherited sockets, *control* is the directory of
    the control socket; Prometheus is told on *metrics*, or where the site says.
    """
    planner = Planner(worker)
    launching = Launching(zygote, Zygote.start, Launcher)
    return hold(
        directory,
        planner,
        launching,
        control=control,
        passed=passed,
        notifier=notifier,
        log_format=log_format,
        metrics=metrics,
    )


def hold(
    directory: Path,
    planner: Planner,
    launching: Launching[Z],
    *,
    control: Path,
    passed: tuple[tuple[str, int], ...] = (),
    notifier: Notifier | None = None,
    log_format: LogForm | None = None,
    metrics: MetricsAddress | None = None,
) -> int:
    """As `serve`, by any planner and launcher."""
    _allow_many_descriptors()
    recent = Recent()
    output = Output(form=form_of(log_format, os.environ), recent=recent)
    try:
        sockets = PassedSockets(passed)
        site = loader.site(directory)
        fleeting = Fleeting(
            directory,
            Ground(planner.plan, lambda policy, before: _listener(policy, before, sockets)),
            planner.look_anew,
            lambda: serve_listener(control),
            site.warm,
            REFUSALS,
            metrics=metrics or site.metrics,
        )
        clean = asyncio.run(
            run_fleet(
                fleeting,
                launching,
                sink=output.show,
                timing=Timing(),
                notifier=notifier or Notifier(None),
                passed=sockets,
                recent=recent,
            )
        )
    except (ListenError, PolicyError, WideningError) as error:
        launching.zygote.close()
        output.failed("serve", "", error)
        return Status.WIDENS if isinstance(error, WideningError) else Status.FAILED
    finally:
        output.close()
    return Status.DONE if clean else Status.FAILED


def _listener(policy: Policy, before: Listener | None, sockets: PassedSockets) -> Listener:
    return sockets.listener(policy.name, policy.socket, policy) or bind(policy.socket, instead_of=before)


def _allow_many_descriptors() -> None:
    """Each share takes about ten, and the soft limit is made for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
