"""The golden vectors, which the worker's tests read as well: both languages agree byte by byte."""

from __future__ import annotations

import dataclasses
import errno
import importlib.resources
import json
from typing import Any

import pytest
from virtiofs_sandbox.ipc import opcodes, stats
from virtiofs_sandbox.ipc.config import ConfigError, decode_config, encode_config
from virtiofs_sandbox.ipc.messages import RULES, Direction, Kind, Message, MessageError, decode, encode

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (importlib.resources.files("virtiofs_sandbox.ipc") / "vectors.json").read_text(encoding="utf-8")
)


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=name)
def test_a_message_is_written_and_read_as_recorded(vector: dict[str, Any]) -> None:
    kind = Kind(vector["type"])
    message = Message(kind, vector["generation"], vector["code"], vector["a"], vector["b"], vector["c"])
    assert encode(message).hex() == vector["hex"]
    assert decode(bytes.fromhex(vector["hex"]), RULES[kind].descriptors, RULES[kind].direction) == message


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("vector", VECTORS["refused"], ids=name)
def test_a_refused_message_is_refused(vector: dict[str, Any], direction: Direction) -> None:
    with pytest.raises(MessageError):
        decode(bytes.fromhex(vector["hex"]), 0, direction)


@pytest.mark.parametrize("vector", VECTORS["config"], ids=name)
def test_a_configuration_is_accepted_or_refused_as_recorded(vector: dict[str, Any]) -> None:
    if vector["accepted"]:
        config = decode_config(vector["document"].encode())
        assert json.loads(encode_config(config)) == json.loads(vector["document"])
    else:
        with pytest.raises(ConfigError):
            decode_config(vector["document"].encode())


def test_the_statistics_page_has_the_recorded_layout() -> None:
    recorded = {vector["name"]: vector for vector in VECTORS["stats"]}
    assert (recorded["magic"]["index"], recorded["magic"]["value"]) == (0, stats.MAGIC)
    assert (recorded["version"]["index"], recorded["version"]["value"]) == (1, stats.LAYOUT_VERSION)
    single = {
        key: vector["index"] for key, vector in recorded.items() if "value" not in vector and "count" not in vector
    }
    assert single == dict(stats.INDEXES)
    classes = len(opcodes.CLASSES)
    tables = {
        "requests_by_opcode": (stats.FIRST_REQUEST_COUNT, stats.OPCODES),
        "errors_by_opcode": (stats.FIRST_ERROR_COUNT, stats.OPCODES),
        "limits_by_class": (stats.FIRST_LIMIT_COUNT, classes * len(dataclasses.fields(stats.Throttled))),
        "latency_by_class": (stats.FIRST_LATENCY_COUNT, classes * stats.BUCKETS),
        "rings": (stats.FIRST_RING, stats.RINGS * stats.RING_WORDS),
        "nanoseconds_by_opcode": (stats.FIRST_NANOSECONDS, stats.OPCODES),
        "errors_by_class": (stats.FIRST_ERRNO_COUNT, classes * len(stats.ERRNOS)),
    }
    assert {key: (vector["index"], vector["count"]) for key, vector in recorded.items() if "count" in vector} == tables


def test_errors_and_opcodes_have_the_recorded_names_and_places() -> None:
    assert tuple(vector["name"] for vector in VECTORS["errnos"]) == stats.ERRNOS
    assert {getattr(errno, vector["name"], 0) for vector in VECTORS["errnos"]} == {
        vector["number"] for vector in VECTORS["errnos"]
    }
    assert dict(opcodes.NAMES) == {vector["number"]: vector["name"] for vector in VECTORS["opcodes"]}
    assert {opcodes.class_of(number) for number in (0, 63, 9999)} == {"metadata"}
    for vector in VECTORS["opcodes"]:
        assert opcodes.class_of(vector["number"]) == vector["class"]
