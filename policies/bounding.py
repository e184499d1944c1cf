"""What a share may do at most once its group is taken into account: its own limits or its part, whichever is less."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from virtiofs_sandbox.policies.share import DiskLimits, Rates, RequestLimits, Share
from virtiofs_sandbox.policies.values import MIN_BYTE_RATE, shown_byte_rate

# Less of a byte rate would hold up a single write for too long: policies/values.py.
_LEAST = {"read": MIN_BYTE_RATE, "write": MIN_BYTE_RATE}
FIELDS = tuple(field.name for field in dataclasses.fields(Rates))


def bounded(share: Share, part: Rates | None = None, among: int = 1) -> Share:
    """*share* with limits on requests that are no more than *part*, or than its group's whole budget without one, and
    for one of *among* workers that together keep to them.
    """
    share = _in_group(share, part)
    if share.limits is None or among == 1:
        return share
    own = share.limits
    # The least that a worker can be told is one a second.
    rates = {name: max(1, rate // among) for name in FIELDS if (rate := getattr(own, name)) is not None}
    return dataclasses.replace(share, limits=dataclasses.replace(own, **rates))


def _in_group(share: Share, part: Rates | None) -> Share:
    if share.group is None:
        return share
    own, bound = share.limits or RequestLimits(), part or share.group.requests
    rates = {name: least(getattr(own, name), getattr(bound, name)) for name in FIELDS}
    if all(rate is None for rate in rates.values()):
        return share
    return dataclasses.replace(share, limits=dataclasses.replace(own, **rates))  # type: ignore[arg-type]  # all are rates


def undividable(limits: RequestLimits | None, max_clients: int) -> Iterator[tuple[str, str]]:
    """Name and fault of each rate that so many clients cannot divide among them."""
    for name in FIELDS if limits is not None and max_clients > 1 else ():
        rate, least_each = getattr(limits, name), _LEAST.get(name, 1)
        if rate is not None and rate < least_each * max_clients:
            show = shown_byte_rate if name in _LEAST else "{}/s".format
            yield (
                name.replace("_", "-"),
                f"{show(rate)} among share.max_clients = {max_clients} would be less than {show(least_each)} for each; "
                f"{show(least_each * max_clients)} or more is accepted, or fewer clients",
            )


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
