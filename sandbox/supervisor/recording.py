"""An event as a line of the log: what every line has, and the event's own fields as data (docs/logs.md).

Whatever an event holds becomes text and numbers here; no text has a character that ends a line, moves a cursor or is no
character at all, wherever it came from.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.requests import Identity, LogLine
from virtiofs_sandbox.ipc.stats import INDEXES, Statistics
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.events import Event
from virtiofs_sandbox.supervisor.loglines import printable, spelled_out

# What stands in every line, and so not among the event's own.
_EVERYWHERE = frozenset({"share", "generation", "client"})


def line_of(event: Event, now: datetime) -> LogLine:
    """The line that tells of *event*; its time is in UTC, to the millisecond."""
    client: Peer | None = getattr(event, "client", None)
    return LogLine(
        time=now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        level=event.level.value,
        share=harmless(event.share) or None,
        generation=getattr(event, "generation", None),
        client=None if client is None else Identity(pid=client.pid, uid=client.uid),
        event=name_of(type(event)),
        # One line for each event: what is wrong with a policy file has a line for each mistake.
        message=harmless("; ".join(str(event).splitlines())),
        data={name: plain(getattr(event, name)) for name in fields_of(type(event))},
    )


def told(line: LogLine) -> str:
    """What happened, and before it to whom, for people."""
    about = line.share or "supervisor"
    if line.generation is not None:
        about += f"#{line.generation}"
        if line.client is not None:
            about += f" pid {line.client.pid} (uid {line.client.uid})"
    return f"{about}: {line.message}"


def name_of(kind: type[Event]) -> str:
    """The class's name in small letters with dashes: what scripts know the event by."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()


def fields_of(kind: type[Event]) -> tuple[str, ...]:
    """The fields that only events of this kind have."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in _EVERYWHERE)


def harmless(text: str) -> str:
    """*text*, or a path as Python has it, in which everything that does not print is spelled out."""
    try:
        return printable(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        # Half of a character that stands for no byte either.
        return spelled_out(text)


@functools.singledispatch
def plain(value: object) -> object:
    """*value* as JSON has it. Bytes and operations are whole numbers, times seconds, paths text."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value if value is None else harmless(str(value))


@plain.register
def _(value: int) -> object:
    return value


@plain.register
def _(value: float) -> object:
    return round(value, 6)


@plain.register
def _(value: bytes) -> object:
    return printable(value)


@plain.register
def _(value: tuple) -> object:  # type: ignore[type-arg]  # registered by its class
    return [plain(item) for item in value]


@plain.register
def _(value: Mapping) -> object:  # type: ignore[type-arg]  # as above
    return {harmless(str(key)): plain(item) for key, item in value.items()}


@plain.register
def _(value: enum.IntEnum | enum.Enum) -> object:
    return value.value if isinstance(value.value, str) else value.name.lower().replace("_", "-")


@plain.register
def _(value: Ending) -> object:
    code = None if value.code is None else plain(value.code)
    return {"code": code, "status": value.status, "signal": value.signal_number}


@plain.register
def _(value: Statistics) -> object:
    return {name: getattr(value, name) for name in INDEXES}


@plain.register
def _(value: Share) -> object:
    return {"tag": harmless(value.tag), "access": value.access.value, "cache": value.cache.value}
