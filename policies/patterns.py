"""Path patterns: what may be written, and what one covers (docs/policies.md, "Patterns").

The worker matches in Rust; this is the same grammar for the loader, which refuses what the worker would, and for
commands that say beforehand what a rule covers. Both are held to ipc/patterns.json.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_PATTERNS = 256
MAX_PATTERN_BYTES = 1024


class PatternError(Exception):
    """This is no pattern; str() says why and what to write instead."""


class _Any(enum.Enum):
    CHARACTER = "?"
    RUN = "*"


@dataclass(frozen=True)
class _Class:
    """Characters and ranges, lowest and highest of each."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def holds(self, character: str) -> bool:
        # A byte that is no UTF-8 (a lone surrogate here) is no character that a class could name, nor leave out.
        if "\udc80" <= character <= "\udcff":
            return False
        return any(low <= character <= high for low, high in self.ranges) != self.negated


_Token = str | _Any | _Class


@dataclass(frozen=True)
class _Component:
    tokens: tuple[_Token, ...]

    def matches(self, name: str) -> bool:
        """Simulates all ways at once, so that no pattern takes long."""
        states = self._with_empty_runs({0})
        for character in name:
            states = self._with_empty_runs({after for state in states for after in self._step(state, character)})
        return len(self.tokens) in states

    def _step(self, state: int, character: str) -> tuple[int, ...]:
        if state == len(self.tokens):
            return ()
        token = self.tokens[state]
        if token is _Any.RUN:
            return (state,)
        if isinstance(token, _Class):
            return (state + 1,) if token.holds(character) else ()
        return (state + 1,) if token is _Any.CHARACTER or token == character else ()

    def _with_empty_runs(self, states: set[int]) -> set[int]:
        reached = set(states)
        for state in sorted(states):
            after = state
            while after < len(self.tokens) and self.tokens[after] is _Any.RUN:
                after += 1
                reached.add(after)
        return reached


# A whole component `**`: any number of components, also none.
_DEEP = None


class Coverage(enum.Enum):
    """What a pattern has to do with a path: nothing, something below it may match, or it and all below it match."""

    NONE = "none"
    BELOW = "below"
    WHOLE = "whole"


@dataclass(frozen=True)
class Pattern:
    """One pattern of [paths], parsed. Names are str with surrogateescape, as os.fsdecode gives them."""

    text: str
    components: tuple[_Component | None, ...]
    spellings: tuple[str, ...]
    folded: bool

    @classmethod
    def parse(cls, text: str, *, insensitive: bool = False) -> Pattern:
        """Raises PatternError."""
        parts = split(text)
        spelled = tuple(fold(part) for part in parts) if insensitive else parts
        components = tuple(_DEEP if part == "**" else _component(part) for part in spelled)
        return cls(text, components, parts, insensitive)

    def coverage(self, path: tuple[str, ...]) -> Coverage:
        """What the pattern has to do with the path of these components; the root is ()."""
        states = self._states(path)
        if states is None:
            return Coverage.WHOLE
        return Coverage.BELOW if states else Coverage.NONE

    def below(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """The patterns that say the same inside the directory *path*; None when all of it is covered."""
        states = self._states(path)
        if states is None:
            return None
        # A position just behind a ** says nothing that the one before it does not.
        telling = [
            state for state in sorted(states) if state - 1 not in states or self.components[state - 1] is not _DEEP
        ]
        return tuple("/".join(self.spellings[at:]) for at in telling)

    def _states(self, path: tuple[str, ...]) -> set[int] | None:
        """Positions in the pattern that the path can have reached; None when it was matched on the way."""
        states = self._with_empty_runs({0})
        for name in path:
            if len(self.components) in states:
                return None
            seen = fold(name) if self.folded else name
            states = self._with_empty_runs({after for state in states for after in self._step(state, seen)})
        return None if len(self.components) in states else states

    def _step(self, state: int, name: str) -> tuple[int, ...]:
        component = self.components[state]
        if component is _DEEP:
            return (state,)
        return (state + 1,) if component.matches(name) else ()

    def _with_empty_runs(self, states: set[int]) -> set[int]:
        reached = set(states)
        for state in sorted(states):
            after = state
            while after < len(self.components) and self.components[after] is _DEEP:
                after += 1
                reached.add(after)
        return reached


def split(text: str) -> tuple[str, ...]:
    """The components of a pattern as they are written. Raises PatternError."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise PatternError("it is no valid Unicode") from None
    if not text:
        raise PatternError("it is empty; name something below the share's root")
    if length > MAX_PATTERN_BYTES:
        raise PatternError(f"it has {length} bytes; at most {MAX_PATTERN_BYTES} are accepted")
    if "\0" in text:
        raise PatternError("it has a NUL character, which no name can have")
    if text == "/":
        raise PatternError("it is the share itself; write ** for everything in it")
    if text.startswith("/"):
        raise PatternError("it starts with '/'; patterns are relative to the share's root: leave the '/' out")
    parts = tuple(text.removesuffix("/").split("/"))
    for part in parts:
        _check_component(part)
    return parts


def fold(text: str) -> str:
    """Lower case, character by character: no length changes but for U+0130, which becomes a plain i."""
    return "".join(character.lower()[0] for character in text)


def _check_component(part: str) -> None:
    if not part:
        raise PatternError("it has two '/' in a row; write one")
    if part in (".", ".."):
        raise PatternError(
            f"it has a component {part!r}; patterns name what is below the share's root, without detours"
        )
    if part != "**" and "**" in _unescaped(part):
        raise PatternError(f"'**' in {part!r} is glued to other characters; it is a component of its own, as in a/**/b")
    _tokens(part)


def _unescaped(part: str) -> str:
    """The component with everything in it that is not special made harmless."""
    return "".join("*" if token is _Any.RUN else "x" for token in _tokens(part))


def _component(part: str) -> _Component:
    return _Component(tuple(_tokens(part)))


def _tokens(part: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(part):
        character = part[at]
        if character == "[":
            token, at = _class(part, at)
            tokens.append(token)
            continue
        if character == "\\":
            tokens.append(_escaped(part, at))
            at += 2
            continue
        tokens.append(_Any(character) if character in "*?" else character)
        at += 1
    return tokens


def _escaped(part: str, at: int) -> str:
    if at + 1 == len(part):
        raise PatternError(f"{part!r} ends with a backslash; write \\\\ for one, a '/' cannot be escaped")
    return part[at + 1]


def _class(part: str, start: int) -> tuple[_Class, int]:
    """The class that opens at *start*, and where it ends. A ']' that comes first is one of the characters."""
    at = start + 1
    negated = part[at : at + 1] == "!"
    at += negated
    ranges: list[tuple[str, str]] = []
    while at < len(part) and (part[at] != "]" or not ranges):
        low, at = _member(part, at)
        high = low
        if part[at : at + 1] == "-" and part[at + 1 : at + 2] not in ("]", ""):
            high, at = _member(part, at + 1)
        if low > high:
            raise PatternError(f"the range {low}-{high} in {part!r} runs backwards")
        ranges.append((low, high))
    if at >= len(part):
        raise PatternError(f"a class in {part!r} is not closed; write [...], or \\[ for the character itself")
    return _Class(tuple(ranges), negated), at + 1


def _member(part: str, at: int) -> tuple[str, int]:
    if part[at] == "\\":
        return _escaped(part, at), at + 2
    return part[at], at + 1
