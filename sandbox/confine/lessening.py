"""A plan with less in it than the share could have."""

from __future__ import annotations

from dataclasses import replace

from virtiofs_sandbox.confine.plan import LaunchPlan


def lessened(plan: LaunchPlan, *, nofile: int | None = None, dropped: int = 0) -> LaunchPlan:
    """*plan* with at most *nofile* open files, and without the capabilities of the mask *dropped*."""
    soft, hard = plan.nofile
    most = hard if nofile is None else nofile
    lesser = replace(plan, nofile=(min(soft, most), min(hard, most)), capabilities=plan.capabilities & ~dropped)
    if plan.program is None:
        return lesser
    from virtiofs_sandbox.confine import foreign  # noqa: PLC0415 - as in planning

    # It has to be told what it does without, and needs what it drops the others by.
    held = lesser.capabilities | plan.capabilities & foreign.to_drop_others(0)
    return replace(lesser, capabilities=held, program=foreign.without(plan.program, held))
