"""Who closes which descriptor: every descriptor this package makes or receives has exactly one owner."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self


class OwnedFd:
    """One open descriptor and the duty to close it.

    Adopt it by constructing, look at it with *fileno*, hand the duty on with *steal*, or *close* it (twice is fine).
    Nothing is closed by garbage collection: a forgotten owner shows up as a leak in the tests instead of closing a
    number that somebody else has been given since.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number: int | None = number

    def fileno(self) -> int:
        """The number; ValueError once closed or stolen."""
        if self._number is None:
            raise ValueError("descriptor is closed")
        return self._number

    def steal(self) -> int:
        """The number, which the caller must now close."""
        number = self.fileno()
        self._number = None
        return number

    def close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    @property
    def closed(self) -> bool:
        return self._number is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return "OwnedFd(closed)" if self._number is None else f"OwnedFd({self._number})"
