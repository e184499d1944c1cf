"""Control groups for the shares of a soak, where this machine lets us make them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cgroups import site


@dataclass(frozen=True)
class Groups:
    """*defaults* is the site's defaults.toml, *limits* what a policy says that wants groups; *there*: those there are.

    All empty where none can be made.
    """

    defaults: str = ""
    limits: str = ""
    there: Callable[[], list[Path]] = list


@contextlib.contextmanager
def made() -> Iterator[Groups]:
    try:
        place = site.Site()
        for controller in ("memory", "pids"):
            place.base(controller)
    except pytest.skip.Exception as why:
        print(f"without control groups: {why}")
        yield Groups()
        return
    try:
        yield Groups(
            f'[limits]\nparent = "{place.parent}"\n',
            '[limits.memory]\nmax = "1GiB"\n[limits.pids]\nmax = 64\n',
            place.left,
        )
    finally:
        place.close()
