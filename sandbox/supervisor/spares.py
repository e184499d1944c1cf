"""How many shares of one supervisor keep a worker warm for a client that has not come yet.

A warm worker is a jail that costs memory and does nothing. So there is a budget, and who was used last comes first: its
client is the likeliest to come back. A share without a spare launches when a connection is accepted, and its client
waits in the line meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable


class Spares:
    """At most *most* shares keep a spare. One that has to give its spare up may need a moment for that."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._claims: list[Claim] = []
        self._uses = itertools.count(1)

    def claim(self, changed: Callable[[], None]) -> Claim:
        """For one share, which *changed* tells that another's doing granted its claim or took it back."""
        claim = Claim(self, changed)
        self._claims.append(claim)
        return claim

    def use(self) -> int:
        """A number above all before it."""
        return next(self._uses)

    def divide(self, by: Claim) -> None:
        """Grants what there is, after *by* changed."""
        # Sorting is stable: of those never used, who came first comes first.
        wanting = sorted((claim for claim in self._claims if claim.wanted), key=lambda claim: -claim.used)
        for claim in set(self._claims).difference(wanting[: self.most]):
            claim.grant(granted=False, told=claim is not by)
        for claim in wanting[: self.most]:
            claim.grant(granted=True, told=claim is not by)

    def forget(self, claim: Claim) -> None:
        self._claims.remove(claim)
        self.divide(claim)


class Claim:
    """What one share wants of the budget, and whether it has it."""

    def __init__(self, spares: Spares, changed: Callable[[], None]) -> None:
        self.wanted = False
        self.used = 0
        self._spares = spares
        self._changed = changed
        self._granted = False
        self._closed = False

    def want(self, *, wanted: bool) -> bool:
        """Whether the share may keep a spare now. One that had no use for it was used itself."""
        if wanted != self.wanted and not self._closed:
            if self.wanted or self.used:
                self.used = self._spares.use()
            self.wanted = wanted
            self._spares.divide(self)
        return self._granted

    def grant(self, *, granted: bool, told: bool) -> None:
        if granted != self._granted:
            self._granted = granted
            if told:
                self._changed()

    def close(self) -> None:
        """The share ends: the next one may have what it held."""
        if not self._closed:
            self._closed = True
            self.wanted = self._granted = False
            self._spares.forget(self)
