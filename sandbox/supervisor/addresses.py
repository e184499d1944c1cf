"""Socket files in the file system, at paths of any length.

sockaddr_un holds 107 bytes of path. What is longer is reached through /proc/self/fd and a descriptor of the directory,
or, where the name alone is too long for that, of the socket itself.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.descriptors import OwnedFd

MAX_ADDRESS_BYTES = 107


class Occupant(enum.Enum):
    """What is found at the path of a socket that is to be made."""

    NOTHING = "nothing"
    STALE = "a socket on which nobody listens"
    LISTENER = "a socket on which another process listens"
    UNCERTAIN = "a socket that may be in use (no permission to connect to it)"
    NO_SOCKET = "a file that is no socket"


@dataclass(frozen=True)
class FileIdentity:
    device: int
    inode: int

    @classmethod
    def of(cls, state: os.stat_result) -> FileIdentity:
        return cls(state.st_dev, state.st_ino)


class SocketPlace:
    """A name in a directory that is held open, so that a directory renamed under us cannot lead anywhere else."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the directory cannot be opened."""
        self.path = path
        self.directory = OwnedFd(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        self.directory.close()

    def address(self, name: str | None = None) -> bytes | None:
        """What to bind or connect to for *name* in this directory; None when it fits no address."""
        name = self.path.name if name is None else name
        plain = os.fsencode(self.path.parent / name)
        if len(plain) <= MAX_ADDRESS_BYTES:
            return plain
        through = os.fsencode(f"/proc/self/fd/{self.directory.fileno()}/{name}")
        return through if len(through) <= MAX_ADDRESS_BYTES else None

    def open_path(self, name: str | None = None) -> OwnedFd:
        """An O_PATH descriptor of the file itself, never of what a symbolic link leads to."""
        name = self.path.name if name is None else name
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        return OwnedFd(os.open(name, flags, dir_fd=self.directory.fileno()))

    def identity(self) -> FileIdentity | None:
        """What is at the name now, or None."""
        try:
            return FileIdentity.of(os.stat(self.path.name, dir_fd=self.directory.fileno(), follow_symlinks=False))
        except FileNotFoundError:
            return None

    def occupant(self) -> Occupant:
        """Asks by connecting: nothing else tells a socket in use from one that a killed process left behind.

        Whoever listens there sees a connection that is closed again at once.
        """
        try:
            found = self.open_path()
        except FileNotFoundError:
            return Occupant.NOTHING
        with found, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if not stat.S_ISSOCK(os.fstat(found.fileno()).st_mode):
                return Occupant.NO_SOCKET
            probe.setblocking(False)
            result = probe.connect_ex(f"/proc/self/fd/{found.fileno()}")
        if result == errno.ECONNREFUSED:
            return Occupant.STALE
        # EAGAIN is a full backlog, EPROTOTYPE a socket of another type: somebody is there.
        return Occupant.UNCERTAIN if result in (errno.EACCES, errno.EPERM) else Occupant.LISTENER

    def unlink(self, expected: FileIdentity) -> bool:
        """Removes the name if it still means *expected*; returns whether it did."""
        if self.identity() != expected:
            return False
        os.unlink(self.path.name, dir_fd=self.directory.fileno())
        return True
