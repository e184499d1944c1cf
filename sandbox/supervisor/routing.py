"""What is asked of a supervisor: of all its shares at once, of its making, or of the one share that is meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from virtiofs_sandbox.ipc import requests
from virtiofs_sandbox.ipc.requests import Done, Listing, Reloaded, Reply, Request, RequestError, Standing, fitting
from virtiofs_sandbox.supervisor.active import ActiveShare
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.readings import figures
from virtiofs_sandbox.supervisor.recent import Recent


class Household(Protocol):
    """The shares of one supervisor. Whatever takes a share's name raises RequestError for one that is not known."""

    @property
    def shares(self) -> Mapping[str, ActiveShare]:
        """Those that have workers, or may have them as soon as somebody connects."""

    def standings(self) -> Mapping[str, Standing]:
        """Of all, by name, those that are not in service too."""

    async def reload(self, name: str | None, *, now: bool) -> Reloaded:
        """Reads the policy of one, or of all, again."""

    async def restart(self, name: str, *, now: bool) -> Done:
        """New workers for one."""

    async def stop_share(self, name: str, *, now: bool, by: Peer) -> Done:
        """Takes one out of service."""

    def stop_all(self, by: Peer) -> None:
        """Ends the supervisor, soon."""


class Routing:
    """Passes each question on to whom it is meant for. The log is *recent*'s to tell."""

    def __init__(self, household: Household, recent: Recent) -> None:
        self._household = household
        self._recent = recent

    async def __call__(self, request: Request, peer: Peer) -> Reply:
        """Raises RequestError."""
        match request:
            case requests.ListShares() | requests.ReadFigures() | requests.ReadLog():
                return await self._read(request)
            case requests.Reload():
                return await self._household.reload(request.share, now=request.now)
            case requests.Restart():
                return await self._household.restart(self._meant(request.share), now=request.now)
            case requests.Stop():
                return await self._stop(request, peer)
            case _:
                return await self._of_share(request, peer)

    async def _stop(self, request: requests.Stop, peer: Peer) -> Done:
        if not request.all:
            return await self._household.stop_share(self._meant(request.share), now=request.now, by=peer)
        if request.share is not None:
            raise RequestError("malformed", "stop: a share is named, and all are meant")
        self._household.stop_all(peer)
        return Done(changes=("the supervisor is stopping",))

    async def _read(self, request: requests.ListShares | requests.ReadFigures | requests.ReadLog) -> Reply:
        """Of all shares, or of one."""
        if isinstance(request, requests.ListShares):
            return self._listing()
        if isinstance(request, requests.ReadLog):
            # Shares that are gone have left lines, maybe.
            if request.share is not None and request.share not in self._recent:
                self._meant(request.share)
            return await self._recent.answer(request)
        if request.share is None:
            return figures(self._household.shares.values(), request.after)
        return figures((self._in_service(self._meant(request.share)),), request.after)

    def _listing(self) -> Listing:
        all_of_them = [_without_rules(standing) for standing in self._household.standings().values()]
        shares = fitting(all_of_them, requests.LISTING_BYTES)
        return Listing(shares=shares, left_out=len(all_of_them) - len(shares))

    async def _of_share(self, request: requests.ShareRequest, peer: Peer) -> Reply:
        name = self._meant(request.share)
        if isinstance(request, requests.ReadStatus):
            return self._household.standings()[name]
        return await self._in_service(name).answers(request, peer)

    def _in_service(self, name: str) -> ActiveShare:
        active = self._household.shares.get(name)
        if active is None:
            standing = self._household.standings()[name]
            raise RequestError(
                "not-in-service", f"share {name} is not in service ({standing.state}): {standing.reason}"
            )
        return active

    def _meant(self, name: str | None) -> str:
        known = self._household.standings()
        if name is None:
            if len(known) != 1:
                raise RequestError("unknown-share", f"{len(known)} shares are known here: name one")
            return next(iter(known))
        if name not in known:
            raise RequestError("unknown-share", f"no share called {name!r} is known here")
        return name


def _without_rules(standing: Standing) -> Standing:
    number = len(standing.rules) + standing.rules_left_out
    return msgspec.structs.replace(standing, rules=(), rules_left_out=number)
