"""Zygote and jail stages: the code between fork and exec.

Names are loaded on first use: each launch copies the page tables of all that was loaded when the zygote was forked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtiofs_sandbox.launcher.errors import LaunchError
    from virtiofs_sandbox.launcher.launch import HandOver, Jail, Launcher
    from virtiofs_sandbox.launcher.zygote import Zygote

__all__ = ["HandOver", "Jail", "LaunchError", "Launcher", "Zygote"]

_HOMES = {"HandOver": "launch", "Jail": "launch", "LaunchError": "errors", "Launcher": "launch", "Zygote": "zygote"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
