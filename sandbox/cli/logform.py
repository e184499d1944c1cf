"""How a line of the log looks: for people, for programs, for the journal (docs/logs.md)."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virtiofs_sandbox.ipc.requests import LogLine


class LogForm(enum.Enum):
    TEXT = "text"
    JSON = "json"
    JOURNAL = "journal"


def text_line(line: LogLine) -> str:
    """For people; times are local."""
    from virtiofs_sandbox.supervisor.recording import told  # noqa: PLC0415

    time = datetime.fromisoformat(line.time).astimezone().isoformat(sep=" ", timespec="milliseconds")
    return f"{time} {line.level:7} {told(line)}"


def json_line(line: LogLine) -> str:
    """One object; `data` has what only this event has."""
    import msgspec  # noqa: PLC0415

    return msgspec.json.encode(line).decode()
