"""One launch and the client it serves: the state table put to work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from virtiofs_sandbox.ipc.config import ConfigError, LiveSettings
from virtiofs_sandbox.ipc.exits import Ending, ExitCode
from virtiofs_sandbox.ipc.messages import PROTOCOL_VERSION, ClientStep, Kind, Message
from virtiofs_sandbox.ipc.transport import ChannelClosedError
from virtiofs_sandbox.launcher import LaunchError
from virtiofs_sandbox.supervisor.changes import live_settings
from virtiofs_sandbox.supervisor.clients import Client, Peer
from virtiofs_sandbox.supervisor.dialogue import Dialogue, WrongAnswerError
from virtiofs_sandbox.supervisor.events import (
    ClientProgress,
    ClientServed,
    LaunchFailed,
    LinesDropped,
    SettingsApplied,
    SettingsNotApplied,
    Sink,
    WorkerEnded,
    WorkerKilled,
    WorkerSaid,
    WorkerWarm,
)
from virtiofs_sandbox.supervisor.loglines import Dropped, LogLine
from virtiofs_sandbox.supervisor.states import ADOPTING, Event, OutOfOrderError, State, next_state
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.worker import Terms, Worker, settings_message, start_message, stop_message

_MESSAGE_EVENTS = {
    Kind.READY: Event.READY,
    Kind.CLIENT: Event.CLIENT,
    Kind.LEAVING: Event.LEAVING,
    Kind.APPLIED: Event.APPLIED,
}
Launch = Callable[[int, Terms], Awaitable[Worker]]


class Slot:
    """Launches after *delay* seconds; tells *changed* after every change of state. Ends in State.GONE, once."""

    def __init__(
        self,
        terms: Terms,
        generation: int,
        *,
        launch: Launch,
        sink: Sink,
        changed: Callable[[], None],
        timing: Timing,
        delay: float,
    ) -> None:
        self.terms = terms
        self.share = terms.share.name
        self.generation = generation
        self.state = State.BACKOFF
        self.since = 0.0
        self.peer: Peer | None = None
        self.failure: str | None = None
        self._launch = launch
        self._sink = sink
        self._changed = changed
        self._timing = timing
        self._grace = timing.stop_grace
        self._client: Client | None = None
        self._worker: Worker | None = None
        self._wanted = live_settings(terms.share, terms.share)
        self._dialogue = Dialogue(self._wanted)
        self._adopting: asyncio.Task[None] | None = None
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
    def settled(self) -> bool:
        """Nothing that the worker was told is under way."""
        return self._adopting is None

    def adopt(self, terms: Terms) -> None:
        """Takes over of *terms* what a running worker can; a launch that has not begun takes all of it.

        The newest wins. A worker that does not follow is killed if it would go on by rules that forbid less.
        """
        if self.state is State.BACKOFF:
            self.terms = terms
            self._wanted = live_settings(terms.share, terms.share)
            self._dialogue = Dialogue(self._wanted)
            return
        self._wanted = live_settings(self.terms.share, terms.share)
        self._look_to_settings()

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
            self._applied(message)
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
        statistics = self._worker.statistics() if self._worker else None
        self._worker = None
        if not self._asked:
            self.failure = self._kill_reason
            if self.state in (State.WARMING, State.WARM):
                self.failure = f"ended without having had a client: {ending}"
            elif ending.is_failure and self.failure is None:
                self.failure = str(ending)
        expected = self.failure is None
        self._sink(WorkerEnded(self.share, self.generation, self.peer, ending, expected, statistics))
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
        if self.state in (State.LEAVING, State.GONE):
            # Ours is the last copy of the connection: the monitor must see the end now.
            self._release_client()
        self._look_to_settings()
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

    # Live settings.

    def _look_to_settings(self) -> None:
        """Begins to tell the worker of new settings, or stops where there is nobody left to tell."""
        if self.state not in ADOPTING:
            if self._adopting is not None:
                self._adopting.cancel()
        elif self._adopting is None and self._wanted != self._dialogue.newest:
            self._adopting = asyncio.ensure_future(self._adopt())
            self._adopting.add_done_callback(self._adopted)

    async def _adopt(self) -> None:
        """Tells the worker of the newest settings until it works by them. One that fails to is judged by the newest."""
        while (settings := self._wanted) != self._dialogue.newest:
            problem = await self._tell_settings(settings)
            if problem is None:
                continue
            if problem.answered and self._wanted != settings:
                continue
            if self.state is State.WARM or self._dialogue.may_forbid_less_than(self._wanted):
                self._kill(f"{problem.words}, and it may allow what is forbidden now")
            else:
                self._sink(SettingsNotApplied(self.share, self.generation, self.peer, problem.words))
            return

    async def _tell_settings(self, settings: LiveSettings) -> _Problem | None:
        """Sends *settings* and waits for the answer."""
        if self._worker is None:
            return _Problem("it is gone", answered=False)
        told = self._dialogue.next(settings)
        try:
            self._worker.send_settings(settings_message(self.generation, told.serial), settings)
        except (ChannelClosedError, BlockingIOError):
            return _Problem("it does not take new settings", answered=False)
        except (ConfigError, OSError) as error:
            return _Problem(f"new settings cannot be sent: {error}", answered=True)
        self._dialogue.sent(told)
        try:
            async with asyncio.timeout(self._timing.settings):
                answer = await told.answer
        except TimeoutError:
            return _Problem(f"no answer to new settings within {self._timing.settings:g} s", answered=False)
        if answer.code:
            return _Problem(f"it refuses new settings: {os.strerror(answer.code)}", answered=True)
        return None

    def _applied(self, message: Message) -> None:
        """Late is not never: an answer after its time counts like any other."""
        try:
            told = self._dialogue.answered(message)
        except WrongAnswerError as error:
            self._kill(str(error))
            return
        if message.code == 0:
            seconds = self._loop.time() - told.began
            self._sink(SettingsApplied(self.share, self.generation, self.peer, told.serial, message.b, seconds))

    def _adopted(self, task: asyncio.Task[None]) -> None:
        self._adopting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._kill(f"fault in the supervisor: {error!r}")
        self._changed()

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


@dataclass(frozen=True)
class _Problem:
    """Why settings were not taken over; *answered*: other ones may yet be."""

    words: str
    answered: bool


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
