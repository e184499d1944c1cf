"""What a member of a group tells the others: a record of fixed size, written at once, judged by whoever reads it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from virtiofs_sandbox.policies.control import MAX_WEIGHT

# The rates a group may have a budget for, in the order of the record.
RATES = (
    *(f"requests.{name}" for name in ("read", "write", "read_ops", "write_ops", "metadata_ops")),
    *(f"disk.{name}" for name in ("read", "write", "read_ops", "write_ops")),
)
_MAGIC = b"VFSGRP\x00\x01"
_COUNT = len(RATES)
_BODY = struct.Struct(f"<8sQ{_COUNT}Q{_COUNT}Q")
_SUM = struct.Struct("<I")
RECORD_BYTES = _BODY.size + _SUM.size
# A demand without bound.
_ALL = 2**64 - 1
_MOST = 2**62


@dataclass(frozen=True)
class Record:
    """Of each rate in RATES what the member wants (None: all it gets) and what it holds: no more than that is used."""

    weight: int
    demands: tuple[int | None, ...]
    held: tuple[int, ...]


def encode(record: Record) -> bytes:
    demands = (_ALL if demand is None else min(demand, _MOST) for demand in record.demands)
    body = _BODY.pack(_MAGIC, record.weight, *demands, *(min(held, _MOST) for held in record.held))
    return body + _SUM.pack(zlib.crc32(body))


def decode(content: bytes) -> Record | None:
    """None when *content* is no record, or only parts of one."""
    if len(content) != RECORD_BYTES:
        return None
    body, (checksum,) = content[: _BODY.size], _SUM.unpack(content[_BODY.size :])
    magic, weight, *numbers = _BODY.unpack(body)
    if magic != _MAGIC or checksum != zlib.crc32(body) or not 1 <= weight <= MAX_WEIGHT:
        return None
    demands, held = numbers[:_COUNT], numbers[_COUNT:]
    if any(number > _MOST and number != _ALL for number in demands) or max(held) > _MOST:
        return None
    return Record(weight, tuple(None if number == _ALL else number for number in demands), tuple(held))
