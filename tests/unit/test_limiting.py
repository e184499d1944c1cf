"""Limits changed by command: anywhere below the policy's, nowhere above it (I3)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies.limiting import KEYS, LimitError, LimitWidensError, differences, limited
from virtiofs_sandbox.policies.share import ControlLimits, DiskLimits, RequestLimits, Share

MIB = 1 << 20
PLAIN = Share(name="data", source=Path("/srv"), tag="data")


def share(requests: RequestLimits | None = None, **disk: int | None) -> Share:
    return dataclasses.replace(PLAIN, limits=requests, control=ControlLimits(disk=DiskLimits(**disk)))


RATES = st.none() | st.integers(16 << 10, 1 << 40)
REQUESTS = st.builds(
    RequestLimits, read=RATES, write=RATES, read_ops=RATES, write_ops=RATES, metadata_ops=st.integers(16 << 10, 1 << 40)
)
SHARES = st.builds(
    lambda requests, disk: dataclasses.replace(PLAIN, limits=requests, control=ControlLimits(disk=disk)),
    st.none() | REQUESTS,
    st.builds(DiskLimits, read=RATES, write=RATES, read_ops=RATES, write_ops=RATES),
)
TEXTS = st.just("none") | st.integers(16 << 10, 1 << 40).flatmap(
    lambda rate: st.sampled_from([f"{rate}B/s", f"{rate}/s"])
)
ASSIGNMENTS = st.dictionaries(st.sampled_from(list(KEYS)), TEXTS, min_size=1)


@given(SHARES, st.lists(ASSIGNMENTS, max_size=8))
def test_whatever_is_asked_in_whatever_order_no_limit_is_ever_above_the_policy_s(
    policy: Share, asked: list[dict[str, str]]
) -> None:
    now = policy
    for assignments in asked:
        before = now
        try:
            now = limited(policy, now, assignments)
        except LimitError:
            continue
        for name, key in KEYS.items():
            most, rate = key.of(policy), key.of(now)
            assert most is None or (rate is not None and rate <= most)
            if name not in assignments:
                assert rate == key.of(before)
        # Nothing but rates.
        assert dataclasses.replace(now, limits=None, control=policy.control) == dataclasses.replace(policy, limits=None)


@given(SHARES, ASSIGNMENTS)
def test_none_for_every_key_is_the_policy_again(policy: Share, assignments: dict[str, str]) -> None:
    try:
        changed = limited(policy, policy, assignments)
    except LimitError:
        return
    assert limited(policy, changed, dict.fromkeys(KEYS, "none")) == policy


def test_a_limit_goes_down_and_up_again_to_the_policy_s_and_no_further() -> None:
    policy = share(RequestLimits(read=100 * MIB), write=20 * MIB)
    low = limited(policy, policy, {"read": "1MiB/s", "disk.write": "1MiB/s"})
    assert (KEYS["read"].of(low), KEYS["disk.write"].of(low)) == (MIB, MIB)
    assert limited(policy, low, {"read": "100MiB/s", "limits.disk.write": "20MiB/s"}) == policy
    with pytest.raises(LimitWidensError, match=r"^read: 101MiB/s would widen the policy, which allows 100MiB/s$"):
        limited(policy, low, {"read": "101MiB/s"})
    with pytest.raises(LimitWidensError, match=r"^disk.write: 21MiB/s would widen"):
        limited(policy, low, {"disk.write": "21MiB/s", "read": "2MiB/s"})


def test_where_the_policy_has_no_limit_any_is_set_and_none_takes_it_away() -> None:
    set_now = limited(PLAIN, PLAIN, {"limits.requests.metadata-ops": "1000/s", "disk.read": "1TiB/s"})
    assert set_now.limits == RequestLimits(metadata_ops=1000)
    assert limited(PLAIN, set_now, {"metadata-ops": "none", "disk.read": "none"}) == PLAIN


def test_none_does_not_lift_what_the_policy_says() -> None:
    policy = share(RequestLimits(read=100 * MIB, burst=0.25))
    low = limited(policy, policy, {"read": "1MiB/s", "write": "1MiB/s"})
    assert limited(policy, low, {"read": "none", "write": "none"}) == policy


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("read", "50MiB", r'^read: "50MiB" is no rate.*; or "none"$'),
        ("read", "0MiB/s", "^read: .*out of range"),
        ("read", "-1MiB/s", "^read: .*no rate"),
        ("metadata-ops", "1MiB/s", "^metadata-ops: .*no rate of operations"),
        ("disk.write", "20Mb/s", "^disk.write: .*no rate"),
        ("metadata_ops", "1/s", "^metadata_ops: there is no such limit; did you mean metadata-ops?"),
        ("burst", "1s", "^burst: only rates"),
        ("disk.weight", "100", "^disk.weight: only rates"),
        ("memory.max", "1GiB", "^memory.max: only rates"),
        ("group.read", "1MiB/s", "^group.read: only rates"),
        ("share.access", "read-write", "^share.access: there is no such limit"),
        ("re\nad", "1MiB/s", r"^'re\\nad': there is no such limit"),
    ],
)
def test_what_cannot_be_set_is_refused_by_its_key(key: str, value: str, sentence: str) -> None:
    with pytest.raises(LimitError, match=sentence):
        limited(PLAIN, PLAIN, {key: value})


def test_of_several_assignments_all_that_is_wrong_is_told_and_nothing_is_carried_out() -> None:
    with pytest.raises(LimitError) as refused:
        limited(
            share(RequestLimits(read=MIB)), PLAIN, {"read": "2MiB/s", "writ": "1MiB/s", "write": "x", "read-ops": "1/s"}
        )
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["writ", "write", "read"]
    with pytest.raises(LimitError, match="given twice"):
        limited(PLAIN, PLAIN, {"read": "1MiB/s", "limits.requests.read": "2MiB/s"})


def test_what_differs_is_said_in_the_policy_s_own_keys_and_units() -> None:
    old, new = share(RequestLimits(read=100 * MIB)), share(RequestLimits(read=MIB), write_ops=7)
    assert list(differences(old, new)) == ["read 100MiB/s -> 1MiB/s", "disk.write-ops none -> 7/s"]


def test_a_limit_that_several_clients_cannot_divide_is_refused() -> None:
    several = dataclasses.replace(PLAIN, max_clients=4)
    with pytest.raises(
        LimitError, match=r"share\.max_clients = 4 would be less than 16KiB/s for each; 64KiB/s or more"
    ):
        limited(several, several, {"read": "63KiB/s"})
    assert limited(several, several, {"read": "64KiB/s"}).limits is not None
