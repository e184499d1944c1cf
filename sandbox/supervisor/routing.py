"""Which share a question is about, where one control socket answers for several."""

from __future__ import annotations

from collections.abc import Mapping

from virtiofs_sandbox.ipc.requests import ReadFigures, Reply, Request, RequestError
from virtiofs_sandbox.supervisor.active import ActiveShare
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.readings import figures


class Routing:
    """Passes each question on to the share it names. *shares*, by name, may change at any time."""

    def __init__(self, shares: Mapping[str, ActiveShare]) -> None:
        self._shares = shares

    async def __call__(self, request: Request, peer: Peer) -> Reply:
        """Raises RequestError."""
        if isinstance(request, ReadFigures):
            shares = self._shares.values() if request.share is None else (self._meant(request.share),)
            return figures(shares, request.after)
        return await self._meant(request.share).answers(request, peer)

    def _meant(self, name: str | None) -> ActiveShare:
        if name is None:
            if len(self._shares) != 1:
                raise RequestError("unknown-share", f"{len(self._shares)} shares are in service here: name one")
            return next(iter(self._shares.values()))
        try:
            return self._shares[name]
        except KeyError:
            raise RequestError("unknown-share", f"no share called {name!r} is in service here") from None
