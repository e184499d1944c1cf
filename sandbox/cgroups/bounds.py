"""Whether a limit is more than the groups above allow: then theirs would hold, and the policy would not say so."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.confine.plan import GroupSetting


def exceeded(base: str, setting: GroupSetting) -> str | None:
    """Half a sentence if *setting*, in a group below *base*, is above what *base* or a group around it allows."""
    asked = _amounts(setting.file, setting.text)
    for directory in _upwards(base):
        allowed = _amounts(setting.file, _read(directory, setting.file))
        for what, amount in asked.items():
            if amount > allowed.get(what, math.inf) and not math.isinf(amount):
                return f"{amount:.12g} is more than the {allowed[what]:.12g} that the control group {directory} allows"
    return None


# Without a limit on memory version 1 says the most pages that fit into a signed number of 64 bits.
_NO_LIMIT = 2**62


def _upwards(base: str) -> Iterator[str]:
    """*base* and all groups above it that are seen."""
    directory = base
    while os.path.exists(os.path.join(directory, "cgroup.procs")):
        yield directory
        directory = os.path.dirname(directory)


def _amounts(file: str, text: str) -> dict[str, float]:
    """What *text* in *file* allows, by what it is about: one thing, or each rate of each disk."""
    words = text.split()
    if file.startswith("blkio.throttle."):
        return dict(zip(words[::2], map(float, words[1::2]), strict=True))
    if not words:
        return {}
    match file:
        case "memory.max" | "memory.limit_in_bytes" | "pids.max":
            return {"": _number(words[0])}
        case "cpu.max":
            return {"": _number(words[0]) / int(words[1])}
        case "io.max":
            return {
                f"{line.split()[0]} {name}": _number(rate)
                for line in text.splitlines()
                for name, _, rate in (pair.partition("=") for pair in line.split()[1:])
            }
    # The kernel itself refuses a quota of version 1 that is above its parent's; weights have no bound above.
    return {}


def _number(text: str) -> float:
    return math.inf if text == "max" or int(text) >= _NO_LIMIT else int(text)


def _read(directory: str, file: str) -> str:
    """Empty where the group has no such file: the root's, and those whose controller ends further down."""
    try:
        return Path(directory, file).read_text(encoding="ascii")
    except OSError:
        return ""
