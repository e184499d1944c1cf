"""Asking the shares that run for their figures, and remembering them for the next time."""

from __future__ import annotations

from pathlib import Path

from virtiofs_sandbox.cli import asking
from virtiofs_sandbox.cli.rates import Look, rates
from virtiofs_sandbox.cli.standing import sockets
from virtiofs_sandbox.cli.top_report import Row
from virtiofs_sandbox.ipc.requests import Figures, ReadFigures
from virtiofs_sandbox.policies.places import control_socket, serve_socket


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
        looks = self._all() if self._name is None else self._one(self._name)
        rows = [Row(look, rates(self._seen.get(name), look)) for name, look in looks.items()]
        self._seen = looks
        return rows

    def _all(self) -> dict[str, Look]:
        looks: dict[str, Look] = {}
        for path in sockets(self._directory):
            try:
                looks |= _ask(path, None)
            except (asking.NotRunningError, asking.NotAnsweredError, asking.RefusedError):
                # One that does not answer keeps nobody from seeing the others.
                continue
        return looks

    def _one(self, name: str) -> dict[str, Look]:
        try:
            try:
                return _ask(control_socket(name, self._directory), name)
            except asking.NotRunningError as error:
                try:
                    return _ask(serve_socket(self._directory), name)
                except asking.NotRunningError:
                    raise error from None
        except asking.NotRunningError as error:
            raise LookError(f"no share called {name!r} runs here: {error}") from error
        except (asking.NotAnsweredError, asking.RefusedError) as error:
            raise LookError(str(error)) from error


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
