"""Path rules that do nothing, less than they seem to, or can be got around."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.checking import (
    host,
    none,
    only,
    ruled,
    source,
    subject,
)
from virtiofs_sandbox.confine import HostProbe
from virtiofs_sandbox.confine.preflight import Severity
from virtiofs_sandbox.confine.preflight.walk import Rules
from virtiofs_sandbox.policies.matching import Matcher
from virtiofs_sandbox.policies.share import (
    Case,
    PathRules,
)

__all__ = ["host", "source"]


def test_a_pattern_that_matches_nothing_is_warned_of(source: Path, host: HostProbe) -> None:
    found = only(subject(ruled(source, hide=("*.key",)), host), "pattern-matches-nothing")
    assert (found.severity, found.key) == (Severity.WARNING, "paths.hide")
    assert "hide '*.key' matches nothing" in found.what
    none(subject(ruled(source, hide=("fil?",)), host), "pattern-matches-nothing")


def test_a_pattern_in_the_wrong_case_is_told_so(source: Path, host: HostProbe) -> None:
    assert (
        "without regard to case" in only(subject(ruled(source, hide=("FILE",)), host), "pattern-matches-nothing").what
    )
    none(subject(ruled(source, hide=("FILE",), case=Case.INSENSITIVE), host), "pattern-matches-nothing")


def test_a_pattern_that_may_match_what_was_not_seen_is_only_noted(source: Path, host: HostProbe) -> None:
    found = only(subject(ruled(source, hide=("*.key",)), host, entries=1), "pattern-matches-nothing")
    assert found.severity is Severity.NOTE


@pytest.mark.parametrize(
    ("rules", "shadowed", "by"),
    [
        ({"readonly": ("conf", "conf/a")}, "readonly 'conf/a'", "'conf'"),
        ({"hide": ("conf/*", "conf/a")}, "hide 'conf/a'", "'conf/*'"),
        ({"hide": ("conf",), "readonly": ("conf/a",)}, "readonly 'conf/a'", "'conf'"),
        ({"hide": ("conf",), "allow": ("conf/a", "file")}, "allow 'conf/a'", "'conf'"),
        ({"hide": ("file", "file")}, "hide 'file'", "'file'"),
    ],
)
def test_a_pattern_in_the_shadow_of_another_is_named_with_it(
    source: Path, host: HostProbe, rules: dict[str, tuple[str, ...]], shadowed: str, by: str
) -> None:
    (source / "conf").mkdir()
    (source / "conf/a").touch()
    found = only(subject(ruled(source, **rules), host), "pattern-shadowed")
    assert found.what.startswith(f"{shadowed} changes nothing")
    assert found.what.endswith(f"covered by {by}")


def test_patterns_that_overlap_in_part_are_no_shadow(source: Path, host: HostProbe) -> None:
    for name in ("ab", "bc", "b"):
        (source / name).touch()
    none(subject(ruled(source, hide=("*b", "b*")), host), "pattern-shadowed")


def test_rules_that_leave_nothing_visible_are_warned_of(source: Path, host: HostProbe) -> None:
    only(subject(ruled(source, allow=("nowhere",)), host), "nothing-visible")
    none(subject(ruled(source, allow=("file",)), host), "nothing-visible")


def test_a_frozen_file_with_another_name_is_listed_rule_23(source: Path, host: HostProbe) -> None:
    (source / "frozen").mkdir()
    (source / "frozen/a").touch()
    none(subject(ruled(source, readonly=("frozen",)), host), "readonly-links")
    os.link(source / "frozen/a", source / "other")
    found = only(subject(ruled(source, readonly=("frozen",)), host), "readonly-links")
    assert found.severity is Severity.WARNING
    assert "frozen/a is also other" in found.what
    strict = only(subject(ruled(source, readonly=("frozen",), strict_links=True), host), "readonly-links")
    assert strict.severity is Severity.NOTE
    none(subject(ruled(source, readonly=("frozen", "other")), host), "readonly-links")


@pytest.mark.parametrize(
    ("rules", "kind"),
    [({"readonly": ("ruled",)}, "readonly-links-outside"), ({"hide": ("ruled",)}, "hide-links-outside")],
)
def test_a_ruled_file_with_a_name_outside_is_noted(
    source: Path, host: HostProbe, rules: dict[str, tuple[str, ...]], kind: str
) -> None:
    (source / "ruled").touch()
    none(subject(ruled(source, **rules), host), kind)
    os.link(source / "ruled", source.parent / "outside")
    assert "ruled (1 of its 2 names not seen)" in only(subject(ruled(source, **rules), host), kind).what


def test_a_hidden_file_with_a_visible_name_is_listed(source: Path, host: HostProbe) -> None:
    os.link(source / "file", source / "secret")
    assert "secret is also file" in only(subject(ruled(source, hide=("secret",)), host), "hide-links").what
    none(subject(ruled(source, hide=("secret", "file")), host), "hide-links")


def test_an_exact_rule_that_no_mount_can_hold_is_noted_with_the_reason(source: Path, host: HostProbe) -> None:
    (source / "real").mkdir()
    (source / "real/a").touch()
    (source / "link").symlink_to("real")
    for rule, reason in (("later", "does not exist"), ("link/a", "symbolic link")):
        found = only(subject(ruled(source, readonly=(rule,)), host), "rule-without-mount")
        assert f"readonly '{rule}' is held by the worker alone" in found.what
        assert reason in found.what
        assert found.key == "paths.readonly"
    none(subject(ruled(source, readonly=("real",), hide=("*.key",)), host), "rule-without-mount")


NAMES = st.sampled_from(["a", "b", "ab", "A", ".env"])
PATTERNS = st.lists(
    st.lists(st.sampled_from(["a", "b", "*", "**", "?", "a*", "[!a]", ".env"]), min_size=1, max_size=3).map("/".join),
    max_size=3,
).map(tuple)


@given(PATTERNS, PATTERNS, PATTERNS, st.sampled_from(Case), st.lists(NAMES, max_size=4))
def test_the_walk_judges_every_path_as_the_rules_do(
    hide: tuple[str, ...], readonly: tuple[str, ...], allow: tuple[str, ...], case: Case, path: list[str]
) -> None:
    paths = PathRules(hide=hide, readonly=readonly, allow=allow, case=case)
    rules = Rules(paths)
    standing = rules.root()
    for depth in range(len(path)):
        standing = rules.below(standing, tuple(path[: depth + 1]))
    judged = Matcher.of(paths).judge(tuple(path))
    assert rules.freezes(standing) == judged.frozen
    assert (bool(path) and rules.hides(standing)) == judged.hidden
