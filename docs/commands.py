#!/usr/bin/env python3
"""Writes commands.md beside itself: what each command says of itself.

`make docs` runs it, and a test holds the page to it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.cli.main import parser

PAGE = Path(__file__).with_suffix(".md")
_COLUMNS = "100"

_HEAD = """\
# Commands

Made by `make docs` from the commands' own `--help`; not to be edited.
"""


def page() -> str:
    """The whole page; help texts are wrapped as in a terminal of 100 columns."""
    os.environ["COLUMNS"] = _COLUMNS
    return "".join([_HEAD, *(_section(name, command) for name, command in _commands("", parser()))])


def _section(name: str, command: argparse.ArgumentParser) -> str:
    return f"\n## {name}\n\n```\n{command.format_help().strip()}\n```\n"


def _commands(prefix: str, command: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Those without commands of their own, in the order of the help."""
    groups = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield prefix.strip(), command
    for group in groups:
        for name, below in group.choices.items():
            yield from _commands(f"{prefix} {name}", below)


if __name__ == "__main__":
    PAGE.write_text(page())
