"""What a check found: how bad, what, where, and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(enum.Enum):
    """ERROR: a start, or an operation of the guest, will fail. WARNING: it works, but not as one may expect."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for what matters most."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """*kind* is stable. *key* is the policy key it is about, such as `share.source`, *path* the place on the host.

    Either may be None. *what* names identity and operation where an operation is meant; *todo* is what to change.
    """

    severity: Severity
    kind: str
    what: str
    todo: str
    key: str | None = None
    path: str | None = None


class Examples:
    """The first few of many names, and how many there are."""

    KEPT = 5

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < self.KEPT:
            self.names.append(name)

    def __str__(self) -> str:
        more = self.count - len(self.names)
        return ", ".join(self.names) + (f" and {more} more" if more else "")
