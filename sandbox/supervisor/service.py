"""One share in service: its listener, the line of waiting monitors, the workers that serve and the one that is warm.

There are as many places as the policy says clients may be. Each *holder* is a slot whose client has one of them, and
there is at most one *next*, the slot that will have one. Without a client in the line there is a next only if the
supervisor's budget of spares has one for this share. Whatever happens ends in `_settle`, which looks at the whole
picture and does what is due; nothing else decides.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path

from virtiofs_sandbox.policies.share import Rates, Share
from virtiofs_sandbox.supervisor.backoff import Backoff
from virtiofs_sandbox.supervisor.changes import Change, Reach, changes
from virtiofs_sandbox.supervisor.clients import Client, Peer
from virtiofs_sandbox.supervisor.departure import Departure, FirstDeparture
from virtiofs_sandbox.supervisor.events import (
    AcceptFailed,
    BackingOff,
    ClientRefused,
    ClientsGaveUp,
    ClientWaits,
    Listening,
    Sink,
    SpareDismissed,
    StillThere,
    TakesEffectLater,
    WorkerReplaced,
)
from virtiofs_sandbox.supervisor.jailmounts import JailMounts
from virtiofs_sandbox.supervisor.listener import Listener
from virtiofs_sandbox.supervisor.slot import Launch, Slot
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.states import GOING, State
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.waiting import WaitingLine
from virtiofs_sandbox.supervisor.watching import Watching
from virtiofs_sandbox.supervisor.worker import Terms

_ACCEPTS_AT_ONCE = 16


class StartError(Exception):
    """The first worker did not get ready; str() says why."""


class Service:
    """To be made inside the event loop; then `start`, `listen`, and in the end `stop`."""

    def __init__(
        self,
        terms: Terms,
        launch: Launch,
        sink: Sink,
        timing: Timing,
        *,
        policy: Path | None = None,
        spares: Spares | None = None,
        watching: Watching | None = None,
    ) -> None:
        """*launch* launches the worker of a generation, by the terms that hold when its turn comes; they are those of
        the file *policy*. *restarts* counts workers that failed and were replaced. *spares* and *watching* are those of
        all shares of a supervisor; without *spares* there is one.
        """
        self._share = terms.share.name
        self._terms = terms
        self._policy = policy
        self._launch = launch
        self._sink = sink
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._line = WaitingLine(timing.patience)
        self._backoff = Backoff(timing.backoff)
        self._not_before = -math.inf
        self._empty_since = self._loop.time()
        self._watching = watching or Watching(timing)
        self._claim = (Spares(1) if spares is None else spares).claim(self._settle_soon)
        self._departure = FirstDeparture()
        self._listener: Listener | None = None
        self._accepting = False
        self._holders: list[Slot] = []
        self._next: Slot | None = None
        self._replaced: list[Slot] = []
        self._launched = 0
        self.restarts = 0
        self._stopping = False
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._change = asyncio.Event()

    @property
    def terms(self) -> Terms:
        """The newest: what the next worker is launched by."""
        return self._terms

    @property
    def holders(self) -> tuple[Slot, ...]:
        """Those whose clients have the places, in the order in which they got them."""
        return tuple(self._holders)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in (*self._holders, self._next, *self._replaced) if slot is not None)

    @property
    def slot(self) -> Slot | None:
        """The first whose client has a place, else the one that will have it."""
        return next(iter(self.slots), None)

    @property
    def settled(self) -> bool:
        """Every worker there is works by the newest terms."""
        return all(slot.settled for slot in self.slots)

    @property
    def state(self) -> str:
        """That of its worker, as docs/control.md has it."""
        if self.slot is None:
            return "stopping" if self._stopping else "idle"
        return self.slot.state.name.lower()

    @property
    def stopping(self) -> bool:
        return self._stopping

    @property
    def listener(self) -> Listener | None:
        """Where connections are accepted."""
        return self._listener

    @property
    def clients(self) -> tuple[Peer, ...]:
        """Who is served now."""
        return tuple(slot.peer for slot in self.slots if slot.peer is not None)

    @property
    def socket(self) -> str | None:
        """Where connections are accepted, as it is called."""
        return None if self._listener is None else self._listener.name

    def since(self, slot: Slot | None) -> float:
        """When *slot* came to its state, in seconds of Unix time; without one, since when there is none."""
        return time.time() - (self._loop.time() - (self._empty_since if slot is None else slot.since))

    @property
    def keepers(self) -> tuple[int, ...]:
        """Of all jails there are, pids that are nobody else's before this loop goes on."""
        return tuple(slot.pid for slot in self.slots if slot.pid is not None)

    def departure(self) -> Awaitable[Departure]:
        """Resolves when the first client's jail is gone, or the launch failed that it waited for."""
        return self._departure.wait()

    async def start(self) -> None:
        """Returns once a worker is warm. What fails now would fail for every client: StartError, nothing left.

        Where the budget has no spare for this share, nothing is tried before a client comes.
        """
        if not self._claim.want(wanted=True):
            return
        slot = self._new_slot()
        self._next = slot
        while slot.state in (State.BACKOFF, State.WARMING, State.KILLED):
            await self._changed()
        if slot.state is State.GONE:
            self._next = None
            raise StartError(f"no worker gets ready: {slot.failure}")

    def listen(self, listener: Listener) -> None:
        """Takes over *listener* and accepts from now on."""
        self._listener = listener
        waiting = listener.somebody_waits()
        self._resume_accepting()
        self._sink(
            Listening(self._share, listener.name, waiting, self._terms.share, self._terms.plan.tier, self._policy)
        )
        self._settle_soon()

    def take_over(self, terms: Terms) -> tuple[str, ...]:
        """The share is what *terms* say from now on, as far as it can be while clients stay.

        What a running worker cannot take over waits until its client leaves, and is returned in words; a worker without
        a client is replaced.
        """
        if self._stopping:
            return ()
        terms = dataclasses.replace(terms, part=self._terms.part)
        before, self._terms = self._terms.share, terms
        # Each of them once, whichever holders it waits for.
        waiting = dict.fromkeys(self._too_many(before))
        for holder in self._holders:
            late = tuple(change.words for change in _beyond(Reach.MOUNTS, holder, terms))
            if late and holder.state not in GOING:
                waiting |= dict.fromkeys(late)
                self._sink(TakesEffectLater(self._share, holder.generation, holder.peer, late))
            holder.adopt(dataclasses.replace(terms, among=holder.newest.among))
        if self._next is not None:
            # Mounts of a jail that nobody uses yet are sooner made anew than changed.
            same_mounts = JailMounts.built(self._next.terms.plan) == JailMounts.built(terms.plan)
            if self._next.state is State.BACKOFF or (same_mounts and not _beyond(Reach.SETTINGS, self._next, terms)):
                self._next.adopt(dataclasses.replace(terms, among=self._next.newest.among))
            else:
                self._sink(WorkerReplaced(self._share, self._next.generation, None))
                self._retire(self._next)
        self._settle_soon()
        return tuple(waiting)

    def _too_many(self, before: Share) -> Iterator[str]:
        """Nobody is sent away because there are fewer places than before."""
        if len(self._staying) > self._places:
            for change in changes(before, self._terms.share):
                if change.field == "max_clients":
                    yield change.words

    def renew(self, *, now: bool) -> None:
        """Whoever comes from now on is served by a worker that is launched after this; *now*: who is served already
        loses its connection.
        """
        self._not_before = -math.inf
        if self._next is not None:
            self._sink(WorkerReplaced(self._share, self._next.generation, None))
            self._retire(self._next)
        if now:
            self.end_clients()
        self._settle_soon()

    def end_clients(self) -> None:
        """Ends the jails that serve, so that what waits for them takes effect. Their clients lose the connection."""
        for slot in self.slots:
            if slot.peer is not None:
                slot.stop(self._timing.stop_grace)

    def move(self, listener: Listener) -> None:
        """Accepts on *listener* instead. Who has connected to the one before is served."""
        if self._listener is not None:
            self._accept_ready()
            self._close_listener()
        self.listen(listener)

    def withdraw(self) -> None:
        """Accepts nobody from now on, and launches nothing: `vacated` when its clients have left. `listen` ends it."""
        self._close_listener()
        self._line.close()
        self._claim.want(wanted=False)
        if self._next is not None:
            self._retire(self._next)
        self._settle_soon()

    async def vacated(self) -> None:
        """Returns once there is no worker, which without a listener is for good."""
        while self.slots:
            self._settle()
            if self.slots:
                await self._changed()

    def hold_to(self, part: Rates | None) -> None:
        """Whatever the share asks of its workers, it is no more than *part* of its group's budget from now on."""
        if self._terms.part == part:
            return
        self._terms = dataclasses.replace(self._terms, part=part)
        self._share_out()

    async def stop(self, grace: float) -> bool:
        """Closes the socket, asks the workers to end and waits until they have, by force if need be.

        False when a killed process would not go: it hangs in the kernel.
        """
        self._stopping = True
        self._claim.close()
        self._close_listener()
        self._line.close()
        for slot in self.slots:
            slot.stop(grace)
        try:
            async with asyncio.timeout(grace + self._timing.stop_margin + self._timing.give_up):
                while self.slots:
                    self._settle()
                    if self.slots:
                        await self._changed()
        except TimeoutError:
            pids = tuple(slot.pid for slot in self.slots if slot.pid is not None)
            if pids:
                self._sink(StillThere(self._share, pids))
            return False
        finally:
            self._cancel_timers()
        return True

    def kill(self, reason: str) -> None:
        """Cuts a `stop` under way short."""
        for slot in self.slots:
            slot.kill(reason)

    # Slots.

    def _new_slot(self) -> Slot:
        self._launched += 1
        return Slot(
            self._among(len(self._holders) + 1),
            # A u32 in every message; wrapped around it would still tell neighbours apart.
            self._launched & 0xFFFFFFFF,
            launch=self._launch,
            sink=self._sink,
            changed=self._slot_changed,
            timing=self._timing,
            watching=self._watching,
            delay=max(0.0, self._not_before - self._loop.time()),
        )

    def _slot_changed(self) -> None:
        self._change.set()
        self._settle_soon()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()

    # The one place that decides.

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._cancel_timers()
        self._bury()
        if self._stopping or self._listener is None:
            return
        departed = self._line.drop_departed()
        if departed:
            self._sink(ClientsGaveUp(self._share, departed))
            if not self._holders and not self._line:
                self._departure.note_hang_up()
        self._provide()
        self._share_out()
        if self._seat():
            self._provide()
            self._share_out()
        self._look_after_the_line()
        if not self._line.full:
            self._resume_accepting()

    @property
    def _places(self) -> int:
        return self._terms.share.max_clients

    @property
    def _staying(self) -> list[Slot]:
        """Holders that nobody expects to go."""
        return [holder for holder in self._holders if holder.state not in GOING]

    def _provide(self) -> None:
        """Sees to it that there is a next for who waits, or as a spare, and else none."""
        room = len(self._staying) < self._places
        spare = self._claim.want(wanted=room and not self._line)
        needed = room and (bool(self._line) or spare)
        if needed and self._next is None:
            self._next = self._new_slot()
        elif not needed and self._next is not None:
            self._sink(SpareDismissed(self._share, self._next.generation, None))
            self._retire(self._next)

    def _retire(self, slot: Slot) -> None:
        """The next is not to be the next."""
        slot.stop(0.0)
        self._replaced.append(slot)
        self._next = None

    def _share_out(self) -> None:
        """Has the limits divided among all holders, and the next as soon as somebody waits for it."""
        present = len(self._holders)
        coming = int(bool(self._line) and self._next is not None and present < self._places)
        for holder in self._holders:
            _follow(holder, self._among(present + coming))
        if self._next is not None:
            _follow(self._next, self._among(present + 1))

    def _among(self, number: int) -> Terms:
        """What one of so many holders goes by."""
        limited = self._places > 1 and self._terms.bounded.limits is not None
        return dataclasses.replace(self._terms, among=max(1, min(number, self._places)) if limited else 1)

    def _bury(self) -> None:
        """Forgets slots that are gone, and notes how long the next launch has to wait for it."""
        gone = [slot for slot in self.slots if slot.state is State.GONE]
        self._holders = [holder for holder in self._holders if holder not in gone]
        if self._next in gone:
            self._next = None
        self._replaced = [slot for slot in self._replaced if slot not in gone]
        if gone and not self.slots:
            self._empty_since = self._loop.time()
        delay = 0.0
        for slot in gone:
            if slot.failure is not None and not self._stopping:
                self.restarts += 1
                delay = self._backoff.failed(self._loop.time())
                self._not_before = self._loop.time() + delay
            if slot.returned is not None:
                self._take_back(slot.returned)
            else:
                self._departure.note(slot, somebody_waits=bool(self._line))
        if delay:
            self._sink(BackingOff(self._share, self._backoff.failures, delay))

    def _take_back(self, client: Client) -> None:
        if self._stopping or self._listener is None:
            client.close()
        else:
            self._line.rejoin(client)

    def _seat(self) -> bool:
        """Gives a place, if one is free, to whoever is first in line. The others must have made room by then: of the
        limits nobody has more than is left.
        """
        if len(self._holders) >= self._places or self._next is None or not self._next.takes_client:
            return False
        if not all(holder.settled for holder in self._holders):
            return False
        client = self._line.call_up()
        if client is None:
            return False
        if not self._next.serve(client):
            self._line.rejoin(client)
            return False
        self._holders.append(self._next)
        self._next = None
        return True

    def _look_after_the_line(self) -> None:
        """Turns away who waited too long beside holders that stay, and sees to it that we look again in time."""
        if not self._line:
            return
        look_again = self._loop.time() + self._timing.patience
        serving = [holder for holder in self._holders if holder.state is State.SERVING]
        if len(serving) >= self._places:
            if any(holder.notice_hang_up() for holder in serving):
                return
            since = max(holder.since for holder in serving)
            for client in self._line.overdue(self._loop.time(), since):
                self._sink(ClientRefused(self._share, client.peer, _peers(serving), self._timing.patience))
                client.close()
            look_again = self._line.next_deadline(since) or look_again
        if self._line:
            self._timer = self._loop.call_at(look_again, self._settle)

    def _cancel_timers(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Accepting.

    def _accept_ready(self) -> None:
        """Takes what has come, a limited number at a time, so that a flood of connections starves nobody."""
        for _ in range(_ACCEPTS_AT_ONCE):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Takes one connection; False when there is none, or no place for another."""
        if self._listener is None:
            return False
        try:
            connection = self._listener.accept()
        except OSError as error:
            pause = self._timing.accept_pause
            self._sink(AcceptFailed(self._share, error.strerror or str(error), pause, error.errno))
            self._pause_accepting()
            self._loop.call_later(pause, self._settle_soon)
            return False
        if connection is None:
            return False
        client = Client(connection, self._loop.time())
        self._line.join(client)
        full = len(self._holders) >= self._places
        self._sink(ClientWaits(self._share, client.peer, _peers(self._holders) if full else ()))
        self._settle_soon()
        if self._line.full:
            self._line.drop_departed()
        if self._line.full:
            self._pause_accepting()
        return not self._line.full

    def _close_listener(self) -> None:
        self._pause_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _resume_accepting(self) -> None:
        if self._listener is not None and not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept_ready)

    def _pause_accepting(self) -> None:
        if self._listener is not None and self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())


def _follow(slot: Slot, terms: Terms) -> None:
    if slot.newest != terms:
        slot.adopt(terms)


def _peers(slots: Iterable[Slot]) -> tuple[Peer, ...]:
    return tuple(slot.peer for slot in slots if slot.peer is not None)


def _beyond(reach: Reach, slot: Slot, terms: Terms) -> list[Change]:
    """What of *terms* takes more than *reach* for the jail of *slot*."""
    return [change for change in changes(slot.terms.share, terms.share) if change.reach.rank > reach.rank]
