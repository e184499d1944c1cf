"""Limits on a disk as a part of a group's budget changes: the same settings with lower numbers."""

from __future__ import annotations

import dataclasses

from virtiofs_sandbox.cgroups.settings import THROTTLES, UNIFIED_RATES
from virtiofs_sandbox.confine.plan import ControlGroup, GroupSetting
from virtiofs_sandbox.policies.bounding import least
from virtiofs_sandbox.policies.share import Rates


def narrowed(group: ControlGroup, part: Rates) -> ControlGroup:
    """*group* with no rate of a disk above *part*. A rate that the plan does not limit stays free."""
    return dataclasses.replace(group, settings=tuple(_narrowed(setting, part) for setting in group.settings))


def _narrowed(setting: GroupSetting, part: Rates) -> GroupSetting:
    if setting.file == "io.max":
        disk, *pairs = setting.text.split()
        rates = {name: _least(rate, getattr(part, UNIFIED_RATES[name])) for name, rate in map(_split, pairs)}
        return dataclasses.replace(setting, text=" ".join([disk, *(f"{name}={rate}" for name, rate in rates.items())]))
    for field, file in THROTTLES.items():
        if setting.file == file:
            disk, rate = setting.text.split()
            return dataclasses.replace(setting, text=f"{disk} {_least(rate, getattr(part, field))}")
    return setting


def _split(pair: str) -> tuple[str, str]:
    name, _, rate = pair.partition("=")
    return name, rate


def _least(rate: str, most: int | None) -> str:
    return rate if rate == "max" else str(least(int(rate), most))
