"""What is asked of a running supervisor, and what it answers: JSON documents behind their length (docs/control.md).

Both ends are ours, and neither trusts the other: what comes is decoded strictly, within a bound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

import msgspec

VERSION = 1
MAX_BYTES = 64 * 1024
_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# What one list of a reply may take, so that every reply fits.
_LIST_BYTES = 16 * 1024
# What the only list of a reply may take.
WHOLE_LIST_BYTES = 60 * 1024
_SENTENCE_CHARACTERS = 2048
MAX_ASSIGNMENTS = 64

Version = Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Text = Annotated[str, msgspec.Meta(max_length=256)]
Code = Literal[
    "malformed", "version", "not-permitted", "slow", "unknown-share", "refused", "widens", "stopping", "fault"
]
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


class Reload(_Question, frozen=True, tag_field="request", tag="reload"):
    """Read the policy again."""


class ReadStatus(_Question, frozen=True, tag_field="request", tag="status"):
    """How the share stands."""


class ReadLimits(_Question, frozen=True, tag_field="request", tag="limits"):
    """The limits that hold, and what they have made of the requests so far."""


class SetLimits(_Question, frozen=True, kw_only=True, tag_field="request", tag="limit"):
    """Change limits: *set* has the policy's own keys (read, metadata-ops, ...) and values, or "none"."""

    set: Annotated[dict[Text, Text], msgspec.Meta(min_length=1, max_length=MAX_ASSIGNMENTS)]


class ReadFigures(_Question, frozen=True, kw_only=True, tag_field="request", tag="figures"):
    """What every share has done, or the one that is named; those whose names come behind *after*."""

    after: Text | None = None


ShareRequest = Reload | ReadStatus | ReadLimits | SetLimits
Request = ShareRequest | ReadFigures


class Failed(_Document, frozen=True, tag_field="reply", tag="error"):
    error: Code
    sentence: str


class Reloaded(_Document, frozen=True, tag_field="reply", tag="reloaded"):
    """*changes* in words; *later*: those that wait until the client leaves; *warnings*: what this host cannot give."""

    changes: tuple[str, ...]
    later: tuple[str, ...]
    warnings: tuple[str, ...] = ()


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


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path rule, and whether a mount holds it besides the worker; *why* it is left to the worker alone."""

    pattern: str
    mount: bool
    why: str


class Standing(_Document, frozen=True, tag_field="reply", tag="status"):
    """How a share stands. *state* is a name of docs/control.md, *since* when it came to it, in seconds of Unix time.

    *generation*, *client* and *counters* are those of the worker that serves, or that will serve next; *counters* are
    what it claims. *restarts* counts workers that failed and were replaced. *rules_left_out*: so many did not fit.
    """

    share: str
    tag: str
    socket: str | None
    supervisor: Identity
    tier: Literal["full", "userns", "bare"]
    policy: str | None
    generation: Count
    state: str
    client: Identity | None
    since: float
    restarts: Count
    rules: tuple[Rule, ...]
    rules_left_out: Count
    counters: dict[str, Count]


class ShareFigures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one share has done since it came into service, over all its workers as they claim it, and has now.

    *client* is one of *clients* monitors. *latency*: of each class, requests by how long they took, in the buckets of
    ipc/README.md, without the zeros at the end.
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


class Figures(_Document, frozen=True, kw_only=True, tag_field="reply", tag="figures"):
    """Shares by name. *at*: seconds of CLOCK_MONOTONIC. *more*: others come behind the last one."""

    at: float
    shares: tuple[ShareFigures, ...]
    more: bool


Reply = Failed | Reloaded | Limits | Standing | Figures


def encode(document: Request | Reply) -> bytes:
    """The document with its length in front."""
    text = msgspec.json.encode(document)
    if len(text) > MAX_BYTES:
        raise RequestError("fault", f"a document of {len(text)} bytes; at most {MAX_BYTES} are sent")
    return _LENGTH.pack(len(text)) + text


def length(head: bytes) -> int:
    """How long the document behind these four bytes is. Raises RequestError when it may not be."""
    (size,) = _LENGTH.unpack(head)
    if not 0 < size <= MAX_BYTES:
        raise RequestError("malformed", f"a document of {size} bytes; 1 to {MAX_BYTES} are accepted")
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
    """The first of *items*, as many as go into *most* bytes. No more than one too many is made."""
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
