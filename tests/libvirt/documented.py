"""The domain XML and the policies that docs/libvirt.md shows: what the tests run is what a reader copies."""

from __future__ import annotations

import re

from tests.guest.images import ROOT

PAGE = ROOT / "docs" / "libvirt.md"
_EXAMPLE = re.compile(r"^<!-- tested: ([a-z-]+) -->\n```[a-z]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> dict[str, str]:
    """Every block that is marked as tested, by its name."""
    return dict(_EXAMPLE.findall(PAGE.read_text()))


def example(name: str) -> str:
    return examples()[name]
