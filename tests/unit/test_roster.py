"""Which policies are to be in force: one mistake takes nothing else down, and loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.policies import places
from virtiofs_sandbox.policies.narrowing import WideningError
from virtiofs_sandbox.policies.overlaps import Atlas, contradictions
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.roster import Found, read_each, roster
from virtiofs_sandbox.policies.share import Access, Share

NAMES = "abcd"


def policy(name: str, tag: str, source: str = "x", access: Access = Access.READ_WRITE) -> Policy:
    share = Share(name=name, source=Path("/nowhere") / source, tag=tag, access=access)
    return Policy(share, Socket(Path(f"/run/{name}.sock")), Path(f"/shares.d/{name}.toml"), {})


def said(name: str) -> st.SearchStrategy[Policy]:
    sources = st.sampled_from(["x", "x/y", "z"])
    return st.builds(policy, st.just(name), st.sampled_from("tuv"), sources, st.sampled_from(Access))


DIRECTORIES = st.fixed_dictionaries({}, optional={name: said(name) | st.just("a mistake") for name in NAMES})


def agree(policies: Iterable[Policy]) -> bool:
    return not any(contradictions(one, other, Atlas()) for one, other in combinations(policies, 2))


@given(st.lists(DIRECTORIES, max_size=4), st.none() | st.sampled_from(NAMES))
def test_whatever_is_written_those_in_force_agree_and_nobody_loses_a_share_by_a_mistake(
    directories: list[Found], only: str | None
) -> None:
    in_force: dict[str, Policy] = {}
    for index, found in enumerate(directories):
        last = only if index == len(directories) - 1 else None
        seen = {name: one for name, one in found.items() if last in (None, name)}
        wanted = roster(seen, in_force, only=last)
        assert agree(wanted.policies.values())
        for name, one in seen.items():
            # In force as it says now, or named as broken and in force as before.
            if name in wanted.broken:
                assert wanted.policies.get(name) == in_force.get(name)
            else:
                assert wanted.policies[name] == one
        for name, one in in_force.items():
            if last in (None, name):
                # It goes with its file, and with nothing else.
                assert (name in wanted.policies) == (name in seen)
            else:
                assert wanted.policies[name] == one
        assert set(wanted.broken) <= set(seen)
        in_force = dict(wanted.policies)


def test_of_two_that_contradict_the_one_in_force_stays_and_of_new_ones_the_first() -> None:
    new = roster({"a": policy("a", "t"), "b": policy("b", "t")}, {})
    assert list(new.policies) == ["a"]
    assert "has the tag 't' already" in new.broken["b"]
    running = {"b": policy("b", "t")}
    beside = roster({"a": policy("a", "t"), **running}, running)
    assert (list(beside.policies), list(beside.broken)) == (["b"], ["a"])


def test_two_may_swap_their_tags_and_one_may_follow_another_that_moves_on() -> None:
    running = {"a": policy("a", "t"), "b": policy("b", "u")}
    swapped = roster({"a": policy("a", "u"), "b": policy("b", "t")}, running)
    assert [one.share.tag for one in swapped.policies.values()] == ["u", "t"]
    # But not where the other cannot move.
    held = roster({"a": policy("a", "u"), "b": "a mistake"}, running)
    assert held.policies == running
    assert set(held.broken) == {"a", "b"}


def write(directory: Path, name: str, source: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    source.mkdir(exist_ok=True)
    (directory / f"{name}.toml").write_text(f'[share]\nsource = "{source}"\ntag = "{name}"\n')


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory whose policies hold wherever another one is named."""
    directory = tmp_path / "standing" / "shares.d"
    monkeypatch.setattr(places, "SYSTEM", directory)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    write(directory, "kept", tmp_path / "kept")
    return directory


def test_files_are_read_one_by_one_and_a_mistake_is_told_with_its_name(standing: Path) -> None:
    (standing / "wrong.toml").write_text("[share]\nsourc = 1\n")
    found = dict(read_each(standing))
    assert isinstance(found["kept"], Policy)
    assert "sourc: unknown key" in str(found["wrong"])
    assert list(dict(read_each(standing, "kept"))) == ["kept"]
    assert list(read_each(standing, "none")) == []
    for file in standing.iterdir():
        file.unlink()
    standing.rmdir()
    assert list(read_each(standing)) == []


def test_a_directory_that_cannot_be_listed_is_an_error_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "shares.d").touch()
    with pytest.raises(PolicyError, match="cannot be listed"):
        list(read_each(tmp_path / "shares.d"))


@pytest.mark.skipif(os.geteuid() != 0, reason="root's standing directory is another one")
def test_another_directory_does_not_speak_of_what_a_standing_policy_does(standing: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "shares.d"
    write(other, "mine", tmp_path / "mine")
    write(other, "theirs", tmp_path / "kept")
    found = dict(read_each(other))
    assert isinstance(found["mine"], Policy)
    assert "change that one instead" in str(found["theirs"])
    (standing.parent / "defaults.toml").write_text("[site]\nrequire_policy = true\n")
    with pytest.raises(WideningError, match="--policy-dir would widen"):
        list(read_each(other))
