"""Schema, reference, table of arguments and examples are what the code says. UPDATE=1 writes them anew."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect
from tests.unit.generated import ROOT, holds, section_holds
from virtiofs_sandbox.cli import policy as policy_command
from virtiofs_sandbox.cli import run, status
from virtiofs_sandbox.compat.options import OPTIONS, Option
from virtiofs_sandbox.policies.document import RESERVED, Document
from virtiofs_sandbox.policies.loader import load
from virtiofs_sandbox.policies.narrowing import CHOOSING, OF_VIRTIOFSD, ROWS, Row
from virtiofs_sandbox.policies.patterns import Coverage, Pattern
from virtiofs_sandbox.policies.places import find
from virtiofs_sandbox.policies.schema import generated, shipped

POLICIES = ROOT / "docs/policies.md"
COMPATIBILITY = ROOT / "docs/compatibility.md"
THREE_LINES = '[share]\nsource = "/srv/data"\ntag = "data"\n'


@pytest.fixture(autouse=True)
def place_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def keys(kind: inspect.StructType, above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every key below *kind*, dotted, with its texts; the keys of a table that may stand for a value come after it."""
    for found in kind.fields:
        dotted = f"{above}{found.encode_name}"
        if isinstance(found.type, inspect.StructType):
            yield from keys(found.type, f"{dotted}.")
            continue
        assert isinstance(found.type, inspect.Metadata)
        yield dotted, found.type.extra or {}
        inner = found.type.type
        if isinstance(inner, inspect.DictType):
            inner, dotted = inner.value_type, f"{dotted}.NAME"
        if isinstance(inner, inspect.StructType):
            yield from keys(inner, f"{dotted}.")
        for choice in inner.types if isinstance(inner, inspect.UnionType) else ():
            if isinstance(choice, inspect.StructType):
                yield from keys(choice, f"{dotted}.")


def document() -> inspect.StructType:
    kind = inspect.type_info(Document)
    assert isinstance(kind, inspect.StructType)
    return kind


def test_the_shipped_schema_is_the_one_the_structs_give() -> None:
    holds(ROOT / "policies/schema.json", generated())
    assert json.loads(shipped())["$defs"]["Document"]["additionalProperties"] is False


def test_the_reference_has_every_key() -> None:
    rows = [(f"`{key}`", extra["says"], extra["accepted"], extra["default"]) for key, extra in keys(document())]
    section_holds(POLICIES, "from policies/document.py", table(("key", "what it says", "accepted", "default"), rows))
    reserved = table(("key", "what it would say"), [(f"`{key}`", says) for key, says in RESERVED.items()])
    section_holds(POLICIES, "reserved, from policies/document.py", reserved)


def test_no_key_is_both_known_and_reserved() -> None:
    assert not {key for key, _ in keys(document())} & set(RESERVED)


def test_every_argument_of_run_has_its_row() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    run.add_parser(commands)
    there = {
        name
        for action in commands.choices["run"]._actions
        for name in (action.option_strings[-1:] or str(action.metavar).split("|"))
    }
    assert {row.argument for row in (*CHOOSING, *ROWS)} == there - {"--help"}


def effect_words(row: Row) -> str:
    return "; ".join(f"**{effect.value}**{f': {when}' if when else ''}" for effect, when in row.effects.items())


def test_the_table_of_arguments_is_in_the_documents() -> None:
    rows = [(f"`{row.argument}`", f"`{row.key}`", effect_words(row), row.reason) for row in (*CHOOSING, *ROWS)]
    heads = ("argument", "key", "narrows / widens / neutral", "why")
    section_holds(COMPATIBILITY, "from policies/narrowing.py", table(heads, rows))


def test_the_table_of_arguments_of_virtiofsd_alone_is_in_the_documents() -> None:
    rows = [(f"`{row.argument}`", f"`{row.key}`", effect_words(row), row.reason) for row in OF_VIRTIOFSD]
    heads = ("argument", "key", "narrows / widens / neutral", "why")
    section_holds(COMPATIBILITY, "of virtiofsd alone, from policies/narrowing.py", table(heads, rows))


def option_cells(option: Option) -> tuple[str, ...]:
    rows = {row.argument: row for row in (*CHOOSING, *ROWS, *OF_VIRTIOFSD)}
    value = "" if option.value is None else f" {option.value}"
    legacy = "" if option.value is None else f"={option.value}"
    return (
        ", ".join(f"`{name}{value}`" for name in option.names),
        ", ".join(f"`{word}{legacy}`" for word in option.legacy),
        option.means,
        "neutral" if option.row is None else f"`{rows[option.row].argument}`",
        "; ".join(f"**{outcome.value}**{f': {when}' if when else ''}" for outcome, when in option.outcomes.items()),
    )


@pytest.mark.parametrize(("ours", "section"), [(False, "theirs"), (True, "ours")])
def test_the_table_of_virtiofsds_options_is_in_the_documents(ours: bool, section: str) -> None:
    heads = ("option", "in `-o`", "here", "judged as", "outcome")
    rows = [option_cells(option) for option in OPTIONS if option.ours == ours]
    section_holds(COMPATIBILITY, f"{section}, from sandbox/compat/options.py", table(heads, rows))


def test_the_exit_statuses_are_in_the_documents() -> None:
    rows = [(str(number.value), meaning) for number, meaning in status.TABLE.items()]
    section_holds(COMPATIBILITY, "from sandbox/cli/status.py", table(("status", "meaning"), rows))
    assert set(status.TABLE) == set(status.Status)


def test_the_table_of_patterns_is_true() -> None:
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)` \| (yes|no) \|$", POLICIES.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 15
    for pattern, path, covered in rows:
        coverage = Pattern.parse(pattern).coverage(tuple(path.split("/")))
        assert (coverage is Coverage.WHOLE) == (covered == "yes"), (pattern, path)


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.+?)```", POLICIES.read_text(encoding="utf-8"), re.DOTALL))
def test_what_the_documents_show_is_a_policy(text: str, tmp_path: Path) -> None:
    """By itself, with the three lines of the first one, or as the defaults of that one."""
    directory = tmp_path / "shares.d"
    for made in (directory, tmp_path / "common"):
        made.mkdir()
    (tmp_path / "common/secrets.toml").write_text('[paths]\nhide = ["**/.env"]\n')
    text = text.replace('group = "kvm"', 'group = "root"')
    if "[limits.group]" in text:
        (tmp_path / "defaults.toml").write_text('[groups.disk1.requests]\nwrite = "200MiB/s"\n')
    if "[site]" in text:
        (tmp_path / "defaults.toml").write_text(text)
        text = THREE_LINES
    elif "[share]" not in text:
        text = f"{text}{THREE_LINES}" if text.startswith("include") else f"{THREE_LINES}{text}"
    elif "tag" not in text:
        text = text.replace("[share]\n", THREE_LINES)
    (directory / "data.toml").write_text(text)
    assert load(directory / "data.toml", directory).share.name == "data"


@pytest.mark.parametrize("name", policy_command.EXAMPLES)
def test_examples_load_under_the_name_they_are_given(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "shares.d"
    directory.mkdir()
    (directory / "mine.toml").write_text(policy_command.example(name, "mine"))
    policy = load(find("mine", directory), directory)
    assert (policy.name, policy.share.tag) == ("mine", "mine")


def test_every_example_is_offered() -> None:
    there = importlib.resources.files("virtiofs_sandbox.policies") / "examples"
    assert sorted(file.name.removesuffix(".toml") for file in there.iterdir()) == sorted(policy_command.EXAMPLES)
