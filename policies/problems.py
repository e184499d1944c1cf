"""What is wrong with a policy file: where it stands and what would be accepted. Loads nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """*line* counts from 1, None when it is about the whole file; *key* is dotted, None when it is about no key."""

    file: Path
    line: int | None
    key: str | None
    sentence: str

    def __str__(self) -> str:
        place = shown(self.file) if self.line is None else f"{shown(self.file)}:{self.line}"
        return f"{place}: {self.sentence}" if self.key is None else f"{place}: {self.key}: {self.sentence}"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: a line of a file, or the built-in default, which has no file."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "default"
        return shown(self.file) if self.line is None else f"{shown(self.file)}:{self.line}"


class PolicyError(Exception):
    """A policy is refused; str() has one line for each problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def of_file(cls, file: Path, sentence: str) -> PolicyError:
        return cls([Problem(file, None, None, sentence)])


def shown(path: str | Path) -> str:
    """A path as it can stand in a line of text, whatever its bytes are."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return text if text.isprintable() else repr(text)


def closest(word: str, candidates: Iterable[str]) -> str:
    """ "; did you mean …?", or nothing when no candidate is close."""
    import difflib  # noqa: PLC0415 - needed only once something is wrong

    found = difflib.get_close_matches(word, sorted(candidates), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
