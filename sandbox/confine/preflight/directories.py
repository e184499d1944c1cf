"""The directories of the host that make up a share."""

from __future__ import annotations

from virtiofs_sandbox.confine.preflight.subject import Directory
from virtiofs_sandbox.policies.share import Access, Share


def directories(share: Share) -> tuple[Directory, ...]:
    """One for a plain share, one for each child of a tree."""
    writable = share.access is Access.READ_WRITE
    if share.source is not None:
        return (Directory(share.source, (), writable, "share.source"),)
    return tuple(
        Directory(
            child.source, (child.name,), writable and child.access is Access.READ_WRITE, f"share.tree.{child.name}"
        )
        for child in share.children
    )
