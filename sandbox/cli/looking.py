"""Asking the shares that run for their figures, and remembering them for the next time."""

from __future__ import annotations

from pathlib import Path

from virtiofs_sandbox.cli import asking
from virtiofs_sandbox.cli.rates import Look, rates
from virtiofs_sandbox.cli.standing import sockets
from virtiofs_sandbox.cli.top_report import Row
from virtiofs_sandbox.ipc.requests import Figures, ReadFigures
from virtiofs_sandbox.policies.places import control_socket


class LookError(Exception):
    """The share that was named cannot be asked; str() says why."""


class Looking:
    """Asks every share in *directory*, or the one called *name*, and remembers what it saw."""

    def __init__(self, directory: Path, name: str | None) -> None:
        self._directory = directory
        self._name = name
        self._seen: dict[str, Look] = {}

    def again(self) -> list[Row]:
        """What shares did since the last time. Raises LookError."""
        looks = self._looks()
        rows = [Row(look, rates(self._seen.get(name), look)) for name, look in looks.items()]
        self._seen = looks
        return rows

    def _looks(self) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        paths = sockets(self._directory) if self._name is None else [control_socket(self._name, self._directory)]
        for path in paths:
            try:
                looks |= _ask(path, self._name)
            except asking.NotRunningError as error:
                if self._name is not None:
                    raise LookError(f"no share called {self._name!r} runs here: {error}") from error
            except (asking.NotAnsweredError, asking.RefusedError) as error:
                # One that does not answer keeps nobody from seeing the others.
                if self._name is not None:
                    raise LookError(str(error)) from error
        return looks


def _ask(path: Path, name: str | None) -> dict[str, Look]:
    """What one supervisor says of its shares. Raises as asking.ask does."""
    looks: dict[str, Look] = {}
    after, more = None, True
    while more:
        reply = asking.ask(path, ReadFigures(share=name, after=after), Figures)
        looks |= {one.share: Look(reply.at, one) for one in reply.shares}
        more = reply.more and bool(reply.shares)
        after = reply.shares[-1].share if reply.shares else None
    return looks
