"""Several files as one: site defaults, what they and a policy include, and the policy itself, which wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtiofs_sandbox.policies.checks import Source, check
from virtiofs_sandbox.policies.ownership import read_policy
from virtiofs_sandbox.policies.places import is_there
from virtiofs_sandbox.policies.positions import KeyPath, key_lines
from virtiofs_sandbox.policies.problems import Origin, PolicyError, Problem, shown

MAX_INCLUDE_DEPTH = 4
# Keys that say which share this is; a file that holds for several cannot say them.
_OF_ONE_SHARE = ("share.source", "share.tree", "share.tag", "share.socket.path")
# Tables in a table of which files say some keys each.
_BY_PART = frozenset(
    {("share", "socket"), *(("limits", key) for key in ("requests", "disk", "memory", "cpu", "pids", "group"))}
)
# A key that settles a question replaces what a weaker file says about it in other words.
_REPLACES = {
    "cache.intent": ("cache.mode", "cache.writeback", "cache.timeout"),
    "cache.mode": ("cache.intent",),
    "identity.map": ("identity.owner", "identity.range", "identity.idmapped"),
}


@dataclass(frozen=True)
class Merged:
    """Every value said, by dotted key, and where."""

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]

    def table(self) -> dict[str, Any]:
        """The values as one document."""
        document: dict[str, Any] = {}
        for key, value in self.values.items():
            at = document
            *tables, last = key.split(".", 2)
            for name in tables:
                at = at.setdefault(name, {})
            at[last] = value
        return document


def read_source(file: Path) -> Source:
    """*file*, parsed but not judged. Raises PolicyError."""
    text = read_policy(file)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError([_syntax(file, text, str(error))]) from error
    except RecursionError as error:
        raise PolicyError.of_file(file, "its values are nested too deeply") from error
    return Source(file, table, key_lines(text))


def read_layers(file: Path, defaults: Path) -> tuple[Source, ...]:
    """Every file that has a say in the policy *file*, weakest first. Raises PolicyError with all that is wrong."""
    reader = _Reader()
    if is_there(defaults):
        reader.read(defaults, is_defaults=True, is_policy=False)
    reader.read(file, is_defaults=False, is_policy=True)
    if reader.problems:
        raise PolicyError(reader.problems)
    return tuple(reader.sources)


def merge(sources: tuple[Source, ...]) -> Merged:
    """Later sources win; lists replace."""
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for source in sources:
        said = flat(source)
        for weaker in [weaker for key in said for weaker in _REPLACES.get(key, ())]:
            values.pop(weaker, None)
            origins.pop(weaker, None)
        for key, (path, value) in said.items():
            values[key] = value
            origins[key] = source.origin(path)
            if key.startswith("groups."):
                origins |= {
                    f"{key}.{table}.{rate}": source.origin((*path, table, rate))
                    for table, rates in value.items()
                    for rate in rates
                }
            if key == "share.tree":
                origins |= {f"{key}.{name}": source.origin((*path, name)) for name in value}
    return Merged(values, origins)


def flat(source: Source) -> dict[str, tuple[KeyPath, Any]]:
    """What a file says, by dotted key, each with its path in the document."""
    said: dict[str, tuple[KeyPath, Any]] = {}
    for name, table in source.table.items():
        if name in ("include", "site") or not isinstance(table, dict):
            continue
        for key, value in table.items():
            if (name, key) == ("share", "socket") and not isinstance(value, dict):
                said["share.socket.path"] = (("share", "socket"), value)
            elif (name, key) in _BY_PART and isinstance(value, dict):
                said |= {f"{name}.{key}.{part}": ((name, key, part), inner) for part, inner in value.items()}
            else:
                said[f"{name}.{key}"] = ((name, key), value)
    return said


class _Reader:
    """Reads files and what they include, and goes on after a problem to find the others."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.problems: list[Problem] = []
        self._open: list[str] = []

    def read(self, file: Path, *, is_defaults: bool, is_policy: bool) -> None:
        try:
            source = read_source(file)
        except PolicyError as error:
            self.problems += error.problems
            return
        wrong = check(source) + _misplaced(source, is_defaults=is_defaults, is_policy=is_policy)
        self.problems += wrong
        self._open.append(os.path.realpath(file))
        include = source.table.get("include", [])
        for index, name in enumerate(include if isinstance(include, list) else []):
            if isinstance(name, str):
                self._include(source, index, name)
        self._open.pop()
        self.sources.append(source)

    def _include(self, source: Source, index: int, name: str) -> None:
        if not name or "\0" in name or name.startswith("/"):
            self._refuse(source, index, f"{name!r} is no relative path; name a file beside this one")
            return
        file = source.file.parent / name
        if not is_there(file):
            self._refuse(source, index, f"there is no file {shown(file)}")
        elif os.path.realpath(file) in self._open:
            self._refuse(source, index, f"{shown(file)} includes itself, directly or by others")
        elif len(self._open) > MAX_INCLUDE_DEPTH:
            self._refuse(source, index, f"includes are {MAX_INCLUDE_DEPTH} deep at most")
        else:
            self.read(file, is_defaults=False, is_policy=False)

    def _refuse(self, source: Source, index: int, sentence: str) -> None:
        self.problems.append(Problem(source.file, source.origin(("include", index)).line, "include", sentence))


def _misplaced(source: Source, *, is_defaults: bool, is_policy: bool) -> list[Problem]:
    """Keys that stand in the wrong kind of file."""
    problems = []
    if "site" in source.table and not is_defaults:
        sentence = "it holds for the whole machine and stands in defaults.toml, beside the directory of policies"
        problems.append(Problem(source.file, source.origin(("site",)).line, "site", sentence))
    if "groups" in source.table and not is_defaults:
        sentence = "a budget holds for several shares and stands in defaults.toml, beside the directory of policies"
        problems.append(Problem(source.file, source.origin(("groups",)).line, "groups", sentence))
    if "limits.parent" in flat(source) and not is_defaults:
        sentence = "where control groups are made is the site's matter; it stands in defaults.toml"
        problems.append(Problem(source.file, source.origin(("limits", "parent")).line, "limits.parent", sentence))
    if not is_policy:
        for key, (path, _) in flat(source).items():
            if key in _OF_ONE_SHARE:
                sentence = "it says which share this is: it goes into the policy itself, not into a file for several"
                problems.append(Problem(source.file, source.origin(path).line, key, sentence))
    return problems


def _syntax(file: Path, text: str, complaint: str) -> Problem:
    """tomllib's sentence with its position taken out and put where ours is."""
    sentence, _, position = complaint.rpartition(" (at ")
    line: int | None = None
    if position.startswith("line "):
        line = int(position.removeprefix("line ").split(",")[0])
    elif position.startswith("end of document"):
        line = text.count("\n") + 1
    printable = sentence if sentence.isprintable() else repr(sentence)
    return Problem(file, line, None, f"this is no TOML: {printable[:1].lower()}{printable[1:]}")
