"""Path patterns: which are accepted, and what one covers; ipc/patterns.json binds the worker to the same."""

from __future__ import annotations

import importlib.resources
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies.matching import Judgement, Matcher
from virtiofs_sandbox.policies.patterns import Coverage, Pattern, PatternError, split
from virtiofs_sandbox.policies.share import Case, PathRules

CASES: list[dict[str, Any]] = json.loads(
    (importlib.resources.files("virtiofs_sandbox.ipc") / "patterns.json").read_text(encoding="utf-8")
)["cases"]

# Few characters, so that patterns and names meet often; one of several bytes, one byte that is no UTF-8.
NAMES = st.text(alphabet="abA.*[]\\é\udcff", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, max_size=5).map(tuple)
TEXTS = st.text(alphabet="abA.*?[]!-\\/é", min_size=1, max_size=10)


def rules_of(case: dict[str, Any]) -> PathRules:
    given_rules = case["rules"]
    return PathRules(
        hide=tuple(given_rules.get("hide", ())),
        readonly=tuple(given_rules.get("readonly", ())),
        allow=tuple(given_rules.get("allow", ())),
        case=Case(given_rules.get("case", "sensitive")),
        strict_links=given_rules.get("strict_links", False),
    )


def components(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


def parsed(text: str) -> Pattern | None:
    try:
        return Pattern.parse(text)
    except PatternError:
        return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_golden_cases(case: dict[str, Any]) -> None:
    judgement = Matcher.of(rules_of(case)).judge(components(case["path"]))
    assert judgement == Judgement(hidden=case["hidden"], frozen=case["frozen"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("/", "the share itself"),
        ("/etc", "relative to the share's root"),
        ("a//b", "two '/' in a row"),
        ("a//", "two '/' in a row"),
        (".", "without detours"),
        ("a/./b", "without detours"),
        ("../a", "without detours"),
        ("a/..", "without detours"),
        ("a**", "glued"),
        ("**.lock", "glued"),
        ("***", "glued"),
        ("a\0b", "NUL"),
        ("[a", "not closed"),
        ("[]", "not closed"),
        ("[!]", "not closed"),
        ("[a/b]", "not closed"),
        ("[z-a]", "backwards"),
        ("a\\", "backslash"),
        ("a\\/b", "backslash"),
        ("\ud800", "Unicode"),
        ("é" * 513, "1026 bytes"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        Pattern.parse(text)


def test_a_pattern_of_1024_bytes_is_one() -> None:
    assert Pattern.parse("é" * 512).coverage(("é" * 512,)) is Coverage.WHOLE


@given(TEXTS)
def test_any_text_is_a_pattern_or_refused_and_nothing_else(text: str) -> None:
    pattern = parsed(text)
    assert pattern is None or pattern.components


@given(PATHS.filter(bool))
def test_a_name_with_everything_escaped_matches_itself(path: tuple[str, ...]) -> None:
    written = "/".join("".join(f"\\{character}" for character in name) for name in path)
    if "\udcff" in written:
        with pytest.raises(PatternError, match="Unicode"):
            split(written)
    else:
        assert Pattern.parse(written).coverage(path) is Coverage.WHOLE


@given(TEXTS, PATHS, NAMES)
def test_what_covers_a_directory_covers_everything_in_it(text: str, path: tuple[str, ...], name: str) -> None:
    pattern = parsed(text)
    if pattern is not None and pattern.coverage(path) is Coverage.WHOLE:
        assert pattern.coverage((*path, name)) is Coverage.WHOLE


@given(TEXTS, PATHS, NAMES)
def test_what_matches_nothing_below_a_directory_covers_nothing_in_it(
    text: str, path: tuple[str, ...], name: str
) -> None:
    pattern = parsed(text)
    if pattern is not None and pattern.coverage(path) is Coverage.NONE:
        assert pattern.coverage((*path, name)) is Coverage.NONE


@given(TEXTS, PATHS, PATHS)
def test_the_patterns_below_a_directory_say_the_same_from_there(
    text: str, above: tuple[str, ...], path: tuple[str, ...]
) -> None:
    pattern = parsed(text)
    if pattern is None:
        return
    below = pattern.below(above)
    whole = pattern.coverage(above + path) is Coverage.WHOLE
    if below is None:
        assert whole
    else:
        assert whole == any(Pattern.parse(rest).coverage(path) is Coverage.WHOLE for rest in below)


@given(st.text(alphabet="ab*", min_size=1, max_size=8), NAMES)
def test_stars_within_a_component_match_as_a_regular_expression_would(text: str, name: str) -> None:
    pattern = parsed(text)
    if pattern is not None and text != "**":
        expected = re.fullmatch(text.replace("*", ".*"), name, re.DOTALL) is not None
        assert (pattern.coverage((name,)) is Coverage.WHOLE) == expected
