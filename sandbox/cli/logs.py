"""virtiofs-sandbox logs: what running shares have logged lately, and what they log from now on."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain
from virtiofs_sandbox.policies.share import LogLevel

if TYPE_CHECKING:
    from virtiofs_sandbox.ipc.requests import Log, LogLine

DESCRIPTION = """\
Prints the last lines of the log of running shares, oldest first, from the memory of their supervisor: up to 64 KiB of
each share, down to the share's own log level. What is older is where the log goes: standard error or the journal."""
_NUMBER = 100
_PAUSE = 0.5
_TRIES = 3


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "logs", help="the last lines of the log of running shares", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser, optional=True)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with each line that comes, until stopped")
    parser.add_argument(
        "-n", "--lines", metavar="N", type=_number, default=_NUMBER, help=f"at most so many (default: {_NUMBER})"
    )
    parser.add_argument(
        "--level",
        type=LogLevel,
        choices=list(LogLevel),
        default=LogLevel.DEBUG,
        metavar="{error,warning,info,debug}",
        help="nothing below this level (default: debug)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each line (docs/logs.md)")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    reading = _Reading(options)
    try:
        status = reading.last()
        while options.follow and reading.goes_on():
            reading.more()
    except BrokenPipeError:
        # Whoever reads has seen enough.
        return Status.DONE
    return status


@dataclass
class _Source:
    """One supervisor that is asked; *after* is what it said the next request names."""

    path: Path
    after: int | None = None
    unanswered: int = 0


class _Reading:
    """What was asked for, and how far each supervisor's log is read."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._directory = arguments.control_directory_of(options)
        self._sources: dict[Path, _Source] = {}
        self._complained = False

    def last(self) -> Status:
        """Prints the last lines there are."""
        found = self._of_all() if self._options.share is None else self._of_one(self._options.share)
        self._print(found, self._options.lines)
        return Status.FAILED if self._complained else Status.DONE

    def goes_on(self) -> bool:
        """Whether there is anybody left to ask."""
        if self._options.share is None:
            # One that was started meanwhile is followed as well.
            self._find()
        return bool(self._sources)

    def more(self) -> None:
        """Prints what has come since, and waits a while if that is nothing."""
        from virtiofs_sandbox.ipc.requests import MAX_LOG_LINES, MAX_WAIT_SECONDS  # noqa: PLC0415

        wait = MAX_WAIT_SECONDS if len(self._sources) == 1 else 0.0
        began = time.monotonic()
        found = [line for one in tuple(self._sources.values()) for line in self._read(one, MAX_LOG_LINES, wait)]
        self._print(found, MAX_LOG_LINES)
        if not found and time.monotonic() - began < _PAUSE:
            # Several are asked in turn; and one that has followers enough does not let us wait there.
            time.sleep(_PAUSE)

    def _of_all(self) -> list[LogLine]:
        self._find()
        found = [line for one in tuple(self._sources.values()) for line in self._read(one, self._options.lines)]
        if not self._sources and not self._complained:
            self._complain(f"no share runs: nobody answers in {self._directory}")
        return found

    def _of_one(self, share: str) -> list[LogLine]:
        """From its own supervisor, else from that of all."""
        from virtiofs_sandbox.policies.places import control_socket, serve_socket  # noqa: PLC0415

        for path in (control_socket(share, self._directory), serve_socket(self._directory)):
            source = self._sources[path] = _Source(path)
            found = self._read(source, self._options.lines)
            if self._sources or self._complained:
                return found
        self._complain(f"no share called {share!r} runs here: nobody answers in {self._directory}")
        return []

    def _find(self) -> None:
        from virtiofs_sandbox.cli.standing import sockets  # noqa: PLC0415

        for path in sockets(self._directory):
            self._sources.setdefault(path, _Source(path))

    def _read(self, source: _Source, most: int, wait: float = 0.0) -> list[LogLine]:
        """Up to *most* lines, in as many replies as it takes. One that does not answer is forgotten."""
        from virtiofs_sandbox.cli import asking  # noqa: PLC0415

        lines: list[LogLine] = []
        try:
            while True:
                reply = self._ask(source, most - len(lines), wait)
                lines += reply.lines
                if not reply.more or len(lines) >= most:
                    return lines
        except asking.NotRunningError as error:
            # Else a socket that was left behind.
            if source.after is not None:
                complain("logs", f"stopped: {error}")
        except asking.NotAnsweredError as error:
            # Cut short by the supervisor's end, say: whether it is there still, the next question tells.
            source.unanswered += 1
            if source.after is not None and source.unanswered < _TRIES:
                return lines
            self._complain(error)
        except asking.RefusedError as error:
            self._complain(error)
        del self._sources[source.path]
        return lines

    def _ask(self, source: _Source, lines: int, wait: float) -> Log:
        from virtiofs_sandbox.cli import asking  # noqa: PLC0415
        from virtiofs_sandbox.ipc.requests import Log, ReadLog  # noqa: PLC0415

        level = self._options.level.value
        request = ReadLog(share=self._options.share, after=source.after, lines=lines, level=level, wait=wait)
        reply = asking.ask(source.path, request, Log)
        if reply.lost:
            complain("logs", "some lines are missing here: they came faster than they were read")
        source.after, source.unanswered = reply.next, 0
        return reply

    def _complain(self, sentence: object) -> None:
        self._complained = True
        complain("logs", sentence)

    def _print(self, lines: list[LogLine], most: int) -> None:
        """The newest *most* of them. Each supervisor has its own order; between them only times tell."""
        from virtiofs_sandbox.cli.logform import json_line, text_line  # noqa: PLC0415

        form = json_line if self._options.json else text_line
        ordered = sorted(lines, key=lambda line: line.time)
        shown = ordered[max(0, len(ordered) - most) :]
        _write("".join(f"{form(line)}\n" for line in shown).encode(errors="backslashreplace"))


def _write(data: bytes) -> None:
    """All of it. Raises BrokenPipeError."""
    while data:
        data = data[os.write(STANDARD_OUTPUT, data) :]


def _number(text: str) -> int:
    from virtiofs_sandbox.ipc.requests import MAX_LOG_LINES  # noqa: PLC0415

    if not text.isascii() or not text.isdigit() or int(text) > MAX_LOG_LINES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines, 0 to {MAX_LOG_LINES}")
    return int(text)
