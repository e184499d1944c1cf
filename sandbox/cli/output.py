"""Where the supervisor's events become lines: of text or JSON on standard error, or entries of the journal.

In text form the line that says *ready*, with what to paste into a monitor, goes to standard output; the other forms
have it as an event among the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

from virtiofs_sandbox.cli.hints import monitor_lines
from virtiofs_sandbox.cli.logform import LogForm, json_line, text_line
from virtiofs_sandbox.cli.outlet import Outlet, Stream
from virtiofs_sandbox.cli.text import STANDARD_ERROR, STANDARD_OUTPUT, complain
from virtiofs_sandbox.ipc.requests import LogLine
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import LogLevel, Share
from virtiofs_sandbox.supervisor import journal
from virtiofs_sandbox.supervisor.events import (
    Event,
    Failed,
    LinesLost,
    Listening,
    Reloaded,
    ShareStarting,
    Stopped,
)
from virtiofs_sandbox.supervisor.loglines import printable
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.recording import line_of


def form_of(wanted: LogForm | None, environ: Mapping[str, str]) -> LogForm:
    """The form that was asked for, else the journal's where standard error leads there, else text."""
    if wanted is not None:
        return wanted
    return LogForm.JOURNAL if journal.is_at(STANDARD_ERROR, environ) else LogForm.TEXT


class Output:
    """Shows the events of each share up to its log level, which a reload may change, and keeps them in *recent*."""

    def __init__(
        self,
        share: Share | None = None,
        form: LogForm = LogForm.TEXT,
        recent: Recent | None = None,
        *,
        hints: bool = True,
    ) -> None:
        """*share* is the one whose level holds for what happens before it listens; without, there are several. Without
        *hints* nobody is told what to say to a monitor.
        """
        self._levels = {} if share is None else {share.name: share.log_level}
        self._hints = hints and share is not None
        self._form = form
        self._recent = recent or Recent()
        self._log: _Log = _JournalLog() if form is LogForm.JOURNAL else _StreamLog(form)
        self._start = Stream(STANDARD_OUTPUT)
        self._starts = Outlet(self._start.send, lost=lambda _: (b"", b""))

    def show(self, event: Event) -> None:
        """Never waits, and never fails: a reader that is gone or does not read ends no service."""
        match event:
            case Listening():
                self._levels[event.share] = event.serves.log_level
            case ShareStarting():
                self._levels[event.share] = event.serves.log_level
            case Reloaded():
                self._levels[event.share] = event.log_level
        wanted = event.level.rank <= self._levels.get(event.share, LogLevel.INFO).rank
        # Whoever starts a share waits for that line, whatever the level.
        if not wanted and not isinstance(event, Listening):
            return
        line = line_of(event, datetime.now(UTC))
        self._recent.keep(line)
        if isinstance(event, Listening) and self._form is LogForm.TEXT:
            self._starts.put(_ended(_ready(event, hints=self._hints)))
        else:
            self._log.show(line)
        if isinstance(event, Stopped):
            self._levels.pop(event.share, None)

    def failed(self, command: str, share: str, reason: object) -> None:
        """A share that cannot be started: for people as every command complains, else as an event."""
        if self._form is LogForm.TEXT:
            complain(command, reason)
        else:
            self.show(Failed(share, str(reason)))

    def close(self) -> None:
        """The last try for what nobody has taken yet."""
        self._starts.close()
        self._start.close()
        self._log.close()


class _Log(Protocol):
    def show(self, line: LogLine) -> None: ...
    def close(self) -> None: ...


class _StreamLog:
    def __init__(self, form: LogForm) -> None:
        self._make = json_line if form is LogForm.JSON else text_line
        self._stream = Stream(STANDARD_ERROR)
        self._outlet = Outlet(self._stream.send, lost=lambda number: (_ended(self._make(_lost(number))), b""))

    def show(self, line: LogLine) -> None:
        self.put(_ended(self._make(line)))

    def close(self) -> None:
        self._outlet.close()
        self._stream.close()

    def put(self, text: bytes) -> None:
        self._outlet.put(text)


class _JournalLog:
    """Entries, and text on standard error while there is no journal."""

    def __init__(self) -> None:
        self._journal = journal.Journal()
        self._text = _StreamLog(LogForm.TEXT)
        self._outlet = Outlet(self._journal.send, lost=lambda number: _both(_lost(number)), instead=self._text.put)

    def show(self, line: LogLine) -> None:
        self._outlet.put(*_both(line))

    def close(self) -> None:
        self._outlet.close()
        self._text.close()
        self._journal.close()


def _both(line: LogLine) -> tuple[bytes, bytes]:
    return journal.entry(line), _ended(text_line(line))


def _ended(text: str) -> bytes:
    return f"{text}\n".encode(errors="backslashreplace")


def _lost(number: int) -> LogLine:
    return line_of(LinesLost("", number), datetime.now(UTC))


def _ready(event: Listening, *, hints: bool) -> str:
    share = event.serves
    source = f"a tree of {len(share.children)}" if share.source is None else printable(os.fsencode(share.source))
    socket = printable(os.fsencode(event.socket))
    policy = "" if event.policy is None else f", policy: {shown(event.policy)}"
    line = (
        f"ready: {source} as tag {share.tag} on {socket} "
        f"(jail: {event.tier.value}, cache: {share.cache.value}, access: {share.access.value}{policy})"
    )
    if hints and not event.monitor_waiting and socket.startswith("/"):
        return f"{line}\n{monitor_lines(socket, share.tag)}"
    return line
