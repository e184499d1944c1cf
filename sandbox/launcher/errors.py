"""What a failed launch says."""

from __future__ import annotations

import os


class LaunchError(Exception):
    """One stage of a launch failed. str() is one sentence: stage, call, what the system said, what to do.

    *errno* is 0 when no system call failed: the child vanished, or did not answer in time.
    """

    def __init__(self, stage: str, call: str, errno: int, hint: str) -> None:
        said = f": {os.strerror(errno)}" if errno else ""
        super().__init__(f"{stage}: {call}{said}; {hint}")
        self.stage = stage
        self.call = call
        self.errno = errno
        self.hint = hint
