"""The file beside a socket that says who listens there, as virtiofsd makes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from virtiofs_sandbox.supervisor.listener import ListenError

SUFFIX = ".pid"


class PidFile:
    """SOCKET.pid, locked (flock) for as long as it is held, and then removed; mode 0600. Whoever cannot lock it is the
    second one on that socket.
    """

    def __init__(self, socket: Path) -> None:
        self.path = socket.with_name(f"{socket.name}{SUFFIX}")
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Raises ListenError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise ListenError(f"pid file {self.path}: {error.strerror}; it stands beside the socket") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_ours(descriptor):
                raise BlockingIOError
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(descriptor)
            raise ListenError(
                f"pid file {self.path}: another process holds it, or it is somebody else's; "
                "stop that one, or choose another socket"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise ListenError(f"pid file {self.path}: {error.strerror}") from error
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            if self._is_ours(self._descriptor):
                os.unlink(self.path)
        os.close(self._descriptor)

    def _is_ours(self, descriptor: int) -> bool:
        """What is locked has to be what is there, and no other name of a file that matters elsewhere."""
        held, there = os.fstat(descriptor), os.lstat(self.path)
        plain = stat.S_ISREG(held.st_mode) and held.st_nlink == 1 and held.st_uid == os.geteuid()
        return plain and os.path.samestat(held, there)
