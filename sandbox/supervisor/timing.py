"""Every period the supervisor waits for, in seconds, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from virtiofs_sandbox.supervisor.backoff import BackoffLimits


@dataclass(frozen=True)
class Timing:
    """*ready*: from launch to READY. *patience*: how long a monitor waits beside one that stays. *leave*: from LEAVING
    (or the hang-up) to the end of the jail. *stop_grace*: what STOP allows for draining. *stop_margin*: on top of it,
    before SIGKILL. *give_up*: from SIGKILL to admitting that a process hangs in the kernel. *accept_pause*: after
    accept(2) failed for want of something. *settings*: from SETTINGS to APPLIED; requests in flight end between them.
    *retry*: before one of several shares that could not be started is tried again. *watch*: between two looks at the
    workers that serve.
    """

    ready: float = 10.0
    patience: float = 1.0
    leave: float = 10.0
    stop_grace: float = 5.0
    stop_margin: float = 1.0
    give_up: float = 3.0
    accept_pause: float = 1.0
    settings: float = 10.0
    watch: float = 5.0
    backoff: BackoffLimits = field(default_factory=BackoffLimits)
    retry: BackoffLimits = field(default_factory=lambda: BackoffLimits(first=1.0))
