"""The directory for sockets that no policy names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def make_directory(directory: Path) -> None:
    """Makes *directory* where it is missing: everybody may pass, for each socket says who may connect; nobody else may
    put one in. Raises OSError, also for a directory that somebody else made or may write to.
    """
    caller = os.geteuid()
    try:
        directory.mkdir(mode=0o755 if caller == 0 else 0o700)
    except FileExistsError:
        state = directory.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid not in (0, caller) or state.st_mode & 0o022:
            reason = "somebody else than root or the caller can write to it, or it is no directory"
            raise PermissionError(errno.EPERM, reason, os.fspath(directory)) from None
    else:
        directory.chmod(0o755 if caller == 0 else 0o700)  # whatever the umask took
