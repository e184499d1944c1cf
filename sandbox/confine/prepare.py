"""From a share and a host to a launch plan."""

from __future__ import annotations

from pathlib import Path

from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.policies.share import Share


class CannotConfineError(Exception):
    """No jail can be built on this host; str() is one sentence that says which layer is missing and what to change."""


def prepare(share: Share, host: HostProbe, *, worker: Path, end_with_supervisor: bool = True) -> LaunchPlan:
    """Settles every number of the launch. A layer this host lacks is refused here or named in `warnings` (I7).

    *worker* is the static binary to run. With *end_with_supervisor* the jail is killed when its supervisor dies.
    Raises CannotConfineError.
    """
    raise NotImplementedError
