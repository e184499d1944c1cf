"""What a share may do at most once its group is taken into account: its own limits or its part, whichever is less."""

from __future__ import annotations

import dataclasses

from virtiofs_sandbox.policies.share import DiskLimits, Rates, RequestLimits, Share

FIELDS = tuple(field.name for field in dataclasses.fields(Rates))


def bounded(share: Share, part: Rates | None = None) -> Share:
    """*share* with limits on requests that are no more than *part*, or than its group's whole budget without one."""
    if share.group is None:
        return share
    own, bound = share.limits or RequestLimits(), part or share.group.requests
    rates = {name: least(getattr(own, name), getattr(bound, name)) for name in FIELDS}
    if all(rate is None for rate in rates.values()):
        return share
    return dataclasses.replace(share, limits=dataclasses.replace(own, **rates))  # type: ignore[arg-type]  # all are rates


def bounded_disk(share: Share) -> DiskLimits:
    """The share's limits on its disks, none of them above its group's whole budget."""
    own = share.control.disk
    if share.group is None:
        return own
    budget = share.group.disk
    return dataclasses.replace(
        own,
        read=least(own.read, budget.read),
        write=least(own.write, budget.write),
        read_ops=least(own.read_ops, budget.read_ops),
        write_ops=least(own.write_ops, budget.write_ops),
    )


def least(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, None being none."""
    return min((rate for rate in (one, other) if rate is not None), default=None)
