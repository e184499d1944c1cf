"""What is asked of a running supervisor, and what it answers: JSON documents behind their length (docs/control.md).

Both ends are ours, and neither trusts the other: what comes is decoded strictly, within a bound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec

VERSION = 1
# A request is small, a reply may be about hundreds of shares.
MAX_BYTES = 64 * 1024
MAX_REPLY_BYTES = 4 * 1024 * 1024
_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# What one list of a reply may take, so that every reply fits; and the list of all shares.
_LIST_BYTES = 16 * 1024
LISTING_BYTES = MAX_REPLY_BYTES - 4096
# Figures are asked for again and again: what is told at once is some milliseconds' work.
FIGURES_BYTES = 64 * 1024
_SENTENCE_CHARACTERS = 2048
MAX_ASSIGNMENTS = 64

# A follower of the log takes a conversation's place for as long as it waits: never long.
MAX_WAIT_SECONDS = 5.0
MAX_LOG_LINES = 100_000

Version = Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Code = Literal[
    "malformed",
    "version",
    "not-permitted",
    "slow",
    "unknown-share",
    "not-in-service",
    "refused",
    "widens",
    "stopping",
    "fault",
]
Level = Literal["error", "warning", "info", "debug"]
T = TypeVar("T")


class RequestError(Exception):
    """A document is refused; *code* is that of docs/control.md, str() the sentence."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Version = VERSION


class _Question(_Document, frozen=True, kw_only=True):
    """*share* is the one that is asked; it may be left out where the supervisor has only one."""

    share: Text | None = None


class ListShares(_Document, frozen=True, tag_field="request", tag="list"):
    """How each share of the supervisor stands."""


class Reload(_Question, frozen=True, kw_only=True, tag_field="request", tag="reload"):
    """Read the policy again; without *share* those of all. *now*: what takes a new jail does not wait for the client
    to leave, whose connection ends.
    """

    now: bool = False


class Restart(_Question, frozen=True, kw_only=True, tag_field="request", tag="restart"):
    """A new worker for whoever comes from now on; *now*: for who is served too, whose connection ends."""

    now: bool = False


class Stop(_Question, frozen=True, kw_only=True, tag_field="request", tag="stop"):
    """Accept nobody any more, and end when the client has left, or *now*. *all*: end the supervisor, as by SIGTERM."""

    now: bool = False
    all: bool = False


class ReadStatus(_Question, frozen=True, tag_field="request", tag="status"):
    """How the share stands."""


class ReadLimits(_Question, frozen=True, tag_field="request", tag="limits"):
    """The limits that hold, and what they have made of the requests so far."""


class SetLimits(_Question, frozen=True, kw_only=True, tag_field="request", tag="limit"):
    """Change limits: *set* has the policy's own keys (read, metadata-ops, ...) and values, or "none"."""

    set: Annotated[dict[Text, Text], msgspec.Meta(min_length=1, max_length=MAX_ASSIGNMENTS)]


class ReadLog(_Question, frozen=True, kw_only=True, tag_field="request", tag="log"):
    """Lines of the log of *share*, None for those of every share; no *level* below the one given.

    The newest *lines* without *after*, else those that came after it (`next` of an earlier reply). Where there are none
    the reply may wait for the first one, *wait* seconds at most.
    """

    after: Count | None = None
    lines: Annotated[int, msgspec.Meta(ge=0, le=MAX_LOG_LINES)] = 100
    level: Level = "debug"
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0


class ReadFigures(_Question, frozen=True, kw_only=True, tag_field="request", tag="figures"):
    """What every share has done, or the one that is named; those whose names come behind *after*."""

    after: Text | None = None


ShareRequest = ReadStatus | ReadLimits | SetLimits
"""What a share answers for itself."""
Request = ShareRequest | ListShares | Reload | Restart | Stop | ReadLog | ReadFigures


class Failed(_Document, frozen=True, tag_field="reply", tag="error"):
    error: Code
    sentence: str


class Reloaded(_Document, frozen=True, tag_field="reply", tag="reloaded"):
    """*changes* in words; *later*: those that wait until the client leaves; *warnings*: what this host cannot give.

    Where all policies were read, *refused* has what is wrong with those that stay as they were, and each sentence
    begins with the share it is about. *left_out*: so many sentences did not fit.
    """

    changes: tuple[str, ...]
    later: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    left_out: Count = 0


class Done(_Document, frozen=True, tag_field="reply", tag="done"):
    """What becomes of a request to restart or stop, in words; *later*: what of it waits until the client leaves."""

    changes: tuple[str, ...]
    later: tuple[str, ...] = ()


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One limit: what holds now, and what the policy allows at most; None: no limit. Bytes or operations a second."""

    key: str
    unit: Literal["bytes/s", "ops/s"]
    now: Count | None
    policy: Count | None


class Passed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the limits have made of the requests of one class since the client's worker was launched, as it says."""

    admitted: Count
    delayed: Count
    nanoseconds_delayed: Count
    bytes_admitted: Count


class Limits(_Document, frozen=True, tag_field="reply", tag="limits"):
    """*changes* in words, empty when it was only asked; *counters* by class, none while no worker is up.

    *disks*: what the control group has counted of each disk, "MAJOR:MINOR": rbytes, wbytes, rios, wios.
    *warnings*: what of a change does not hold, or not for all.
    """

    limits: tuple[Limit, ...]
    counters: dict[str, Passed]
    disks: dict[str, dict[str, Count]]
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process."""

    pid: Count
    uid: Count


class Held(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place and the client that has it: *generation*, *state* and *since* are those of the worker that serves it."""

    generation: Count
    state: str
    client: Identity
    since: float


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path rule, and whether a mount holds it besides the worker; *why* it is left to the worker alone."""

    pattern: str
    mount: bool
    why: str


class Standing(_Document, frozen=True, tag_field="reply", tag="status"):
    """How a share stands. *state* is a name of docs/control.md, *since* when it came to it, in seconds of Unix time.

    *generation*, *client* and *state* are those of the first worker that serves, or of the one that will serve next.
    *clients* are all that are served, at most *max_clients*; *counters* what their workers claim, together. *restarts*
    counts workers that failed and were replaced. *rules_left_out*: so many did not fit. *reason*: why it is not in
    service, or will not stay so. *tag* and *tier* are None of a policy that was never read. *program* is what serves in
    the place of our own worker.
    """

    share: str
    tag: str | None
    socket: str | None
    supervisor: Identity
    tier: Literal["full", "userns", "bare"] | None
    policy: str | None
    generation: Count
    state: str
    client: Identity | None
    since: float
    restarts: Count
    rules: tuple[Rule, ...]
    rules_left_out: Count
    counters: dict[str, Count]
    reason: str | None = None
    clients: tuple[Held, ...] = ()
    max_clients: Count = 1
    program: str | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event as the log has it (docs/logs.md). *time* is in RFC 3339; None where an event has no such thing."""

    time: str
    level: Level
    share: str | None
    generation: Count | None
    client: Identity | None
    event: str
    message: str
    data: dict[str, Any]


class Log(_Document, frozen=True, kw_only=True, tag_field="reply", tag="log"):
    """*next* is what the next request says *after*; *more*: there are further lines already. *lost*: some of those
    asked for had to make room before they were asked for."""

    lines: tuple[LogLine, ...]
    next: Count
    more: bool = False
    lost: bool = False


class Listing(_Document, frozen=True, tag_field="reply", tag="list"):
    """Every share of the supervisor, by name, without its rules. *left_out*: so many did not fit."""

    shares: tuple[Standing, ...]
    left_out: Count = 0


class ShareFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one share has done since it came into service, over all its workers as they claim it, and has now.

    *client* is the first of *clients* monitors. *latency*: of each class, requests by how long they took, in the
    buckets of ipc/README.md, without the zeros at the end. Without *counted* another program than our own worker
    serves, which claims nothing: its figures are zeros.
    """

    share: str
    tag: str
    tier: Literal["full", "userns", "bare"]
    state: str
    client: Identity | None
    clients: Count
    restarts: Count
    requests: Count
    errors: Count
    bytes_read: Count
    bytes_written: Count
    delayed: Count
    nanoseconds_delayed: Count
    latency: dict[str, tuple[Count, ...]]
    inodes: Count
    handles: Count
    descriptors: Count
    depth: Count
    counted: bool = True


class Figures(_Document, frozen=True, kw_only=True, tag_field="reply", tag="figures"):
    """Shares in service, by name. *at*: seconds of CLOCK_MONOTONIC. *more*: others come behind the last one."""

    at: float
    shares: tuple[ShareFigures, ...]
    more: bool


Reply = Failed | Reloaded | Limits | Standing | Done | Listing | Log | Figures


def encode(document: Request | Reply) -> bytes:
    """The document with its length in front."""
    text = msgspec.json.encode(document)
    most = MAX_BYTES if isinstance(document, Request) else MAX_REPLY_BYTES
    if len(text) > most:
        raise RequestError("fault", f"a document of {len(text)} bytes; at most {most} are sent")
    return _LENGTH.pack(len(text)) + text


def length(head: bytes, most: int = MAX_BYTES) -> int:
    """How long the document behind these four bytes is. Raises RequestError when that is more than *most*."""
    (size,) = _LENGTH.unpack(head)
    if not 0 < size <= most:
        raise RequestError("malformed", f"a document of {size} bytes; 1 to {most} are accepted")
    return int(size)


def decode_request(text: bytes) -> Request:
    """Raises RequestError."""
    return _decode(text, Request)  # type: ignore[arg-type]  # a union is no type to mypy


def decode_reply(text: bytes) -> Reply:
    """Raises RequestError."""
    return _decode(text, Reply)  # type: ignore[arg-type]  # as above


def words(text: object) -> str:
    """*text* as it can stand in a document: of bounded length, and with no half of a character."""
    clean = str(text).encode(errors="backslashreplace").decode()
    return clean if len(clean) <= _SENTENCE_CHARACTERS else f"{clean[:_SENTENCE_CHARACTERS]} ..."


def fitting(items: Iterable[T], most: int = _LIST_BYTES) -> tuple[T, ...]:
    """The first of *items*, as many as one list of a reply may hold: *most* bytes, where it has only one. No more than
    one too many is made.
    """
    kept, left = [], most
    for item in items:
        left -= len(msgspec.json.encode(item)) + 1
        if left < 0:
            break
        kept.append(item)
    return tuple(kept)


class _Any(msgspec.Struct):
    """What every version has."""

    version: int


def _decode(text: bytes, kind: type[T]) -> T:
    try:
        version = msgspec.json.decode(text, type=_Any).version
        if version != VERSION:
            raise RequestError("version", f"version {version} of the protocol; this end speaks {VERSION}")
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError("malformed", words(error)) from error
