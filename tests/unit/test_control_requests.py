"""What is said on the control socket of a share: whatever arrives is a request or refused, within bounds."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.generated import ROOT
from virtiofs_sandbox.ipc import requests
from virtiofs_sandbox.ipc.requests import (
    LENGTH_BYTES,
    MAX_BYTES,
    Failed,
    ListShares,
    ReadLimits,
    ReadLog,
    ReadStatus,
    Reload,
    Request,
    RequestError,
    Restart,
    SetLimits,
    Stop,
    decode_reply,
    decode_request,
    encode,
    fitting,
    length,
    words,
)
from virtiofs_sandbox.supervisor.states import State

TEXT = st.text(max_size=64)
SHARE = st.none() | TEXT
REQUESTS = st.one_of(
    st.sampled_from([ReadStatus(), ReadLimits(), ListShares()]),
    st.builds(SetLimits, share=SHARE, set=st.dictionaries(TEXT, TEXT, min_size=1, max_size=8)),
    st.builds(Reload, share=SHARE, now=st.booleans()),
    st.builds(Restart, share=SHARE, now=st.booleans()),
    st.builds(Stop, share=SHARE, now=st.booleans(), all=st.booleans()),
    st.builds(ReadLog, after=st.none() | st.integers(0, 1 << 62), wait=st.floats(0, 5), share=SHARE),
)


def refused(text: bytes) -> str:
    with pytest.raises(RequestError) as error:
        decode_request(text)
    return error.value.code


@given(REQUESTS)
def test_a_request_arrives_as_it_was_sent(request: Request) -> None:
    sent = encode(request)
    assert length(sent[:LENGTH_BYTES]) == len(sent) - LENGTH_BYTES
    assert decode_request(sent[LENGTH_BYTES:]) == request


@given(st.binary(max_size=200))
@example(b"[" * 60_000)
@example(b'{"version":1,"request":"status","a":' + b"[" * 60_000)
@example(b"\xff" * 10)
@example(b"1")
@example(b'{"version":1e999,"request":"status"}')
def test_any_bytes_are_a_request_or_refused(text: bytes) -> None:
    try:
        decode_request(text)
    except RequestError as error:
        assert error.code in {"malformed", "version"}
        assert len(encode(Failed(error=error.code, sentence=words(error)))) < MAX_BYTES


@given(st.recursive(st.none() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_any_document_with_a_foreign_field_is_refused(value: object) -> None:
    document = {"version": 1, "request": "reload", "soon": value}
    assert refused(msgspec.json.encode(document)) == "malformed"


@given(st.binary(min_size=LENGTH_BYTES, max_size=LENGTH_BYTES))
def test_no_length_asks_for_more_than_the_bound(head: bytes) -> None:
    size = int.from_bytes(head, "little")
    if 1 <= size <= MAX_BYTES:
        assert length(head) == size
    else:
        with pytest.raises(RequestError, match="1 to 65536"):
            length(head)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"version":1}',
        b'{"version":1,"request":"no such"}',
        b'{"version":"1","request":"status"}',
        b'{"version":1,"request":"limit"}',
        b'{"version":1,"request":"limit","set":{}}',
        b'{"version":1,"request":"limit","set":{"read":5}}',
        b'{"version":1,"request":"limit","set":{"read":"' + b"9" * 300 + b'"}}',
        msgspec.json.encode({"version": 1, "request": "limit", "set": {str(n): "none" for n in range(65)}}),
        b'{"version":1,"request":"status"} x',
    ],
)
def test_what_is_no_request_of_this_version_is_malformed(text: bytes) -> None:
    assert refused(text) == "malformed"


def test_another_version_is_told_from_nonsense() -> None:
    assert refused(b'{"version":2,"request":"anything","more":[]}') == "version"


def test_counters_of_any_size_arrive() -> None:
    """A worker may claim what it likes."""
    most = 2**64 - 1
    sent = requests.Limits(
        limits=(),
        counters={"read": requests.Passed(admitted=most, delayed=most, nanoseconds_delayed=most, bytes_admitted=most)},
        disks={},
    )
    assert decode_reply(encode(sent)[LENGTH_BYTES:]) == sent


@given(st.lists(st.text(), max_size=50))
def test_a_reply_fits_however_much_there_is_to_say(items: list[str]) -> None:
    many = [words(item * 400) for item in items]
    reply = requests.Reloaded(changes=fitting(many), later=fitting(many))
    assert decode_reply(encode(reply)[LENGTH_BYTES:]) == reply
    assert list(reply.changes) == many[: len(reply.changes)]


def test_words_have_a_bound_and_no_half_characters() -> None:
    assert len(words("x" * 10_000)) < 2100
    assert words("a\udcff") == "a\\udcff"


def test_the_documents_have_every_request_and_every_error() -> None:
    text = (ROOT / "docs/control.md").read_text()
    for kind in typing.get_args(requests.Request):
        assert f'`"{kind.__struct_config__.tag}"`' in text
    for state in State:
        assert f"| `{state.name.lower()}` |" in text
    for code in requests.Code.__args__:  # type: ignore[attr-defined]  # a Literal
        assert f"| `{code}` |" in text
    for field in msgspec.structs.fields(requests.Standing):
        assert f"`{field.name}`" in text
