"""The report of `explain`, as text and as data (docs/reports.md)."""

from __future__ import annotations

from typing import Any

from virtiofs_sandbox.cli.page import hanging
from virtiofs_sandbox.confine.account import Launch, Section

SHAPE = 1
_LABEL = 20


def data(launch: Launch, sections: tuple[Section, ...]) -> dict[str, Any]:
    return {
        "shape": SHAPE,
        "share": launch.share.name,
        "kernel": launch.host.kernel,
        "uid": launch.host.uid,
        "tier": launch.plan.tier.value,
        "sections": [
            {
                "key": section.key,
                "title": section.title,
                "statements": [
                    {"key": said.key, "label": said.label, "text": said.text, "facts": said.facts}
                    for said in section.statements
                ],
            }
            for section in sections
        ],
    }


def text(launch: Launch, sections: tuple[Section, ...]) -> str:
    head = f"{launch.share.name}, as it would be started by uid {launch.host.uid} on Linux {launch.host.kernel}"
    blocks = [head]
    for section in sections:
        lines = [hanging(f"  {said.label}", said.text, _LABEL + 2) for said in section.statements]
        blocks.append("\n".join([section.title, *lines]))
    return "\n\n".join(blocks)
