"""The configuration document: one JSON object, and both sides refuse what they do not know."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.config import MAX_BYTES, ConfigError, WorkerConfig, decode_config, encode_config

DOCUMENT: dict[str, Any] = {
    "version": 2,
    "share": "data",
    "generation": 3,
    "tag": "data",
    "readonly": False,
    "cache": "auto",
    "writeback": False,
    "xattr": True,
    "timeout_ms": 500,
    "ids": "caller",
    "unmapped": "forbid",
    "attributes": "path",
    "tree": False,
    "rules": {"hide": ["**/.env"], "readonly": [], "allow": [], "case": "sensitive", "strict_links": False},
    "filters": {"keeper": [], "control": [6], "queue": [2**64 - 1]},
    "limits": {
        "read": 2**40,
        "write": 1,
        "read_ops": None,
        "write_ops": 7,
        "metadata_ops": None,
        "burst_ms": 1000,
        "max_delay_ms": 5000,
    },
    "queues": 4,
    "log_level": "info",
}


def test_a_document_survives_the_round_trip() -> None:
    config = decode_config(json.dumps(DOCUMENT).encode())
    assert json.loads(encode_config(config)) == DOCUMENT


@pytest.mark.parametrize("field", DOCUMENT)
def test_a_missing_field_is_refused_by_name(field: str) -> None:
    rest = {key: value for key, value in DOCUMENT.items() if key != field}
    with pytest.raises(ConfigError, match=field):
        decode_config(json.dumps(rest).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 3),
        ("generation", -1),
        ("generation", 2**32),
        ("generation", True),
        ("tag", ""),
        ("tag", "x" * 37),
        ("tag", "ü" * 19),
        ("readonly", "yes"),
        ("cache", "sometimes"),
        ("timeout_ms", -1),
        ("ids", "root"),
        ("unmapped", "allow"),
        ("attributes", "handle"),
        ("tree", 1),
        ("rules", {"deny": []}),
        ("filters", {"keeper": [], "control": [], "queue": [2**64]}),
        ("queues", 0),
        ("queues", 9),
        ("log_level", "trace"),
        ("path", "/etc"),
    ],
)
def test_a_value_out_of_range_or_an_unknown_field_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        decode_config(json.dumps({**DOCUMENT, field: value}).encode())


def test_a_document_that_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        decode_config(json.dumps({**DOCUMENT, "share": "x" * MAX_BYTES}).encode())


def test_nothing_is_sent_that_would_be_refused() -> None:
    with pytest.raises(ConfigError, match="queues"):
        encode_config(WorkerConfig(**{**DOCUMENT, "queues": 99}))


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode))
def test_random_bytes_raise_the_documented_error_only(document: bytes) -> None:
    with pytest.raises(ConfigError):
        decode_config(document)
