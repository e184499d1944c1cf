"""The configuration document a worker starts with: one JSON object (README.md, "Configuration document")."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_BYTES = 64 * 1024
MAX_TAG_BYTES = 36


class ConfigError(Exception):
    """The document is refused; the text names the field."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the worker needs to know and nothing more: no path, no policy. Field by field in README.md."""

    version: Literal[1]
    share: str
    generation: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
    tag: str
    readonly: bool
    cache: Literal["never", "auto", "metadata", "always"]
    writeback: bool
    xattr: bool
    ids: Literal["caller", "self"]
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
