"""One launch and the client it serves: the state table put to work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from virtiofs_sandbox.confine.plan import HeldRule
from virtiofs_sandbox.ipc.exits import Ending, ExitCode
from virtiofs_sandbox.ipc.messages import PROTOCOL_VERSION, ClientStep, Kind, Message
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.ipc.transport import ChannelClosedError
from virtiofs_sandbox.launcher import LaunchError
from virtiofs_sandbox.supervisor.adoption import Adoption
from virtiofs_sandbox.supervisor.clients import Client, Peer
from virtiofs_sandbox.supervisor.dialogue import WrongAnswerError
from virtiofs_sandbox.supervisor.events import (
    ClientProgress,
    ClientReturned,
    ClientServed,
    LaunchFailed,
    LinesDropped,
    RequestHangs,
    Sink,
    WorkerEnded,
    WorkerKilled,
    WorkerSaid,
    WorkerWarm,
)
from virtiofs_sandbox.supervisor.loglines import Dropped, LogLine
from virtiofs_sandbox.supervisor.states import ADOPTING, Event, OutOfOrderError, State, next_state
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.watching import Watching
from virtiofs_sandbox.supervisor.worker import Terms, Worker, start_message, stop_message

_MESSAGE_EVENTS = {
    Kind.READY: Event.READY,
    Kind.CLIENT: Event.CLIENT,
    Kind.LEAVING: Event.LEAVING,
    Kind.APPLIED: Event.APPLIED,
}
Launch = Callable[[int, Terms], Awaitable[Worker]]


class Slot:
    """Launches after *delay* seconds; tells *changed* after every change of state. Ends in State.GONE, once.

    *terms* are what its jail was launched by, *newest* those that it follows as far as it can. *returned* is a client
    whose connection it was given and never received: the caller's again, once it is gone.
    """

    def __init__(
        self,
        terms: Terms,
        generation: int,
        *,
        launch: Launch,
        sink: Sink,
        changed: Callable[[], None],
        timing: Timing,
        watching: Watching,
        delay: float,
    ) -> None:
        self.terms = self.newest = terms
        self.share = terms.share.name
        self.generation = generation
        self.state = State.BACKOFF
        self.since = asyncio.get_running_loop().time()
        self.peer: Peer | None = None
        self.failure: str | None = None
        self.ending: Ending | None = None
        self.returned: Client | None = None
        self._launch = launch
        self._sink = sink
        self._changed = changed
        self._timing = timing
        self._watching = watching
        self._grace = timing.stop_grace
        self._client: Client | None = None
        self._worker: Worker | None = None
        self._adoption = Adoption(terms, self, sink, timing, changed)
        self._asked = False
        self._kill_reason: str | None = None
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self._task: asyncio.Future[Worker] | None = None
        self._deadline: asyncio.TimerHandle | None = self._loop.call_later(delay, self._enter, Event.RETRY)

    @property
    def pid(self) -> int | None:
        """The keeper's, while it runs."""
        return self._worker.pid if self._worker else None

    @property
    def takes_client(self) -> bool:
        """Ready, and by the newest rules."""
        return self.state is State.WARM and self.settled

    @property
    def replaceable(self) -> bool:
        return self.state is State.WARM

    @property
    def settled(self) -> bool:
        """No change of the policy is on its way into the jail."""
        return self._adoption.settled

    @property
    def layers(self) -> tuple[HeldRule, ...]:
        """Of each path rule, whether a mount holds it now besides the worker."""
        return self._adoption.layers

    @property
    def stuck_after(self) -> float | None:
        """Seconds that a request may be in flight."""
        return self.newest.share.stuck_after

    def oldest_start(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds, 0 while no request is in flight, as its worker claims."""
        return self._worker.oldest_start() if self._worker else 0

    def reads(self) -> bool:
        """Whether its worker has read all that it was told."""
        return self._worker is None or self._worker.all_read

    def waits_for_storage(self, seconds: float, doing: str) -> None:
        """Somebody should know why the guest waits."""
        self._sink(RequestHangs(self.share, self.generation, self.peer, seconds, doing))

    def statistics(self) -> Statistics | None:
        """What its worker claims, while it is up."""
        return self._worker.statistics() if self._worker else None

    def adopt(self, terms: Terms) -> None:
        """Takes over of *terms* what a running jail can; a launch that has not begun takes all of it.

        The newest wins. A worker that does not follow is killed if it would go on by rules that forbid less.
        """
        self.newest = terms
        if self.state is State.BACKOFF:
            self.terms = terms
            self._adoption = Adoption(terms, self, self._sink, self._timing, self._changed)
        else:
            self._adoption.aim(terms)

    def fail(self, reason: str) -> None:
        """Ends the jail by its worker's fault."""
        self._kill(reason)

    def serve(self, client: Client) -> bool:
        """Hands *client* over. False, and the client stays the caller's, when the worker is gone already."""
        if self._worker is None:
            return False
        try:
            self._worker.send(start_message(self.generation, client), client)
        except (ChannelClosedError, BlockingIOError):
            self._kill("it does not take a client")
            return False
        self._client, self.peer = client, client.peer
        self._sink(ClientServed(self.share, self.generation, self.peer, self._loop.time() - client.arrived))
        self._enter(Event.START)
        return True

    def notice_hang_up(self) -> bool:
        """Looks whether the client is gone, which a worker that hangs would not tell."""
        if self.state is State.SERVING and self._client is not None and self._client.hung_up():
            self._enter(Event.HANG_UP)
            return True
        return False

    def stop(self, grace: float) -> None:
        """Asks the worker to drain for at most *grace* seconds and end."""
        if self.state in (State.STOPPING, State.KILLED, State.GONE):
            return
        self._asked = True
        self._grace = grace
        self._enter(Event.STOP)
        self._send_stop()

    def kill(self, reason: str) -> None:
        """Ends the jail without asking. A launch under way is given up."""
        self._asked = True
        self._kill(reason)

    # What the worker does (WorkerHandler).

    def received(self, message: Message) -> None:
        if message.generation != self.generation:
            self._kill(f"it speaks for launch {message.generation}")
            return
        complaint = _complaint(message)
        if complaint:
            self._kill(complaint)
            return
        try:
            next_state(self.state, _MESSAGE_EVENTS[message.kind])
        except OutOfOrderError as error:
            self._kill(f"out of order: {error}")
            return
        if message.kind is Kind.APPLIED:
            try:
                self._adoption.answered(message)
            except WrongAnswerError as error:
                self._kill(str(error))
            return
        self._tell(message)
        self._enter(_MESSAGE_EVENTS[message.kind])

    def violated(self, reason: str) -> None:
        self._kill(f"broken control message: {reason}")

    def logged(self, line: LogLine | Dropped) -> None:
        match line:
            case LogLine():
                self._sink(WorkerSaid(self.share, self.generation, self.peer, line.level, line.text))
            case Dropped():
                self._sink(LinesDropped(self.share, self.generation, self.peer, line.lines))

    def ended(self, ending: Ending) -> None:
        statistics = self.statistics()
        self.ending = ending
        untaken = self._worker is not None and self._worker.start_unread
        self._worker = None
        if not self._asked:
            self.failure = self._kill_reason
            if self.state in (State.WARMING, State.WARM):
                self.failure = f"ended without having had a client: {ending}"
            elif ending.is_failure and self.failure is None:
                self.failure = str(ending)
        expected = self.failure is None
        self._sink(WorkerEnded(self.share, self.generation, self.peer, ending, expected, statistics))
        if untaken and self._client is not None and not self._client.hung_up():
            self._sink(ClientReturned(self.share, self.generation, self.peer))
            self.returned, self._client = self._client, None
        self._enter(Event.EXIT)

    # Inside.

    def _enter(self, event: Event) -> None:
        state = next_state(self.state, event)
        if state is self.state:
            # A worker that repeats itself does not push its deadline away.
            return
        self.state = state
        self.since = self._loop.time()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        limit = self._limit()
        if limit is not None:
            seconds, reason = limit
            self._deadline = self._loop.call_later(seconds, self._kill, reason)
        if event is Event.RETRY:
            self._begun = self.since
            self._task = asyncio.ensure_future(self._launch(self.generation, self.terms))
            self._task.add_done_callback(self._launched)
        if self.state is State.SERVING:
            self._watching.watch(self)
        else:
            self._watching.forget(self)
        if self.state in (State.LEAVING, State.GONE):
            # Ours is the last copy of the connection: the monitor must see the end now.
            self._release_client()
        if self.state not in ADOPTING:
            self._adoption.end()
        elif self._worker is not None:
            self._adoption.begin(self._worker)
        self._changed()

    def _limit(self) -> tuple[float, str] | None:
        match self.state:
            case State.WARMING:
                return self._timing.ready, f"not ready within {self._timing.ready:g} s"
            case State.DESERTED:
                return self._timing.leave, f"its client hung up {self._timing.leave:g} s ago and it does not end"
            case State.LEAVING:
                return self._timing.leave, f"still draining {self._timing.leave:g} s after its client left"
            case State.STOPPING:
                return self._grace + self._timing.stop_margin, f"not stopped within {self._grace:g} s"
            case _:
                return None

    def _launched(self, task: asyncio.Future[Worker]) -> None:
        if task.cancelled():
            if not self._asked:
                self._launch_failed(self._kill_reason or "given up")
            self._enter(Event.EXIT)
            return
        error = task.exception()
        if error is not None:
            expected = isinstance(error, LaunchError | OSError)
            self._launch_failed(str(error) if expected else f"fault in the supervisor: {error!r}")
            self._enter(Event.EXIT)
            return
        self._worker = task.result()
        self._worker.watch(self)
        if self.state is State.KILLED:
            self._worker.mute()
            self._worker.kill()
        elif self.state is State.STOPPING:
            self._send_stop()

    def _launch_failed(self, reason: str) -> None:
        self.failure = reason
        self._sink(LaunchFailed(self.share, self.generation, None, reason))

    def _send_stop(self) -> None:
        if self._worker is None:
            return
        try:
            self._worker.send(stop_message(self.generation, self._grace))
        except (ChannelClosedError, BlockingIOError):
            # Gone already, or deaf: the deadline decides.
            return

    def _kill(self, reason: str) -> None:
        if self.state in (State.KILLED, State.GONE):
            return
        self._kill_reason = reason
        if self._worker is not None:
            self._sink(WorkerKilled(self.share, self.generation, self.peer, reason))
            self._worker.mute()
            self._worker.kill()
        elif self._task is not None:
            self._task.cancel()
        self._enter(Event.KILL)

    def _tell(self, message: Message) -> None:
        if message.kind is Kind.READY and self.pid is not None:
            seconds = self._loop.time() - self._begun
            self._sink(WorkerWarm(self.share, self.generation, None, self.pid, seconds))
        if message.kind is Kind.CLIENT:
            step = ClientStep(message.code)
            self._sink(ClientProgress(self.share, self.generation, self.peer, step, message.a))

    def _release_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _complaint(message: Message) -> str | None:
    """What is wrong with the values of a well-formed message."""
    match message.kind:
        case Kind.READY if message.a != PROTOCOL_VERSION:
            return f"it speaks version {message.a} of the control protocol, this supervisor {PROTOCOL_VERSION}"
        case Kind.CLIENT if message.code not in set(ClientStep):
            return f"CLIENT with unknown code {message.code}"
        case Kind.LEAVING if message.code not in set(ExitCode):
            return f"LEAVING with unknown exit code {message.code}"
        case _:
            return None
