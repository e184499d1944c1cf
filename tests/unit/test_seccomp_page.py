"""docs/syscalls.md is what the table and the sources say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("syscalls_page", DOCS / "syscalls.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_system_calls_is_up_to_date() -> None:
    assert (DOCS / "syscalls.md").read_text() == generator().page(), "run `make docs`"
