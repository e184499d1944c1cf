"""The lines of keys, held against tomllib's own reading of the same document."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies.positions import KeyPath, key_lines

EVERY_FORM = '''\
# a comment with = and [brackets]
top = 1
"quoted key" . 'literal.key' = "# no comment"  # one
[a.b]   # comment
x = """
y = 2
\\""" still # text"""
z = \'\'\'
[not.a.table]
\'\'\'\'
date = 1979-05-27 07:32:00Z
list = [ # comment
  1,
  [2, "]", 3], { k = "}", l.m = [4] },
]
inline = { p = 1, "q" = { r = 2 } }
[[array]]
n = 1
[array.sub]
o = 2
[[array]]
n = 3
[[array.inner]]
[[array.inner]]
s = "\\u0022 \\" "
'''


def paths(value: object, above: KeyPath = ()) -> set[KeyPath]:
    """Every key and element that tomllib knows of."""
    if isinstance(value, dict):
        return {path for key, inner in value.items() for path in {(*above, key)} | paths(inner, (*above, key))}
    if isinstance(value, list):
        return {path for index, inner in enumerate(value) for path in {(*above, index)} | paths(inner, (*above, index))}
    return set()


def test_every_form_of_toml_is_found_in_its_line() -> None:
    lines = key_lines(EVERY_FORM)
    assert set(lines) == paths(tomllib.loads(EVERY_FORM))
    assert lines["top",] == 2
    assert lines["quoted key", "literal.key"] == 3
    assert lines["a",] == lines["a", "b"] == 4
    assert (lines["a", "b", "x"], lines["a", "b", "z"], lines["a", "b", "date"]) == (5, 8, 11)
    assert (lines["a", "b", "list"], lines["a", "b", "list", 0]) == (12, 13)
    assert lines["a", "b", "list", 2, "l", "m", 0] == 14
    assert lines["a", "b", "inline", "q", "r"] == 16
    assert lines["array", 0, "sub", "o"] == 20
    assert (lines["array", 1], lines["array", 1, "n"]) == (21, 22)
    assert (lines["array", 1, "inner", 0], lines["array", 1, "inner", 1, "s"]) == (23, 25)


def test_line_ends_of_windows_count_once() -> None:
    assert key_lines("a = 1\r\n\r\n[b]\r\nc = '''\r\n\r\n'''\r\nd = 1\r\n")["b", "d"] == 7


KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f g'", '"\\u0061"', '""', "1"])
SCALARS = st.sampled_from(
    ["1", "true", "0.5", "2020-01-01", '"x"', '"a # \\" ] }"', "'[\"'", '"""\nq""""', "'''\n#\n'''", '""', "inf"]
)
BREAKS = st.sampled_from(["", " ", "\n", " # ]}\"'\n"])


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    elements = st.lists(st.tuples(BREAKS, inner, BREAKS).map("".join), max_size=3)
    tables = st.lists(st.tuples(KEYS, inner), max_size=2).map(
        lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
    )
    return elements.map(lambda parts: f"[{','.join(parts)}]") | tables


VALUES = st.recursive(SCALARS, arrays, max_leaves=6)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.lists(
    st.tuples(DOTTED, VALUES).map(" = ".join)
    | DOTTED.map(lambda key: f"[{key}]")
    | DOTTED.map(lambda key: f"[[{key}]]"),
    max_size=6,
)
DOCUMENTS = STATEMENTS.map("\n".join) | st.text(alphabet="ab=[]{}\"'#., \n1\\", max_size=30)


def parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


@given(DOCUMENTS)
def test_every_valid_document_has_a_line_for_each_key_and_no_other(text: str) -> None:
    document = parsed(text)
    if document is not None:
        lines = key_lines(text)
        assert set(lines) == paths(document)
        assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@given(st.lists(st.tuples(BREAKS, VALUES), max_size=6))
def test_a_key_stands_where_it_was_written(statements: list[tuple[str, str]]) -> None:
    text = ""
    wanted = {}
    for number, (before, value) in enumerate(statements):
        text += before
        wanted[number] = text.count("\n") + 1
        text += f"key{number} = {value}\n"
    if parsed(text) is not None:
        lines = key_lines(text)
        assert {number: lines[f"key{number}",] for number in wanted} == wanted
