"""What every table of a policy file is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Meta


def key(
    says: str,
    accepted: str,
    default: str,
    *,
    parse: Callable[[Any], object] | None = None,
    each: Callable[[Any], object] | None = None,
    **schema: int | str,
) -> Meta:
    """*accepted* completes "accepted: …"; *parse* judges the value, *each* elements of a list or names of a table."""
    return Meta(
        description=f"{says} Default: {default}.",
        extra={"says": says, "accepted": accepted, "default": default, "parse": parse, "each": each},
        extra_json_schema=schema or None,
    )


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of the file. What is not said is UNSET."""
