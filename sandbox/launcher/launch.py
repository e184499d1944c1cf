"""One launch, seen from the supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from virtiofs_sandbox.confine import LaunchPlan, Tier
from virtiofs_sandbox.launcher.zygote import Zygote


@dataclass(frozen=True)
class HandOver:
    """The worker's ends, by descriptor number (ipc/README.md lists them). The caller keeps owning and closes them."""

    control: int
    config: int
    stats: int
    arena: int
    log: int


@dataclass(frozen=True)
class Jail:
    """A running jail: its keeper, a child of this process. The caller owns *pidfd*, waits by P_PIDFD and closes it."""

    pid: int
    pidfd: int
    tier: Tier


class Launcher:
    """Launches jails through one zygote, one at a time."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote

    async def launch(self, plan: LaunchPlan, hand_over: HandOver) -> Jail:
        """Builds the jail and returns when its binary was executed. Raises LaunchError; nothing is left behind then."""
        raise NotImplementedError
