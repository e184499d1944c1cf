"""What the worker is told of a share's limits on requests."""

from __future__ import annotations

from virtiofs_sandbox.ipc.config import Limits
from virtiofs_sandbox.policies.share import RequestLimits


def worker_limits(limits: RequestLimits | None) -> Limits | None:
    """The same in whole milliseconds; None: no limit."""
    if limits is None:
        return None
    return Limits(
        read=limits.read,
        write=limits.write,
        read_ops=limits.read_ops,
        write_ops=limits.write_ops,
        metadata_ops=limits.metadata_ops,
        burst_ms=round(limits.burst * 1000),
        max_delay_ms=round(limits.max_delay * 1000),
    )
