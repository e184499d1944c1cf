"""Zygote and jail stages: the code between fork and exec."""

from virtiofs_sandbox.launcher.errors import LaunchError
from virtiofs_sandbox.launcher.launch import HandOver, Jail, Launcher
from virtiofs_sandbox.launcher.zygote import Zygote

__all__ = ["HandOver", "Jail", "LaunchError", "Launcher", "Zygote"]
