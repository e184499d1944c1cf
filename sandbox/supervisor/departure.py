"""How the first client of a share went, for who serves that one alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from virtiofs_sandbox.ipc.exits import ExitCode
from virtiofs_sandbox.supervisor.slot import Slot


@dataclass(frozen=True)
class Departure:
    """*clean*: it hung up, or we stopped; *protocol_error*: it sent something that is refused. Neither: its worker's
    fault, its memory's, or none got ready for it; *reason* says which.
    """

    clean: bool
    protocol_error: bool
    reason: str


class FirstDeparture:
    """To be made inside the event loop."""

    def __init__(self) -> None:
        self._noted: asyncio.Future[Departure] = asyncio.get_running_loop().create_future()

    def wait(self) -> Awaitable[Departure]:
        """Resolves when it is noted; giving up the wait changes nothing."""
        return asyncio.shield(self._noted)

    def note_hang_up(self) -> None:
        """The first client is gone before it was served."""
        if not self._noted.done():
            self._noted.set_result(Departure(clean=True, protocol_error=False, reason="the client hung up at once"))

    def note(self, slot: Slot, *, somebody_waits: bool) -> None:
        """*slot* is gone. One that had no client counts only if its launch failed and a client waits for it."""
        if self._noted.done():
            return
        if slot.peer is not None:
            ending = slot.ending
            departure = Departure(
                clean=slot.failure is None and ending is not None and ending.is_uneventful,
                protocol_error=ending is not None and ending.code is ExitCode.PROTOCOL,
                reason=slot.failure or str(ending),
            )
        elif slot.failure is not None and somebody_waits:
            departure = Departure(clean=False, protocol_error=False, reason=f"no worker gets ready: {slot.failure}")
        else:
            return
        self._noted.set_result(departure)
