"""The ways a share can be run here, and what the launcher says of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.planning import prepare
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.share import Access, Identity, IdMap, Sandbox, Share, Tier


@dataclass(frozen=True)
class Way:
    """*tier* None: it cannot be had, and *refusal* says why. *ids* is who owns what a guest creates: caller or self."""

    name: str
    tier: Tier | None
    ids: str | None
    warnings: tuple[str, ...]
    refusal: str | None


# What a policy asks for, from nothing in particular to everything.
_ASKED = {
    "as the defaults say": (Access.READ_WRITE, Identity()),
    'access = "read-only"': (Access.READ_ONLY, Identity()),
    'identity.map = "identity"': (Access.READ_WRITE, Identity(map=IdMap.IDENTITY)),
    'identity.map = "squash"': (Access.READ_WRITE, Identity(map=IdMap.SQUASH)),
    'identity.map = "range"': (Access.READ_WRITE, Identity(map=IdMap.RANGE)),
    'identity.map = "range", idmapped = true': (Access.READ_WRITE, Identity(map=IdMap.RANGE, idmapped=True)),
}


def ways(host: HostProbe) -> tuple[Way, ...]:
    """What `prepare` makes of each of them, with no minimum asked for."""
    return tuple(_way(name, host, access, identity) for name, (access, identity) in _ASKED.items())


def best(found: tuple[Way, ...]) -> Tier | None:
    """The strongest tier of all *found*; None if no jail can be built at all."""
    tiers = [way.tier for way in found if way.tier is not None]
    return min(tiers, key=lambda tier: tier.rank, default=None)


def _way(name: str, host: HostProbe, access: Access, identity: Identity) -> Way:
    share = Share("doctor", Path("/"), "doctor", access=access, identity=identity, sandbox=Sandbox(minimum=Tier.BARE))
    try:
        plan = prepare(share, host, worker=Path("virtiofs-worker"))
    except CannotConfineError as error:
        return Way(name, None, None, (), str(error))
    return Way(name, plan.tier, plan.ids, plan.warnings, None)
