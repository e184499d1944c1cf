"""Where the supervisor's events become text: the start line on standard output, everything else on standard error."""

from __future__ import annotations

import os
from datetime import datetime

from virtiofs_sandbox.cli.hints import monitor_lines
from virtiofs_sandbox.cli.text import STANDARD_ERROR, STANDARD_OUTPUT, write_line
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.policies.share import LogLevel, Share
from virtiofs_sandbox.supervisor.events import (
    Event,
    Listening,
    Reloaded,
    WorkerEvent,
)
from virtiofs_sandbox.supervisor.loglines import printable


class Output:
    """Shows the events of each share up to its log level, which a reload may change."""

    def __init__(self, share: Share | None = None) -> None:
        """*share* is the one whose level holds for what happens before it listens; without, there are several."""
        self._levels = {} if share is None else {share.name: share.log_level}
        self._hints = share is not None

    def show(self, event: Event) -> None:
        match event:
            case Listening():
                self._levels[event.share] = event.serves.log_level
                write_line(STANDARD_OUTPUT, _ready(event, hints=self._hints))
                return
            case Reloaded():
                self._levels[event.share] = event.log_level
        if event.level.rank <= self._levels.get(event.share, LogLevel.INFO).rank:
            write_line(STANDARD_ERROR, _line(event))


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


def _line(event: Event) -> str:
    about = event.share or "serve"
    if isinstance(event, WorkerEvent):
        about += f"#{event.generation}"
        if event.client is not None:
            about += f" {event.client}"
    time = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
    # One line for each event: what is wrong with a policy file has a line for each mistake.
    text = "; ".join(str(event).splitlines())
    return f"{time} {event.level.value:7} {about}: {text}"
