"""All there is to know of a file, to be compared before and after an attack."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

Picture = tuple[object, ...]


def picture(path: Path) -> Picture:
    """Content, mode, owner, size, links, times and extended attributes. Follows nothing."""
    regular = stat.S_ISREG(path.lstat().st_mode)
    content = hashlib.sha256(path.read_bytes()).hexdigest() if regular else None
    target = os.readlink(path) if path.is_symlink() else None
    names = [] if path.is_symlink() else os.listxattr(path)
    attributes = tuple((name, os.getxattr(path, name)) for name in sorted(names))
    status = path.lstat()
    owner = (status.st_mode, status.st_uid, status.st_gid)
    # Reading where a link points, or what a directory holds, moves its access time: that is no harm.
    read = status.st_atime_ns if regular else 0
    return (
        content,
        target,
        owner,
        status.st_size,
        status.st_nlink,
        status.st_mtime_ns,
        status.st_ctime_ns,
        read,
        attributes,
    )


def pictures(root: Path) -> dict[str, Picture]:
    """One for *root* and everything below it, by path."""
    return {str(path): picture(path) for path in (root, *sorted(root.rglob("*")))}
