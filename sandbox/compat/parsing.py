"""Reads a command line of virtiofsd's by the table of options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from virtiofs_sandbox.compat.meaning import Meaning
from virtiofs_sandbox.compat.options import OPTIONS, Option
from virtiofs_sandbox.policies.problems import closest, shown

_BY_NAME = {name: option for option in OPTIONS for name in option.names}
_BY_WORD = {word: option for option in OPTIONS for word in option.legacy}
# In the list of -o a comma that belongs to a value is written twice.
_ITEM = re.compile(r"((?:[^,]|,,)*)(?:,|$)", re.DOTALL)
_LIST = "-o"


class UsageError(Exception):
    """The command line is none of virtiofsd's; str() is one sentence."""


@dataclass(frozen=True)
class Said:
    """One option as it was written, with its value, empty for a switch."""

    option: Option
    written: str
    value: str


def parse(arguments: Sequence[str]) -> Meaning:
    """What is said, the last of several counting, before `Meaning.settle`. Raises UsageError.

    As with virtiofsd, the list of -o counts after everything else.
    """
    meaning, tried = Meaning(), Meaning()
    said = sorted(_options(arguments), key=lambda one: one.written.startswith(f"{_LIST} "))
    last = {one.option: place for place, one in enumerate(said)}
    for place, one in enumerate(said):
        counts = one.option.repeats or last[one.option] == place
        try:
            one.option.apply(meaning if counts else tried, one.value, one.written)
        except ValueError as error:
            raise UsageError(f"{one.written} {shown(one.value)}: {error}") from error
    return meaning


def _options(arguments: Sequence[str]) -> Iterator[Said]:
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith(_LIST):
            listed = argument.removeprefix(_LIST).removeprefix("=") or _value(rest, _LIST)
            yield from _listed(listed)
            continue
        name, equals, value = argument.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            raise UsageError(_unknown(name))
        if option.value is None and equals:
            raise UsageError(f"{name} takes no value")
        if option.value is not None and not equals:
            value = _value(rest, name)
        yield Said(option, name, value)


def _value(rest: Iterator[str], name: str) -> str:
    """The next argument, unless that is an option itself."""
    value = next(rest, None)
    if value is None or value.partition("=")[0] in _BY_NAME or value == _LIST:
        raise UsageError(f"{name} needs a value")
    return value


def _listed(text: str) -> Iterator[Said]:
    for item in items(text):
        word, equals, value = item.partition("=")
        option = _BY_WORD.get(word)
        if option is None:
            hint = closest(word, _BY_WORD)
            raise UsageError(f"{_LIST} {shown(word)}: there is no such word{hint}")
        if bool(equals) != (option.value is not None):
            raise UsageError(f"{_LIST} {word} {'takes no value' if equals else 'needs a value'}")
        yield Said(option, f"{_LIST} {word}", value)


def items(text: str) -> list[str]:
    """The items of a list of -o."""
    found = []
    place = 0
    while place < len(text):
        item = _ITEM.match(text, place)
        if item is None:
            raise UsageError(f"{_LIST} {shown(text)}: items with commas between them are accepted")
        found.append(item[1].replace(",,", ","))
        place = item.end()
    return found


def _unknown(name: str) -> str:
    if not name.startswith("-"):
        return f"{shown(name)}: every argument of virtiofsd begins with -"
    return f"{shown(name)}: virtiofsd has no such option{closest(name, _BY_NAME)}"
