"""Which path rules become mounts, in which order, and what is said of the rest."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.confine import CannotConfineError, Tier, mountplan
from virtiofs_sandbox.confine.plan import RuleMount
from virtiofs_sandbox.confine.rules import exact, literal
from virtiofs_sandbox.policies.share import Access, Case, Child, PathRules, Share
from virtiofs_sandbox.syscalls import mounts

NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture
def share(tmp_path: Path) -> Share:
    for folder in ("a/b/c", "secrets"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "a/file").touch()
    (tmp_path / "link").symlink_to("a")
    return Share("data", tmp_path, "data")


def said(share: Share, rules: PathRules, tier: Tier = Tier.FULL) -> dict[str, tuple[bool, str]]:
    _, held = mountplan.rule_mounts(dataclasses.replace(share, paths=rules), tier)
    return {rule.pattern: (rule.held, rule.why) for rule in held}


def planned(share: Share, rules: PathRules, tier: Tier = Tier.FULL) -> tuple[RuleMount, ...]:
    return mountplan.rule_mounts(dataclasses.replace(share, paths=rules), tier)[0]


def test_upper_comes_before_lower_and_frozen_before_hidden(share: Share) -> None:
    rules = PathRules(readonly=("a/b/c", "a"), hide=("a/b", "secrets/"))
    assert [(mount.path, mount.hide) for mount in planned(share, rules)] == [
        (b"a", False),
        (b"a/b/c", False),
        (b"secrets", True),
        (b"a/b", True),
    ]


def test_each_rule_is_told_whether_a_mount_holds_it_and_why(share: Share) -> None:
    rules = PathRules(readonly=("a", "link/file", "a/[xy]"), hide=("secrets", "gone", "a/file/below"), allow=("a",))
    assert said(share, dataclasses.replace(rules, allow=("b",))) == {
        "a": (True, "a read-only mount holds it"),
        "link/file": (False, "a symbolic link is on the way"),
        "a/[xy]": (False, "it has wildcards"),
        "secrets": (True, "an empty mount hides it"),
        "gone": (False, "it does not exist now"),
        "a/file/below": (False, "it does not exist now"),
        "b": (False, "what is allowed is no subtree to mount over"),
    }


def test_what_is_not_there_yet_stays_planned_for_the_next_launch(share: Share) -> None:
    assert planned(share, PathRules(hide=("gone",))) == (RuleMount(b"gone", True),)


def test_no_case_no_mounts_and_a_read_only_share_need_no_rule_mount(share: Share) -> None:
    rules = PathRules(readonly=("a",))
    folded = dataclasses.replace(rules, case=Case.INSENSITIVE)
    assert (planned(share, folded), said(share, folded)) == (
        (),
        {"a": (False, "names are compared without regard to case")},
    )
    assert (planned(share, rules, Tier.BARE), said(share, rules, Tier.BARE)) == (
        (),
        {"a": (False, "no mounts of its own in this tier")},
    )
    readonly = dataclasses.replace(share, access=Access.READ_ONLY)
    assert (planned(readonly, rules), said(readonly, rules)) == (
        (),
        {"a": (True, "the whole share is mounted read-only")},
    )


def test_more_exact_rules_than_a_request_carries_are_held_by_the_worker_alone(share: Share) -> None:
    rules = PathRules(hide=tuple(f"{number:03}" + "x" * 1000 for number in range(100)))
    assert sum(len(mount.path) for mount in planned(share, rules)) <= 64 * 1024
    assert [why for _, why in said(share, rules).values()][-1] == "more than 65536 bytes of exact rules"


def tree(work: Path, *children: Child) -> Share:
    return Share("data", None, "data", children=children or (Child("one", work / "a"), Child("two", work / "secrets")))


def test_rules_of_a_tree_reach_into_its_children(share: Share, tmp_path: Path) -> None:
    rules = PathRules(readonly=("one/b", "one"), hide=("two/none", "three/file"))
    assert said(tree(tmp_path), rules) == {
        "one/b": (True, "a read-only mount holds it"),
        "one": (True, "a read-only mount holds it"),
        "two/none": (False, "it does not exist now"),
        "three/file": (False, "no directory of this tree has that name"),
    }


def test_each_child_has_its_own_access_and_a_read_only_share_no_other(tmp_path: Path) -> None:
    children = (Child("one", tmp_path), Child("two", tmp_path, Access.READ_ONLY))
    readonly = [
        bool(mount.attributes & mounts.MOUNT_ATTR_RDONLY)
        for access in Access
        for mount in mountplan.children(dataclasses.replace(tree(tmp_path, *children), access=access), Tier.FULL)
    ]
    assert readonly == [True, True, False, True]


def test_a_tree_without_mounts_is_refused_with_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(CannotConfineError) as refused:
        mountplan.children(tree(tmp_path), Tier.BARE)
    assert str(refused.value) == (
        "share data is a tree of 2 directories, which takes mounts of its own, and this host allows none: share each "
        "directory under a tag of its own"
    )


def test_a_tree_too_large_for_one_launch_is_refused(tmp_path: Path) -> None:
    many = [Child(f"child{number}", tmp_path) for number in range(251)]
    with pytest.raises(CannotConfineError, match="251 directories: 250 are accepted"):
        mountplan.children(tree(tmp_path, *many), Tier.FULL)


@given(names=st.lists(NAME, min_size=1, max_size=4))
def test_a_literal_pattern_is_exactly_its_path(names: list[str]) -> None:
    assert exact("/".join(map(literal, names))) == os.fsencode("/".join(names))


@given(pattern=st.text("ab*?[]\\/!", max_size=12))
def test_an_exact_pattern_has_no_wildcard_but_an_escaped_one(pattern: str) -> None:
    stripped = pattern.replace("\\\\", "").replace("\\*", "").replace("\\?", "").replace("\\[", "")
    assert (exact(pattern) is None) == any(wildcard in stripped for wildcard in "*?[")
