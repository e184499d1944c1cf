"""Whether a file says only what a policy can say: every key known, every value of its type and in its bounds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect
from virtiofs_sandbox.policies.document import RESERVED, ChildTable, Document
from virtiofs_sandbox.policies.positions import KeyPath
from virtiofs_sandbox.policies.problems import Origin, Problem, closest
from virtiofs_sandbox.policies.values import Refused, quoted

_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "text"),
    (int, "a number"),
    (float, "a fraction"),
    (list, "a list"),
    (dict, "a table"),
)
_TYPES: dict[type[inspect.Type], type] = {
    inspect.StrType: str,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.VarTupleType: list,
}


@dataclass(frozen=True)
class Source:
    """One file as it was read. *table* is what tomllib made of it, *lines* where each key stands."""

    file: Path
    table: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def origin(self, path: KeyPath) -> Origin:
        """Where *path* was said: its own line, or that of what it is a part of."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return Origin(self.file, self.lines[path[:length]])
        return Origin(self.file, None)


def check(source: Source) -> list[Problem]:
    """All that is wrong with single keys and values of one file."""
    checker = _Checker(source)
    checker.table(_struct(Document), source.table, ())
    return checker.problems


@functools.cache  # takes longer than all the rest of reading a file
def _struct(kind: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - for mypy: it is made from a Struct
    return info


@dataclass
class _Checker:
    source: Source
    problems: list[Problem] = field(default_factory=list)

    def table(self, kind: inspect.StructType, table: Mapping[str, Any], path: KeyPath) -> None:
        known = {found.encode_name: found.type for found in kind.fields}
        for key, value in table.items():
            if key in known:
                self.value(known[key], value, (*path, key))
            else:
                self._unknown(key, path, known)

    def value(self, kind: inspect.Type, value: object, path: KeyPath) -> None:
        extra: Mapping[str, Any] = {}
        if isinstance(kind, inspect.Metadata):
            extra = kind.extra or {}
            kind = kind.type
        choices = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
        struct = next((choice for choice in choices if isinstance(choice, inspect.StructType)), None)
        if isinstance(value, dict) and struct is not None:
            self.table(struct, value, path)
        elif isinstance(value, dict) and isinstance(kind, inspect.DictType):
            if isinstance(kind.value_type, inspect.StructType):
                for name, table in value.items():
                    self._try(extra["each"], name, (*path, name))
                    self.value(kind.value_type, table, (*path, name))
                return
            self._children(value, path, extra["each"])
        elif not any(_fits(choice, value) for choice in choices):
            self._report(path, _misfit(choices, value, extra.get("accepted", "a table")))
        else:
            self._judge(value, path, extra)

    def _judge(self, value: object, path: KeyPath, extra: Mapping[str, Any]) -> None:
        if isinstance(value, list):
            self._elements(value, path, extra)
        elif extra.get("parse") is not None:
            self._try(extra["parse"], value, path)

    def _elements(self, values: list[Any], path: KeyPath, extra: Mapping[str, Any]) -> None:
        for index, element in enumerate(values):
            if not isinstance(element, str):
                self._report(
                    (*path, index), f"{quoted_kind(element)} stands in the list; accepted: {extra['accepted']}"
                )
            elif extra.get("each") is not None:
                self._try(extra["each"], element, (*path, index))

    def _children(self, table: Mapping[str, Any], path: KeyPath, judge: Callable[[Any], object]) -> None:
        """The directories of a tree share."""
        child = inspect.type_info(str | ChildTable)
        parse = next(found for found in _struct(ChildTable).fields if found.name == "source")
        for name, value in table.items():
            self._try(judge, name, (*path, name))
            if isinstance(value, str):
                self.value(parse.type, value, (*path, name))
            elif isinstance(value, dict):
                self.value(child, value, (*path, name))
            else:
                self._report(
                    (*path, name),
                    f"it is {quoted_kind(value)}; accepted: an absolute path, or a table of source and access",
                )

    def _try(self, judge: Callable[[Any], object], value: object, path: KeyPath) -> None:
        try:
            judge(value)
        except Refused as refusal:
            self._report(path, str(refusal))

    def _unknown(self, key: str, path: KeyPath, known: Mapping[str, inspect.Type]) -> None:
        dotted = dotted_key((*path, key))
        reserved = RESERVED.get(dotted.replace("-", "_"))
        if reserved is not None:
            self._report((*path, key), f"known, but not in this version: {reserved}; take it out")
            return
        hint = closest(key, known) or _elsewhere(key, path)
        where = f"[{dotted_key(path)}]" if path else "a policy"
        self._report((*path, key), f"unknown key in {where}{hint}; accepted: {', '.join(known)}")

    def _report(self, path: KeyPath, sentence: str) -> None:
        origin = self.source.origin(path)
        self.problems.append(Problem(self.source.file, origin.line, dotted_key(path), sentence))


def dotted_key(path: KeyPath) -> str:
    """The key as it is written in sentences; the elements of a list have no key of their own."""
    parts = [part if part.isprintable() and part else repr(part) for part in path if isinstance(part, str)]
    return ".".join(parts)


def quoted_kind(value: object) -> str:
    """What kind of thing a value of the file is."""
    return next((words for kind, words in _KINDS if isinstance(value, kind)), "a date or time")


def _fits(kind: inspect.Type, value: object) -> bool:
    if isinstance(kind, inspect.LiteralType):
        return isinstance(value, str) and value in kind.values
    wanted = _TYPES.get(type(kind))
    # Exactly: to Python a bool is an int.
    return wanted is not None and type(value) is wanted


def _misfit(choices: tuple[inspect.Type, ...], value: object, accepted: str) -> str:
    words = [word for choice in choices if isinstance(choice, inspect.LiteralType) for word in choice.values]
    if isinstance(value, str) and words:
        hint = closest(value, map(str, words))
        return f"{quoted(value)} is not accepted{hint}; accepted: {accepted}"
    return f"it is {quoted_kind(value)}; accepted: {accepted}"


def _elsewhere(key: str, path: KeyPath) -> str:
    """Where the key belongs, if it is one of another table."""
    for table in _struct(Document).fields:
        kind = table.type
        if isinstance(kind, inspect.StructType) and key in {found.name for found in kind.fields}:
            return "" if (table.name,) == path else f"; it belongs into [{table.name}]"
    return ""
