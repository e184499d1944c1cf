"""How reports look: two forms, lines of at most 96 columns, aligned, no colour."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

TEXT, JSON = "text", "json"
COLUMNS = 96


def add_form(parser: argparse.ArgumentParser) -> None:
    """The option that every report has."""
    parser.add_argument(
        "--as", dest="form", choices=[TEXT, JSON], default=TEXT, help="for people, or as data (default: text)"
    )


def add_policy(parser: argparse.ArgumentParser) -> None:
    """What names the policy that a report is about."""
    parser.add_argument("policy", metavar="NAME|FILE", help="a policy of the policy directory, or any policy file")
    parser.add_argument("--policy-dir", metavar="DIR", type=Path, help="where policies are")
    parser.add_argument("--worker", metavar="PATH", type=Path, help="another binary than the installed one (for tests)")


def hanging(label: str, sentence: str, indent: int) -> str:
    """*label* and *sentence*, the sentence filled beside it at column *indent*; a long label gets a line of its own."""
    lines = textwrap.wrap(sentence, COLUMNS - indent, break_long_words=False, break_on_hyphens=False) or [""]
    if len(label) >= indent:
        return "\n".join([label, *(" " * indent + line for line in lines)])
    first, *rest = lines
    return "\n".join([f"{label:{indent}}{first}".rstrip(), *(" " * indent + line for line in rest)])


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, the head being its first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
