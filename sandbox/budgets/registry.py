"""The members of a group: one file each in the group's directory, held by a lock that the kernel gives up for the dead.

Whoever takes more than it had does so under the lock of the directory, with what all others hold before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.budgets.records import RECORD_BYTES, Record, decode, encode
from virtiofs_sandbox.policies.sockets import make_directory

_WAIT_SECONDS = 0.5
_LOOK_SECONDS = 0.005
_TRIES = 20


class GroupBusyError(Exception):
    """Another supervisor holds the lock of the group and does not let go; str() is half a sentence."""


class Registry:
    """This process as the member called *name* of the group in *directory*; nobody until it has joined."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._place: int | None = None
        self._file: int | None = None

    def join(self) -> None:
        """Enters, and holds the lock until `joined` with the first record. Raises OSError, GroupBusyError."""
        for _ in range(_TRIES):
            for place in (self._directory.parent.parent, self._directory.parent, self._directory):
                with contextlib.suppress(FileNotFoundError):
                    make_directory(place)
            try:
                self._place = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                # The last member has just left.
                continue
            if not self._lock(_WAIT_SECONDS):
                self._close()
                break
            if self._is_there():
                self._bury()
                return
            self._close()
        raise GroupBusyError(f"another supervisor holds the lock of {self._directory}")

    def joined(self, record: Record) -> None:
        """Shows itself to the others and lets go of the lock. Raises OSError."""
        # Under another name until it is locked: one that is not is taken for a dead member's.
        fresh = f".{self.name}"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(fresh, flags, 0o600, dir_fd=self._place)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.write(record)
            os.rename(fresh, self.name, src_dir_fd=self._place, dst_dir_fd=self._place)
        except OSError:
            self._close()
            raise
        self._unlock()

    def write(self, record: Record) -> None:
        """Raises OSError."""
        assert self._file is not None  # noqa: S101 - for mypy: it has joined
        os.pwrite(self._file, encode(record), 0)

    def others(self) -> dict[str, Record | None]:
        """The other members that live, by name; None for one whose record says nothing. Raises OSError."""
        assert self._place is not None  # noqa: S101 - for mypy: it has joined
        found = {}
        for name in os.listdir(self._place):
            if not name.startswith(".") and name != self.name and (seen := self._look(name)) is not None:
                found[name] = decode(seen)
        return found

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Whether nobody else takes more meanwhile. Never waits: then there is the next time."""
        if not self._lock(0.0):
            yield False
            return
        try:
            self._bury()
            yield True
        finally:
            self._unlock()

    def leave(self) -> None:
        """The others have what it held. The last one removes the directory."""
        if self._place is None:
            return
        with contextlib.suppress(OSError):
            os.unlink(self.name, dir_fd=self._place)
        if self._lock(0.0):
            with contextlib.suppress(OSError):
                self._bury()
                os.rmdir(self._directory)
        self._close()

    def _look(self, name: str) -> bytes | None:
        """What a living member has written."""
        with self._opened(name) as file:
            if file is None or not _is_held(file):
                return None
            return os.pread(file, RECORD_BYTES + 1, 0)

    def _bury(self) -> None:
        """Removes the files of the dead. Under the lock: who is on the way in holds it."""
        assert self._place is not None  # noqa: S101 - for mypy: it has joined
        for name in os.listdir(self._place):
            if name == self.name:
                continue
            with self._opened(name) as file:
                if file is not None and not _is_held(file):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=self._place)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int | None]:
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._place)
        except OSError:
            # Gone meanwhile, or nothing that a member has made.
            yield None
            return
        try:
            yield file if stat.S_ISREG(os.fstat(file).st_mode) else None
        finally:
            os.close(file)

    def _lock(self, seconds: float) -> bool:
        assert self._place is not None  # noqa: S101 - for mypy: it is about to join, or has
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._place, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_LOOK_SECONDS)
            else:
                return True

    def _unlock(self) -> None:
        if self._place is not None:
            fcntl.flock(self._place, fcntl.LOCK_UN)

    def _is_there(self) -> bool:
        """Whether what was locked is what others find."""
        assert self._place is not None  # noqa: S101 - for mypy: it is about to join
        try:
            return os.path.samestat(os.fstat(self._place), os.stat(self._directory))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        for file in (self._file, self._place):
            if file is not None:
                os.close(file)
        self._file = self._place = None


def _is_held(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
