"""The listening socket of a share: made safely, or inherited and checked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.supervisor.addresses import FileIdentity, Occupant, SocketPlace
from virtiofs_sandbox.syscalls.labels import LabelError, check_label, creating

# Linux cuts it to net.core.somaxconn. A connect that finds the backlog full fails at once when it does not block.
BACKLOG = 4096
_LOCK_SECONDS = 5.0
_REFUSALS = {
    Occupant.LISTENER: "another process listens on it; stop that one, or choose another path",
    Occupant.UNCERTAIN: "there is a socket that we may not connect to, so it may be in use; "
    "remove it if it is not, or choose another path",
    Occupant.NO_SOCKET: "there is a file that is no socket, and it is not removed; choose another path",
}


class ListenError(Exception):
    """No socket to listen on; str() is one sentence with the path or descriptor, the reason and what to do."""


@dataclass(frozen=True)
class SocketFile:
    """A socket to be made. *mode* holds before anybody can connect, and so do *owner* and *group*, a uid and a gid, and
    *label*, an SELinux context; None leaves each as it comes.
    """

    path: Path
    mode: int = 0o660
    group: int | None = None
    owner: int | None = None
    label: str | None = None


class Listener:
    """Owner of a listening socket, and of its file if there is one that we made."""

    def __init__(
        self, listening: socket.socket, name: str, place: SocketPlace | None = None, made: FileIdentity | None = None
    ) -> None:
        listening.setblocking(False)
        self._socket = listening
        self._place = place
        self._made = made
        self.name = name

    @classmethod
    def bind(cls, wanted: SocketFile, *, instead_of: Listener | None = None) -> Listener:
        """Makes the socket file. One that nobody listens on is replaced, and that of *instead_of*, in one step.

        Anything else in the way is a ListenError.
        """
        try:
            place = SocketPlace(wanted.path)
        except OSError as error:
            raise ListenError(f"socket {wanted.path}: cannot open its directory: {error.strerror}") from error
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _lock(place)
            ours = instead_of is not None and instead_of.is_at(place)
            if not ours:
                _clear(place)
            made = _bind(listening, place, wanted, aside=ours)
        except (OSError, LabelError) as error:
            listening.close()
            place.close()
            reason = error.strerror if isinstance(error, OSError) else None
            raise ListenError(f"socket {wanted.path}: {reason or error}") from error
        except ListenError:
            listening.close()
            place.close()
            raise
        _unlock(place)
        return cls(listening, str(wanted.path), place, made)

    @classmethod
    def adopt(cls, number: int) -> Listener:
        """Takes over an inherited descriptor, which must be a listening AF_UNIX stream socket. Its file is not ours."""
        try:
            listening = socket.socket(fileno=number)
        except OSError as error:
            raise ListenError(f"descriptor {number} is not an inherited socket: {error.strerror}") from error
        complaint = _unfit(listening)
        if complaint:
            listening.detach()
            raise ListenError(f"descriptor {number} {complaint}; pass a listening AF_UNIX stream socket")
        listening.set_inheritable(False)
        name = listening.getsockname()
        shown = os.fsdecode(name) if name else "(no name)"
        return cls(listening, shown)

    def is_at(self, place: SocketPlace) -> bool:
        """Whether the file there is the one that was made here."""
        return self._made is not None and place.identity() == self._made

    def fileno(self) -> int:
        return self._socket.fileno()

    def somebody_waits(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def accept(self) -> socket.socket | None:
        """The next connection, or None. Raises OSError when the process or the machine is out of something."""
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return None
        return connection

    def close(self) -> None:
        """Closes the socket; its file goes first, and only if it is still the one that was made here."""
        if self._place is not None and self._made is not None:
            self._place.unlink(self._made)
            self._place.close()
            self._place = None
        self._socket.close()


def _lock(place: SocketPlace) -> None:
    """Keeps two supervisors from finding the same stale socket and removing each other's new one."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(place.directory.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ListenError(
                    f"socket {place.path}: another process holds a lock (flock) on its directory; end it and try again"
                ) from None
            time.sleep(0.02)
        except OSError:
            # A file system without locks: two supervisors started at once on one path are then not told apart.
            return
        else:
            return


def _unlock(place: SocketPlace) -> None:
    with contextlib.suppress(OSError):
        fcntl.flock(place.directory.fileno(), fcntl.LOCK_UN)


def _clear(place: SocketPlace) -> None:
    occupant = place.occupant()
    if occupant in _REFUSALS:
        raise ListenError(f"socket {place.path}: {_REFUSALS[occupant]}")
    if occupant is Occupant.STALE:
        stale = place.identity()
        if stale is not None:
            place.unlink(stale)


def _bind(listening: socket.socket, place: SocketPlace, wanted: SocketFile, *, aside: bool) -> FileIdentity:
    """Binds, labelled, sets owner, group and mode, listens, in this order: before listen(2) nobody can connect.

    *aside*: what is at the name is replaced in one step, as soon as somebody listens.
    """
    name = place.path.name
    address = None if aside else place.address()
    if address is None:
        # The name alone is too long for an address: bound under a short one, it is linked to its own.
        name = f".{os.urandom(6).hex()}"
        address = place.address(name)
    if address is None:
        raise ListenError(f"socket {place.path}: no address for it fits {name!r}")
    old = os.umask(0o777 & ~wanted.mode)
    try:
        with creating(wanted.label):
            listening.bind(address)
    finally:
        os.umask(old)
    return _publish(listening, place, name, wanted, aside=aside)


def _rename(place: SocketPlace, name: str, *, over: bool) -> None:
    directory = place.directory.fileno()
    if over:
        os.rename(name, place.path.name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    os.link(name, place.path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    os.unlink(name, dir_fd=directory)


def _remove(place: SocketPlace, name: str) -> None:
    """Takes back what was bound, unless somebody else did already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.directory.fileno())


def _publish(
    listening: socket.socket, place: SocketPlace, name: str, wanted: SocketFile, *, aside: bool
) -> FileIdentity:
    with place.open_path(name) as bound:
        state = os.fstat(bound.fileno())
        if not stat.S_ISSOCK(state.st_mode) or state.st_uid != os.geteuid():
            raise ListenError(f"socket {place.path}: somebody replaced it while it was made; use another directory")
        try:
            if wanted.label is not None:
                check_label(f"/proc/self/fd/{bound.fileno()}", wanted.label)
            if wanted.owner is not None:
                _give_to_owner(bound, place, wanted.owner)
            if wanted.group is not None:
                _give_to_group(bound, place, wanted.group)
            # A default ACL of the directory overrides the umask.
            os.chmod(f"/proc/self/fd/{bound.fileno()}", wanted.mode)
            listening.listen(BACKLOG)
            if name != place.path.name:
                _rename(place, name, over=aside)
        except (OSError, ListenError, LabelError):
            _remove(place, name)
            raise
    return FileIdentity.of(state)


def _give_to_owner(bound: OwnedFd, place: SocketPlace, owner: int) -> None:
    try:
        os.chown(f"/proc/self/fd/{bound.fileno()}", owner, -1)
    except PermissionError as error:
        raise ListenError(
            f"socket {place.path}: may not give it to user {owner}: {error.strerror}; "
            "run as root, or leave the owner out and name a group"
        ) from error


def _give_to_group(bound: OwnedFd, place: SocketPlace, group: int) -> None:
    try:
        os.chown(f"/proc/self/fd/{bound.fileno()}", -1, group)
    except PermissionError as error:
        raise ListenError(
            f"socket {place.path}: may not give it to group {group}: {error.strerror}; "
            "name a group that you are a member of, or run as root"
        ) from error


def _unfit(inherited: socket.socket) -> str | None:
    if inherited.family != socket.AF_UNIX:
        return f"is a socket of family {inherited.family.name}"
    if inherited.type != socket.SOCK_STREAM:
        return f"is a socket of type {inherited.type.name}"
    if not inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is a socket that does not listen"
    return None
