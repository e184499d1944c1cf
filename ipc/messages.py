"""The control messages between supervisor and worker: 64 bytes each, as README.md in this folder lays them out.

The other end may be in an attacker's hands: whatever does not match the table exactly is a MessageError, never a
guess and never another exception.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MAGIC = b"VFS1"
SIZE = 64
PROTOCOL_VERSION = 2
MAX_DESCRIPTORS = 1
_LAYOUT = struct.Struct("<4sHHIIQQQ24s")
_RESERVED = bytes(24)
_LARGEST = {"generation": 2**32 - 1, "code": 2**32 - 1, "a": 2**64 - 1, "b": 2**64 - 1, "c": 2**64 - 1}


class MessageError(Exception):
    """What arrived is not a message of this protocol; the text says which check failed."""


class Direction(enum.Enum):
    TO_WORKER = "to worker"
    TO_SUPERVISOR = "to supervisor"


class Kind(enum.IntEnum):
    START = 1
    STOP = 2
    SETTINGS = 3
    READY = 16
    CLIENT = 17
    LEAVING = 18
    APPLIED = 19


class ClientStep(enum.IntEnum):
    """The codes of CLIENT."""

    DRIVER_STARTED = 1
    MOUNTED = 2
    UNMOUNTED = 3
    RESET = 4


@dataclass(frozen=True)
class Rule:
    """What the table says about one kind: which way it goes and how many descriptors travel with it."""

    direction: Direction
    descriptors: int


RULES: Mapping[Kind, Rule] = MappingProxyType(
    {
        Kind.START: Rule(Direction.TO_WORKER, 1),
        Kind.STOP: Rule(Direction.TO_WORKER, 0),
        Kind.SETTINGS: Rule(Direction.TO_WORKER, 1),
        Kind.READY: Rule(Direction.TO_SUPERVISOR, 0),
        Kind.CLIENT: Rule(Direction.TO_SUPERVISOR, 0),
        Kind.LEAVING: Rule(Direction.TO_SUPERVISOR, 0),
        Kind.APPLIED: Rule(Direction.TO_SUPERVISOR, 0),
    }
)


@dataclass(frozen=True, slots=True)
class Message:
    """One control message. *generation* is the launch's number; *code*, *a*, *b*, *c* mean what the table says."""

    kind: Kind
    generation: int
    code: int = 0
    a: int = 0
    b: int = 0
    c: int = 0

    def __post_init__(self) -> None:
        for field, largest in _LARGEST.items():
            value = getattr(self, field)
            if not 0 <= value <= largest:
                raise ValueError(f"{self.kind.name}: {field} = {value} is not between 0 and {largest}")


def encode(message: Message) -> bytes:
    return _LAYOUT.pack(
        MAGIC,
        message.kind,
        0,
        message.generation,
        message.code,
        message.a,
        message.b,
        message.c,
        _RESERVED,
    )


def decode(datagram: bytes, descriptors: int, direction: Direction) -> Message:
    """The message in *datagram*, which came with that many *descriptors* in that *direction*.

    Raises MessageError for anything the table does not allow.
    """
    if len(datagram) != SIZE:
        raise MessageError(f"{len(datagram)} bytes, a message has {SIZE}")
    magic, number, zero, generation, code, a, b, c, reserved = _LAYOUT.unpack(datagram)
    if magic != MAGIC:
        raise MessageError(f"magic {magic.hex()}, expected {MAGIC.hex()}")
    try:
        kind = Kind(number)
    except ValueError:
        raise MessageError(f"unknown type {number}") from None
    if zero != 0 or reserved != _RESERVED:
        raise MessageError(f"{kind.name} with reserved bytes that are not zero")
    rule = RULES[kind]
    if rule.direction is not direction:
        raise MessageError(f"{kind.name} goes {rule.direction.value}, not {direction.value}")
    if descriptors != rule.descriptors:
        raise MessageError(f"{kind.name} with {descriptors} descriptors, expected {rule.descriptors}")
    return Message(kind, generation, code, a, b, c)
