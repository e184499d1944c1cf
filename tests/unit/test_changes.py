"""What a reload changes: every field has its place in the table, and the words say from what to what."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.ipc.config import Rules
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Child,
    Identity,
    IdMap,
    LogLevel,
    PathRules,
    RequestLimits,
    Share,
    Tier,
)
from virtiofs_sandbox.policies.share import Sandbox as SandboxPolicy
from virtiofs_sandbox.supervisor.changes import (
    REACH,
    Change,
    Reach,
    changes,
    is_lower,
    is_stricter,
    live_settings,
    refusal,
)

SHARE = Share(name="data", source=Path("/srv/data"), tag="data")
TREE = Share(
    name="tree",
    source=None,
    tag="tree",
    children=(Child("a", Path("/srv/a")), Child("b", Path("/srv/b"), Access.READ_ONLY)),
)


def only(old: Share, new: Share) -> Change:
    (change,) = changes(old, new)
    return change


def test_every_field_of_a_share_has_its_place_in_the_table() -> None:
    assert set(REACH) == {field.name for field in dataclasses.fields(Share)}


def test_nothing_changed_is_no_change() -> None:
    assert changes(SHARE, dataclasses.replace(SHARE)) == ()


@pytest.mark.parametrize(
    ("fields", "reach", "words"),
    [
        ({"log_level": LogLevel.DEBUG}, Reach.SETTINGS, "log_level info -> debug"),
        ({"paths": PathRules(hide=("**/.env",))}, Reach.SETTINGS, "paths.hide gains '**/.env'"),
        ({"paths": PathRules(strict_links=True)}, Reach.SETTINGS, "paths.strict_links off -> on"),
        ({"limits": RequestLimits(read=1 << 20)}, Reach.SETTINGS, "limits.requests.read none -> 1MiB/s"),
        ({"source": Path("/srv/other")}, Reach.JAIL, "source /srv/data -> /srv/other"),
        ({"access": Access.READ_ONLY}, Reach.JAIL, "access read-write -> read-only"),
        ({"cache": CacheMode.NEVER}, Reach.JAIL, "cache auto -> never"),
        ({"timeout": 1.5}, Reach.JAIL, "timeout default -> 1.5"),
        ({"identity": Identity(map=IdMap.SQUASH, uid=5)}, Reach.JAIL, "identity.map default -> squash; identity.uid"),
        ({"sandbox": SandboxPolicy(minimum=Tier.FULL)}, Reach.JAIL, "sandbox.minimum userns -> full"),
        ({"tag": "other"}, Reach.JAIL, "tag 'data' -> 'other'"),
    ],
)
def test_a_change_says_how_far_it_reaches_and_from_what_to_what(
    fields: dict[str, object], reach: Reach, words: str
) -> None:
    change = only(SHARE, dataclasses.replace(SHARE, **fields))  # type: ignore[arg-type]
    assert change.reach is reach
    assert change.words.startswith(words)


def test_patterns_that_come_and_go_are_named() -> None:
    before = dataclasses.replace(SHARE, paths=PathRules(hide=("a", "b"), allow=("c",)))
    after = dataclasses.replace(SHARE, paths=PathRules(hide=("b", "d"), allow=("c",)))
    assert only(before, after).words == "paths.hide gains 'd'; paths.hide loses 'a'"


def test_children_change_by_mounts_but_a_tree_does_not_become_a_directory() -> None:
    more = dataclasses.replace(TREE, children=(*TREE.children, Child("c", Path("/srv/c"))))
    assert only(TREE, more) == Change("children", Reach.MOUNTS, "children gains 'c' (/srv/c, read-write)")
    assert {change.reach for change in changes(TREE, dataclasses.replace(SHARE, name="tree", tag="tree"))} == {
        Reach.JAIL
    }


def test_another_name_for_a_running_share_is_refused_in_a_sentence() -> None:
    sentence = refusal(SHARE, dataclasses.replace(SHARE, name="other"))
    assert sentence == "name 'data' -> 'other': a running share keeps its name; stop it and start it anew"


def test_rules_that_no_worker_would_read_are_refused_before_anything_changes() -> None:
    paths = PathRules(hide=tuple("x" * 1020 + f"{number:04}" for number in range(256)))
    assert refusal(SHARE, dataclasses.replace(SHARE, paths=paths)) is not None
    assert refusal(SHARE, dataclasses.replace(SHARE, paths=dataclasses.replace(paths, hide=paths.hide[:200]))) is None


def test_a_child_that_leaves_is_hidden_and_the_others_are_frozen_as_the_policy_says_now() -> None:
    children = (Child("a", Path("/srv/elsewhere")), Child("c", Path("/srv/c"), Access.READ_ONLY))
    new = dataclasses.replace(TREE, children=children, paths=PathRules(hide=("*/x",)))
    settings = live_settings(TREE, new, ("a", "b*"))
    assert settings.rules.hide == ("*/x", "a", "b\\*")
    assert settings.rules.readonly == ("c",)


def test_a_jail_of_one_directory_keeps_its_root_when_the_share_becomes_a_tree() -> None:
    settings = live_settings(SHARE, dataclasses.replace(TREE, paths=PathRules(hide=("x",))), ())
    assert settings.rules == Rules(hide=("x",))


PATTERNS = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(tuple)
RULES = st.builds(
    Rules,
    hide=PATTERNS,
    readonly=PATTERNS,
    allow=PATTERNS,
    case=st.sampled_from(["sensitive", "insensitive"]),
    strict_links=st.booleans(),
)


def forbidden(rules: Rules) -> set[tuple[str, str]]:
    """What rules of one-letter names forbid, name by name."""
    folded = str.lower if rules.case == "insensitive" else str
    found = set()
    for name in "abcdABCD":
        hidden = folded(name) in rules.hide or (bool(rules.allow) and folded(name) not in rules.allow)
        if hidden:
            found.add((name, "see"))
        if hidden or folded(name) in rules.readonly:
            found.add((name, "change"))
    if rules.strict_links:
        found.add(("", "links"))
    return found


@given(RULES, RULES)
def test_rules_that_forbid_anything_more_are_always_found_to_be_stricter(old: Rules, new: Rules) -> None:
    if not forbidden(new) <= forbidden(old):
        assert is_stricter(old, new)


@given(RULES)
def test_the_same_rules_are_never_stricter(rules: Rules) -> None:
    assert not is_stricter(rules, rules)


def test_rules_that_only_open_up_are_not_stricter() -> None:
    assert not is_stricter(Rules(hide=("a",), readonly=("b",), allow=("c",), strict_links=True), Rules())
    assert not is_stricter(Rules(allow=("c",)), Rules(allow=("c", "d")))


def test_limits_reach_the_running_worker() -> None:
    limited = dataclasses.replace(SHARE, limits=RequestLimits(write=1 << 20, metadata_ops=7, burst=0.5))
    told = live_settings(SHARE, limited, ()).limits
    assert told is not None
    assert (told.write, told.read, told.metadata_ops, told.burst_ms, told.max_delay_ms) == (1 << 20, None, 7, 500, 5000)
    assert live_settings(limited, SHARE, ()).limits is None
    lifted = only(limited, SHARE)
    assert lifted.words.startswith(
        "limits.requests.write 1MiB/s -> none; limits.requests.metadata-ops 7/s -> none; limits.requests.burst"
    )


def test_any_rate_that_is_new_or_smaller_makes_limits_lower() -> None:
    some = live_settings(SHARE, dataclasses.replace(SHARE, limits=RequestLimits(read=1 << 20)), ()).limits
    smaller = live_settings(SHARE, dataclasses.replace(SHARE, limits=RequestLimits(read=1 << 19)), ()).limits
    assert is_lower(None, some)
    assert is_lower(some, smaller)
    assert not is_lower(smaller, some)
    assert not is_lower(some, some)
    assert not is_lower(some, None)
