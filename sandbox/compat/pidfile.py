"""The file beside a socket that says who listens there, as virtiofsd makes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
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
            # Another one may have removed it meanwhile: what is locked has to be what is there.
            if not os.path.samestat(os.fstat(descriptor), os.lstat(self.path)):
                raise BlockingIOError
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except (BlockingIOError, FileNotFoundError) as error:
            os.close(descriptor)
            raise ListenError(
                f"pid file {self.path}: another process holds it; stop that one, or choose another socket"
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
            os.unlink(self.path)
        os.close(self._descriptor)
