"""A policy by name or file, and what would be started for it here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.cli.run import NoWorkerError, find_worker
from virtiofs_sandbox.confine import CannotConfineError, HostProbe, LaunchPlan, prepare, probe_host
from virtiofs_sandbox.policies.loader import default_directory, find, load
from virtiofs_sandbox.policies.policy import Policy


class NotPlannedError(Exception):
    """There is no worker to plan for, or no host to plan on; str() says why."""


@dataclass(frozen=True)
class Planned:
    """*plan* None: it was refused, and *refusal* says why."""

    policy: Policy
    directory: Path
    host: HostProbe
    plan: LaunchPlan | None
    refusal: str | None


def plan(options: argparse.Namespace) -> Planned:
    """Raises PolicyError, and NotPlannedError."""
    directory = options.policy_dir or default_directory()
    policy = load(find(options.policy, directory), directory)
    try:
        host = probe_host()
        worker = find_worker(options.worker)
    except NoWorkerError as error:
        raise NotPlannedError(str(error)) from error
    except OSError as error:
        raise NotPlannedError(f"{error}; mount /proc") from error
    try:
        return Planned(policy, directory, host, prepare(policy.share, host, worker=worker), None)
    except CannotConfineError as error:
        return Planned(policy, directory, host, None, str(error))
