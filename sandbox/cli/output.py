"""Where the supervisor's events become text: the start line on standard output, everything else on standard error."""

from __future__ import annotations

import os
from datetime import datetime

from virtiofs_sandbox.cli.hints import monitor_lines
from virtiofs_sandbox.cli.text import STANDARD_ERROR, STANDARD_OUTPUT, write_line
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.policies.offer import Offer
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.supervisor.events import (
    Event,
    Listening,
    Reloaded,
    WorkerEvent,
)
from virtiofs_sandbox.supervisor.loglines import printable


class Output:
    """Shows events up to the share's log level, which a reload may change."""

    def __init__(self, wanted: Offer, plan: LaunchPlan) -> None:
        self._share = wanted.share
        self._policy = wanted.policy
        self._plan = plan
        self._log_level = wanted.share.log_level

    def show(self, event: Event) -> None:
        if isinstance(event, Reloaded):
            self._log_level = event.log_level
        if isinstance(event, Listening):
            self._listening(event)
        elif event.level.rank <= self._log_level.rank:
            write_line(STANDARD_ERROR, _line(event))

    def _listening(self, event: Listening) -> None:
        share = self._share
        source = f"a tree of {len(share.children)}" if share.source is None else printable(os.fsencode(share.source))
        socket = printable(os.fsencode(event.socket))
        policy = "" if self._policy is None else f", policy: {shown(self._policy.file)}"
        start = (
            f"ready: {source} as tag {share.tag} on {socket} "
            f"(jail: {self._plan.tier.value}, cache: {share.cache.value}, access: {share.access.value}{policy})"
        )
        if not event.monitor_waiting and socket.startswith("/"):
            start = f"{start}\n{monitor_lines(socket, share.tag)}"
        write_line(STANDARD_OUTPUT, start)


def _line(event: Event) -> str:
    about = event.share
    if isinstance(event, WorkerEvent):
        about += f"#{event.generation}"
        if event.client is not None:
            about += f" {event.client}"
    time = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
    # One line for each event: what is wrong with a policy file has a line for each mistake.
    text = "; ".join(str(event).splitlines())
    return f"{time} {event.level.value:7} {about}: {text}"
