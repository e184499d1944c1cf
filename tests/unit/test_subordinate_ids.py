"""/etc/subuid and /etc/subgid: written by administrators and tools, read as far as they make sense (subuid(5))."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.confine import ids

LINE = st.tuples(st.sampled_from(["me", "1000", "other", "0", ""]), st.integers(0, 1 << 33), st.integers(0, 1 << 33))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("etc") / "subuid"


def test_a_user_is_found_by_name_and_by_number_in_the_order_of_the_lines(file: Path) -> None:
    file.write_text("other:1:2\n1000:100000:65536\nme:200000:10\n")
    assert ids.subordinate(file, 1000, "me") == ((100_000, 65_536), (200_000, 10))
    assert ids.subordinate(file, 1000, None) == ((100_000, 65_536),)


def test_what_is_no_line_grants_nothing(file: Path) -> None:
    file.write_text("# me:1:2\n\nme\nme:1\nme:1:2:3\nme:x:2\nme:1:-2\nme:1:0\nme: 1:2\nme:\u0661:2\n me:5:6\n")
    assert ids.subordinate(file, 1000, "me") == ((5, 6),)


def test_no_file_grants_nothing(tmp_path: Path) -> None:
    assert ids.subordinate(tmp_path / "subuid", 1000, "me") == ()


@given(lines=st.lists(LINE))
def test_exactly_the_lines_of_a_user_count(file: Path, lines: list[tuple[str, int, int]]) -> None:
    file.write_text("".join(f"{user}:{first}:{count}\n" for user, first, count in lines))
    mine = tuple((first, count) for user, first, count in lines if user in ("me", "1000") and count)
    assert ids.subordinate(file, 1000, "me") == mine


@given(content=st.binary(max_size=200))
def test_any_bytes_are_taken(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert all(first >= 0 and count > 0 for first, count in ids.subordinate(file, 1000, "me"))
