"""Texts of the repository that are made from the code: compared, or written anew with UPDATE=1 in the environment."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
END = "<!-- end -->"


def holds(file: Path, wanted: str) -> None:
    """The whole *file* is *wanted*, line by line."""
    if "UPDATE" in os.environ:
        file.parent.mkdir(exist_ok=True)
        file.write_text(wanted, encoding="utf-8")
    assert file.read_text(encoding="utf-8").splitlines() == wanted.splitlines()


def section_holds(file: Path, start: str, wanted: str) -> None:
    """What stands in *file* between the comment *start* and the next end is *wanted*."""
    head, marker, rest = file.read_text(encoding="utf-8").partition(f"<!-- {start} -->\n")
    assert marker, f"{file} has no section {start!r}"
    section, _, tail = rest.partition(END)
    if "UPDATE" in os.environ:
        file.write_text(f"{head}{marker}{wanted}{END}{tail}", encoding="utf-8")
        section = wanted
    assert section.splitlines() == wanted.splitlines()
