"""Policy to prepared bytes and integers: seccomp program, Landlock rights, ids, capabilities; host probe and tiers.

Names are loaded on first use: the zygote needs the plan's types and nothing of what makes one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtiofs_sandbox.confine.host import HostProbe, probe_host
    from virtiofs_sandbox.confine.plan import LandlockPlan, LaunchPlan, MountAction, MountChange
    from virtiofs_sandbox.confine.planning import prepare
    from virtiofs_sandbox.confine.tiers import CannotConfineError
    from virtiofs_sandbox.policies.share import Tier

__all__ = [
    "CannotConfineError",
    "HostProbe",
    "LandlockPlan",
    "LaunchPlan",
    "MountAction",
    "MountChange",
    "Tier",
    "prepare",
    "probe_host",
]

_HOMES = {
    "CannotConfineError": "tiers",
    "HostProbe": "host",
    "LandlockPlan": "plan",
    "LaunchPlan": "plan",
    "MountAction": "plan",
    "MountChange": "plan",
    "Tier": "plan",
    "prepare": "planning",
    "probe_host": "host",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
