"""A share as a member of its group: from a policy that names one, period after period, until it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.budgets.member import Drawing, Member, Part
from virtiofs_sandbox.budgets.registry import GroupBusyError, Registry
from virtiofs_sandbox.cgroups.planning import CannotLimitError
from virtiofs_sandbox.policies.bounding import FIELDS, bounded, least
from virtiofs_sandbox.policies.share import Membership, Rates, Share, Unenforceable

# Of all members at the same moments: what is wanted, then who takes less, then who takes more.
PERIOD = 1.0
IDLE_PERIOD = 5.0
_LESS_AFTER = 0.2
_MORE_AFTER = 0.3


class Sharing:
    """The share as a member of whatever group its policy names."""

    def __init__(self, directory: Path, warn: Callable[[str], None]) -> None:
        """*directory* has a directory for each group; *warn* gets a sentence when the division fails."""
        self._directory = directory
        self._warn = warn
        self._member: Member | None = None
        self._drawing: Drawing | None = None
        self._work: asyncio.Task[None] | None = None

    @property
    def part(self) -> Part | None:
        """None without a group."""
        return None if self._member is None else self._member.part

    @property
    def requests(self) -> Rates | None:
        return None if self.part is None else self.part.requests

    @property
    def disk(self) -> Rates:
        return Rates() if self.part is None else self.part.disk

    def bounded(self, share: Share) -> Share:
        """*share* with the limits that hold now, in a group or not."""
        if self.part is None:
            return bounded(share)
        own = share.control.disk
        disk = {name: least(getattr(own, name), getattr(self.disk, name)) for name in FIELDS if hasattr(own, name)}
        control = dataclasses.replace(share.control, disk=dataclasses.replace(own, **disk))
        return dataclasses.replace(bounded(share, self.part.requests), control=control)

    def follow(self, share: Share) -> None:
        """Enters the group that *share* names and leaves the one before; a new weight or budget holds from here.

        Raises CannotLimitError where that is impossible and the policy refuses to go without.
        """
        old = self._member
        if share.group is None:
            self._member = None
        elif old is not None and old.group.name == share.group.name:
            old.change(share)
            return
        else:
            self._member = self._entered(share, share.group)
        if old is not None:
            self._stop()
            old.leave()
        self._begin()

    def draw(self, drawing: Drawing) -> None:
        """Measures *drawing* and tells it of its parts, from now on."""
        self._drawing = drawing
        self._begin()

    def close(self) -> None:
        self._stop()
        if self._member is not None:
            self._member.leave()
            self._member = None

    def _entered(self, share: Share, group: Membership) -> Member | None:
        try:
            return Member(share, group, Registry(self._directory / group.name))
        except (OSError, GroupBusyError) as error:
            sentence = f"the group {group.name} cannot be joined: {error}"
            if share.control.unenforceable is Unenforceable.REFUSE:
                raise CannotLimitError(f"limits.group.name: {sentence}") from error
            self._warn(f"limits.group.name is not held: {sentence}; this share alone may use up its whole budget")
            return None

    def _begin(self) -> None:
        if self._work is None and self._member is not None and self._drawing is not None:
            self._work = asyncio.ensure_future(self._run(self._member, self._drawing))
            self._work.add_done_callback(self._ended)

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def _ended(self, work: asyncio.Task[None]) -> None:
        """What the share holds, it keeps."""
        if not work.cancelled() and (error := work.exception()) is not None:
            self._warn(f"limits.group: the division stands still: fault in the supervisor: {error!r}")

    async def _run(self, member: Member, drawing: Drawing) -> None:
        trouble = ""
        while True:
            period = IDLE_PERIOD if member.idle else PERIOD
            await asyncio.sleep(period - time.monotonic() % period)
            try:
                await _step(member, drawing)
            except OSError as error:
                # What it holds, it keeps; nobody takes more than is left.
                if str(error) != trouble:
                    self._warn(f"limits.group: the division stands still: {error}")
                trouble = str(error)
            else:
                trouble = ""


async def _step(member: Member, drawing: Drawing) -> None:
    """One period. Raises OSError."""
    member.publish(drawing)
    await asyncio.sleep(_LESS_AFTER)
    if await member.take_less(drawing):
        await asyncio.sleep(_MORE_AFTER)
        member.take_more(drawing)
