"""The configuration document a worker starts with: one JSON object (README.md, "Configuration document")."""

from __future__ import annotations

import struct
from typing import Annotated, Literal, Self

import msgspec

MAX_BYTES = 256 * 1024
MAX_TAG_BYTES = 36


Instruction = Annotated[int, msgspec.Meta(ge=0)]


class ConfigError(Exception):
    """The document is refused; the text names the field."""


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which names of the share the guest sees and which it may change: patterns as docs/policies.md defines them."""

    hide: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    case: Literal["sensitive", "insensitive"] = "sensitive"
    strict_links: bool = False


RATES = ("read", "write", "read_ops", "write_ops", "metadata_ops")
Rate = Annotated[int, msgspec.Meta(ge=1, le=2**40)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Most that a share may ask of its worker: bytes and operations a second, by class; None: as much as it likes."""

    read: Rate | None
    write: Rate | None
    read_ops: Rate | None
    write_ops: Rate | None
    metadata_ops: Rate | None
    burst_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)]
    max_delay_ms: Annotated[int, msgspec.Meta(ge=1, le=86_400_000)]


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The second, tighter seccomp program of each role: one little-endian u64 per struct sock_filter."""

    keeper: tuple[Instruction, ...]
    control: tuple[Instruction, ...]
    queue: tuple[Instruction, ...]

    @classmethod
    def of_programs(cls, keeper: bytes, control: bytes, queue: bytes) -> Self:
        """The programs as seccomp(2) takes them, word by word."""
        return cls(keeper=_words(keeper), control=_words(control), queue=_words(queue))

    def __post_init__(self) -> None:
        # Beyond what msgspec.Meta can bound.
        if any(word >= 2**64 for word in (*self.keeper, *self.control, *self.queue)):
            raise ValueError("filters: an instruction has 64 bits")


def _words(program: bytes) -> tuple[int, ...]:
    return tuple(word for (word,) in struct.iter_unpack("<Q", program))


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the worker needs to know and nothing more: no path, no policy. Field by field in README.md."""

    version: Literal[2]
    share: str
    generation: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    tag: str
    readonly: bool
    cache: Literal["never", "auto", "metadata", "always"]
    writeback: bool
    xattr: bool
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None
    ids: Literal["caller", "self"]
    unmapped: Literal["forbid", "squash"]
    attributes: Literal["path", "open"]
    tree: bool
    rules: Rules
    filters: Filters | None
    limits: Limits | None
    queues: Annotated[int, msgspec.Meta(ge=1, le=8)]
    log_level: Literal["error", "warning", "info", "debug"]

    def __post_init__(self) -> None:
        try:
            length = len(self.tag.encode())
        except UnicodeEncodeError:
            raise ValueError("tag is not valid Unicode") from None
        if not 1 <= length <= MAX_TAG_BYTES:
            raise ValueError(f"tag has {length} bytes, 1 to {MAX_TAG_BYTES} fit")


def encode_config(config: WorkerConfig) -> bytes:
    """The document. Raises ConfigError for values that the receiving side would refuse."""
    document = msgspec.json.encode(config)
    decode_config(document)
    return document


def decode_config(document: bytes) -> WorkerConfig:
    """The configuration in *document*; ConfigError names what is unknown, missing or out of range."""
    if len(document) > MAX_BYTES:
        raise ConfigError(f"configuration has {len(document)} bytes, at most {MAX_BYTES} are read")
    try:
        return msgspec.json.decode(document, type=WorkerConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration: {error}") from error


class LiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a running worker takes over from a SETTINGS message on, all of it each time (README.md, "Live settings")."""

    rules: Rules
    limits: Limits | None
    log_level: Literal["error", "warning", "info", "debug"]


def encode_settings(settings: LiveSettings) -> bytes:
    """The document that travels with SETTINGS. Raises ConfigError when it is too long to be read."""
    document = msgspec.json.encode(settings)
    if len(document) > MAX_BYTES:
        raise ConfigError(f"live settings have {len(document)} bytes, at most {MAX_BYTES} are read")
    return document
