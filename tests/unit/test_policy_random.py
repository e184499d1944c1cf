"""Random documents: whatever they say, they load or are refused with sentences; and what is shown loads as the same."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from msgspec import inspect
from virtiofs_sandbox.policies.display import as_json, as_toml, entries
from virtiofs_sandbox.policies.document import RESERVED, Document
from virtiofs_sandbox.policies.loader import load
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import PolicyError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("policies") / "shares.d"
    made.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(made))
        yield made


def toml(value: object) -> str:
    """TOML for a value; JSON's strings are TOML's but for DEL and lone surrogates, which are not made here."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def document(tables: Mapping[str, object]) -> str:
    """Inline values first, for after the first header they would belong to it."""
    lines = [f"{key} = {toml(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{toml(key)} = {toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def loaded(directory: Path, text: str) -> Policy:
    file = directory / "x.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    return load(file, directory)


def words_of(kind: inspect.Type) -> set[str]:
    """Every key and word below a table of the schema: random documents of these come close to what is accepted."""
    if isinstance(kind, inspect.Metadata):
        return words_of(kind.type)
    if isinstance(kind, inspect.UnionType):
        return {word for choice in kind.types for word in words_of(choice)}
    if isinstance(kind, inspect.StructType):
        return {word for field in kind.fields for word in {field.encode_name, *words_of(field.type)}}
    return set(map(str, kind.values)) if isinstance(kind, inspect.LiteralType) else set()


WORDS = sorted(words_of(inspect.type_info(Document)) | {part for key in RESERVED for part in key.split(".")})
TABLES = ["share", "cache", "identity", "paths", "sandbox", "worker", "site", "limits", "include"]
SCALARS = (
    st.sampled_from(WORDS)
    | st.sampled_from(["/srv", "1s", "0600", "0:0", "**/x", "[a", "..", ""])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=5)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=3)
NEARLY = st.dictionaries(st.sampled_from(TABLES), VALUES | st.dictionaries(KEYS, VALUES, max_size=4), max_size=4).map(
    document
)
ANY_TEXT = st.text(alphabet="share source=[]{}\"'.#\n\\\x00\udcff1é", max_size=40)


@given(text=NEARLY | ANY_TEXT)
@example(text="limits = 0\n")
@example(text='limits = "parent"\n')
def test_a_random_document_loads_or_is_refused_with_sentences(directory: Path, text: str) -> None:
    try:
        loaded(directory, text)
    except PolicyError as error:
        assert error.problems
        for line, problem in zip(str(error).splitlines(), error.problems, strict=True):
            assert line.isprintable()
            assert problem.line is None or 1 <= problem.line <= text.count("\n") + 1


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


FLAGS = st.booleans()
PATTERN = st.lists(st.sampled_from(["**", "a", "*.x", "[!a-c]", "\\*", "é?"]), min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(PATTERN, max_size=3)
NAMES = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="/"), min_size=1, max_size=9).filter(
    lambda name: name.isprintable() and name not in (".", "..")
)
PATHS = NAMES.map(lambda name: f"/nowhere/{name}")
ACCESS = st.sampled_from(["read-only", "read-write"])
DURATIONS = st.tuples(st.integers(0, 10**6), st.just("ms")).map(lambda pair: f"{pair[0]}{pair[1]}")
# Directories of a tree with one access: one inside another with another would be refused.
TREES = st.dictionaries(NAMES, PATHS | PATHS.map(lambda path: {"source": path}), min_size=1, max_size=3)
SHARE = st.tuples(
    st.fixed_dictionaries({"source": PATHS}) | st.fixed_dictionaries({"tree": TREES}),
    st.fixed_dictionaries(
        {"tag": NAMES.filter(lambda name: len(name.encode()) <= 36)},
        optional={
            "access": ACCESS,
            "xattr": FLAGS,
            "log_level": st.sampled_from(["error", "warning", "info", "debug"]),
            "socket": PATHS
            | optional(path=PATHS, mode=st.sampled_from(["0600", "660"]), group=st.integers(0, 2**32 - 2)),
        },
    ),
).map(lambda parts: {**parts[0], **parts[1]})
CACHE = optional(mode=st.sampled_from(["auto", "metadata", "always"]), writeback=FLAGS, timeout=DURATIONS) | optional(
    intent=st.sampled_from(["exclusive", "shared-read", "shared-write"]), timeout=DURATIONS
)
UNMAPPED = st.sampled_from(["forbid", "squash"])
IDENTITY = st.one_of(
    optional(unmapped=UNMAPPED),
    st.fixed_dictionaries({"map": st.just("identity")}, optional={"unmapped": UNMAPPED}),
    st.fixed_dictionaries({"map": st.just("squash")}, optional={"owner": st.just("7:8")}),
    st.fixed_dictionaries(
        {"map": st.just("range")},
        optional={
            "range": st.just("subuid")
            | st.fixed_dictionaries({"first": st.integers(1, 9), "count": st.integers(1, 9)}),
            "idmapped": FLAGS,
        },
    ),
)
BYTE_RATES = st.tuples(st.integers(17, 1000), st.sampled_from(["kB", "MB", "GB", "KiB", "MiB", "GiB"])).map(
    lambda rate: f"{rate[0]}{rate[1]}/s"
) | st.integers(16384, 2**40).map("{}B/s".format)
OPERATION_RATES = st.integers(1, 2**40).map("{}/s".format)
REQUESTS = st.fixed_dictionaries(
    {"read-ops": OPERATION_RATES},
    optional={
        "read": BYTE_RATES,
        "write": BYTE_RATES,
        "write-ops": OPERATION_RATES,
        "metadata-ops": OPERATION_RATES,
        "burst": st.integers(1, 60_000).map("{}ms".format),
        "max-delay": st.integers(1, 86_400).map("{}s".format),
    },
)
WEIGHTS = st.integers(1, 10000)
LIMITS = optional(
    requests=REQUESTS,
    disk=optional(
        read=BYTE_RATES,
        write=BYTE_RATES,
        weight=WEIGHTS,
        latency=st.integers(1, 60_000).map("{}ms".format),
        **{"read-ops": OPERATION_RATES, "write-ops": OPERATION_RATES},
    ),
    memory=optional(high=st.integers(2**25, 2**30).map("{}B".format), max=st.integers(1, 99).map("{}GiB".format)),
    cpu=optional(
        max=st.integers(1, 3200).map("{}%".format)
        | st.tuples(st.integers(1000, 900000), st.integers(1000, 10**6)).map(
            lambda times: f"{times[0] / 1000:.3f}ms/{times[1] / 1000:.3f}ms"
        ),
        weight=WEIGHTS,
    ),
    pids=optional(max=st.integers(32, 4194304)),
    unenforceable=st.sampled_from(["refuse", "warn"]),
)
GOOD = st.fixed_dictionaries(
    {"share": SHARE},
    optional={
        "cache": CACHE,
        "identity": IDENTITY,
        "paths": optional(
            hide=PATTERNS,
            readonly=PATTERNS,
            allow=PATTERNS,
            case=st.sampled_from(["sensitive", "insensitive"]),
            strict_links=FLAGS,
        ),
        "limits": LIMITS,
        "sandbox": optional(
            minimum=st.sampled_from(["full", "userns", "bare"]), seccomp=st.sampled_from(["errno", "kill", "log"])
        ),
        "worker": optional(queues=st.integers(1, 8)),
    },
)


@given(tables=GOOD)
def test_what_is_shown_loads_as_the_same_share(directory: Path, tables: dict[str, Any]) -> None:
    policy = loaded(directory, document(tables))
    for origins in (True, False):
        again = loaded(directory, as_toml(policy, origins=origins))
        assert dataclasses.replace(again, origins={}) == dataclasses.replace(policy, origins={})
    event("tree" if policy.share.children else "one directory")


# Shown by their parts.
PARTED = ("socket", "tree", "requests", "disk", "memory", "cpu", "pids")


@given(tables=GOOD)
def test_every_value_shown_has_its_line_or_is_a_default(directory: Path, tables: dict[str, Any]) -> None:
    """A key that the document has is shown as said in the line where the document has it."""
    text = document(tables)
    policy = loaded(directory, text)
    lines = text.splitlines()
    said = {f"{table}.{key}" for table, keys in tables.items() for key in keys if key not in PARTED}
    shown = {entry.dotted: entry for entry in entries(policy)}
    assert said <= set(shown)
    for key in said:
        line = shown[key].origin.line
        assert line is not None
        assert lines[line - 1].startswith(f'"{key.partition(".")[2]}" = ')
    document_of_it = json.loads(as_json(policy))
    assert set(document_of_it["values"]) == set(document_of_it["origins"])
