"""What the worker is told of a share's path rules, and which of them are exact."""

from __future__ import annotations

import os
import re

from virtiofs_sandbox.ipc.config import Rules
from virtiofs_sandbox.policies.share import Access, Share


def worker_rules(share: Share) -> Rules:
    """The rules of *share*; read-only children of a tree are frozen like any other subtree."""
    frozen = tuple(literal(child.name) for child in share.children if child.access is Access.READ_ONLY)
    return Rules(
        hide=share.paths.hide,
        readonly=share.paths.readonly + frozen,
        allow=share.paths.allow,
        case=share.paths.case.value,
        strict_links=share.paths.strict_links,
    )


def literal(name: str) -> str:
    """The pattern that matches *name* and nothing else."""
    return re.sub(r"([\\*?\[])", r"\\\1", name)


def exact(pattern: str) -> bytes | None:
    """The one path, relative to the share's root, that *pattern* matches; None where it has wildcards."""
    if re.search(r"(?<!\\)(?:\\\\)*[*?\[]", pattern):
        return None
    return os.fsencode(re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL).rstrip("/"))
