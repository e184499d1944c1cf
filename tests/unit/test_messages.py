"""Control messages: what is sent is what arrives, and nothing but the table is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.messages import MAGIC, RULES, SIZE, Direction, Kind, Message, MessageError, decode, encode

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
messages = st.builds(Message, st.sampled_from(Kind), u32, u32, u64, u64, u64)


@given(messages)
def test_a_message_survives_the_round_trip(message: Message) -> None:
    rule = RULES[message.kind]
    assert decode(encode(message), rule.descriptors, rule.direction) == message


@given(st.binary(max_size=2 * SIZE), st.integers(0, 3), st.sampled_from(Direction))
def test_random_bytes_raise_the_documented_error_only(datagram: bytes, descriptors: int, direction: Direction) -> None:
    with pytest.raises(MessageError):
        decode(datagram, descriptors, direction)


@given(messages, st.integers(0, SIZE - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_a_value(message: Message, position: int, flip: int) -> None:
    datagram = bytearray(encode(message))
    datagram[position] ^= flip
    rule = RULES[message.kind]
    try:
        changed = decode(bytes(datagram), rule.descriptors, rule.direction)
    except MessageError:
        return
    assert changed != message
    assert encode(changed) == bytes(datagram)


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(Kind)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda raw: raw[:-1], "63 bytes"),
        (lambda raw: raw + b"\0", "65 bytes"),
        (lambda raw: b"", "0 bytes"),
        (lambda raw: b"XXXX" + raw[4:], "magic"),
        (lambda raw: raw[:4] + b"\x63\0" + raw[6:], "unknown type 99"),
        (lambda raw: raw[:6] + b"\1\0" + raw[8:], "READY with reserved bytes"),
        (lambda raw: raw[:-1] + b"\1", "READY with reserved bytes"),
        (lambda raw: raw[:4] + b"\2\0" + raw[6:], "STOP goes to worker"),
    ],
)
def test_a_refusal_names_the_check(change: object, complaint: str) -> None:
    assert callable(change)
    with pytest.raises(MessageError, match=complaint):
        decode(change(encode(Message(Kind.READY, 1, a=1))), 0, Direction.TO_SUPERVISOR)


@pytest.mark.parametrize("kind", Kind)
def test_any_other_number_of_descriptors_is_refused(kind: Kind) -> None:
    rule = RULES[kind]
    for number in {0, 1, 2} - {rule.descriptors}:
        with pytest.raises(MessageError, match="descriptors"):
            decode(encode(Message(kind, 1)), number, rule.direction)


@pytest.mark.parametrize("values", [{"generation": 2**32}, {"code": -1}, {"a": 2**64}])
def test_a_value_that_does_not_fit_is_an_error_of_the_sender(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not between"):
        Message(**{"kind": Kind.STOP, "generation": 0, **values})  # type: ignore[arg-type]


def test_the_layout_is_the_documented_one() -> None:
    datagram = encode(Message(Kind.LEAVING, 0x01020304, 11, a=5, b=6, c=7))
    assert datagram[:4] == MAGIC
    assert datagram[4:16].hex() == "12000000" + "04030201" + "0b000000"
    assert datagram[16:40] == b"".join(value.to_bytes(8, "little") for value in (5, 6, 7))
    assert datagram[40:] == bytes(24)
