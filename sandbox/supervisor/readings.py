"""Shares at one moment: what `top` is told of them, and what metrics are made from.

Numbers that come from workers are claims. They are summed up as they are, and cut to 64 bits where a document has to
hold them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.requests import FIGURES_BYTES, Figures, Identity, ShareFigures, fitting
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.share import Share, Tier
from virtiofs_sandbox.supervisor.active import ActiveShare
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.tallies import Tally

_MOST = 2**64 - 1


@dataclass(frozen=True)
class Reading:
    """One share. *share* has the limits that hold now; *workers* by state; *total* over all workers that ever were.

    *disks* as Groups.disk_figures has them.
    """

    share: Share
    tier: Tier
    policy: Path | None
    workers: Mapping[State, int]
    clients: tuple[Peer, ...]
    restarts: int
    total: Statistics
    tally: Tally
    disks: Mapping[str, Mapping[str, int]]


def read(active: ActiveShare) -> Reading:
    service = active.service
    found = (slot.statistics() for slot in service.slots)
    try:
        disks = active.groups.disk_figures()
    except OSError:
        disks = {}
    return Reading(
        share=active.sharing.bounded(service.terms.share),
        tier=service.terms.plan.tier,
        policy=active.policy,
        workers=Counter(slot.state for slot in service.slots),
        clients=service.clients,
        restarts=service.restarts,
        total=active.tally.total(one for one in found if one is not None),
        tally=active.tally,
        disks=disks,
    )


def figures(shares: Iterable[ActiveShare], after: str | None) -> Figures:
    """Of *shares* those whose names come behind *after*, as many as one reply may hold."""
    behind = sorted((one for one in shares if after is None or one.name > after), key=lambda one: one.name)
    told = fitting(_figures(behind), FIGURES_BYTES)
    return Figures(at=time.monotonic(), shares=told, more=len(told) < len(behind))


def _figures(shares: Iterable[ActiveShare]) -> Iterator[ShareFigures]:
    for active in shares:
        clients = active.service.clients
        found = (slot.statistics() for slot in active.service.slots)
        total = active.tally.total(one for one in found if one is not None)
        yield ShareFigures(
            share=active.name,
            tag=active.service.terms.share.tag,
            tier=active.service.terms.plan.tier.value,
            state=active.service.state,
            client=Identity(pid=clients[0].pid, uid=clients[0].uid) if clients else None,
            clients=len(clients),
            restarts=active.service.restarts,
            requests=_cut(total.requests),
            errors=_cut(total.errors),
            bytes_read=_cut(total.bytes_read),
            bytes_written=_cut(total.bytes_written),
            delayed=_cut(sum(one.delayed for one in total.throttled.values())),
            nanoseconds_delayed=_cut(sum(one.nanoseconds_delayed for one in total.throttled.values())),
            latency={name: _without_tail(counts) for name, counts in total.latency.items()},
            inodes=_cut(total.inodes),
            handles=_cut(total.handles),
            descriptors=_cut(total.descriptors),
            depth=_cut(sum(ring.depth for ring in total.rings.values())),
            counted=active.service.terms.share.program is None,
        )


def _without_tail(counts: tuple[int, ...]) -> tuple[int, ...]:
    last = max((place for place, count in enumerate(counts) if count), default=-1)
    return tuple(map(_cut, counts[: last + 1]))


def _cut(claim: int) -> int:
    return min(claim, _MOST)
