"""A plan with less in it than the share could have."""

from __future__ import annotations

from dataclasses import replace

from virtiofs_sandbox.confine.plan import LaunchPlan


def lessened(plan: LaunchPlan, *, nofile: int | None = None, dropped: int = 0) -> LaunchPlan:
    """*plan* with at most *nofile* open files, and without the capabilities of the mask *dropped*."""
    soft, hard = plan.nofile
    most = hard if nofile is None else nofile
    return replace(plan, nofile=(min(soft, most), min(hard, most)), capabilities=plan.capabilities & ~dropped)
