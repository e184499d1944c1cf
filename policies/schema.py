"""The JSON Schema of policy files, for editors: made from the structs, shipped as schema.json.

After a change of the structs: python -m virtiofs_sandbox.policies.schema > policies/schema.json
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from typing import Any

import msgspec
from virtiofs_sandbox.policies.document import Document

FILE = "schema.json"


def generated() -> str:
    """The schema as the structs have it."""
    made: dict[str, Any] = msgspec.json.schema(Document)
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "virtiofs-sandbox policy",
        **made,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def shipped() -> str:
    """The schema as it was installed."""
    return (importlib.resources.files("virtiofs_sandbox.policies") / FILE).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.write(generated())
