"""Listening sockets that whoever started us has passed to us, as systemd does (sd_listen_fds(3)).

They are held here as long as the supervisor runs: a share that goes and comes back finds its socket again. Their files
are not ours to remove.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.ipc.descriptors import OwnedFd
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.supervisor.listener import Listener, ListenError

FIRST = 3
# More than anybody has, and few enough to look at each.
_MOST = 16_384
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# What systemd calls a socket whose unit does not say, and one whose name cannot be passed on.
_NAMELESS = ("", "unknown")


class ActivationError(Exception):
    """The environment speaks of sockets that are not there; str() says which variable, and what is expected."""


def inherited(environ: MutableMapping[str, str], pid: int) -> tuple[tuple[str, int], ...]:
    """The sockets passed to the process *pid*: name, "" without one, and descriptor number, which no child inherits.

    Takes the variables out of *environ*, for they are nobody else's. Raises ActivationError.
    """
    said = {variable: environ.pop(variable, None) for variable in _VARIABLES}
    if said["LISTEN_FDS"] is None or said["LISTEN_PID"] is None or said["LISTEN_PID"] != str(pid):
        # Meant for a process above us, which left them in the environment.
        return ()
    count = _number(said["LISTEN_FDS"])
    names = (said["LISTEN_FDNAMES"] or "").split(":") if said["LISTEN_FDNAMES"] else [""] * count
    if len(names) != count:
        raise ActivationError(
            f"LISTEN_FDNAMES has {len(names)} name(s) for {count} descriptor(s); as many as LISTEN_FDS are expected"
        )
    for number in range(FIRST, FIRST + count):
        try:
            os.set_inheritable(number, False)
        except OSError as error:
            raise ActivationError(f"LISTEN_FDS is {count}, but descriptor {number}: {error.strerror}") from error
    return tuple(("" if name in _NAMELESS else name, number) for number, name in enumerate(names, start=FIRST))


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > _MOST:
        raise ActivationError(f"LISTEN_FDS is {text!r}; a number up to {_MOST} is expected")
    return int(text)


@dataclass(frozen=True)
class PassedSocket:
    """*address* is a path, "" where the socket has none."""

    name: str
    address: str
    descriptor: OwnedFd


class PassedSockets:
    """Which share takes which of them: the one of its name, else the one that listens where its policy's socket is."""

    def __init__(self, passed: tuple[tuple[str, int], ...]) -> None:
        """Takes the descriptors over. Raises ListenError for one that is no listening AF_UNIX stream socket."""
        self._sockets: list[PassedSocket] = []
        for name, number in passed:
            # Looked at once, so that a mistake in a unit shows at the start and not with the first client.
            listener = Listener.adopt(os.dup(number))
            address = listener.name if listener.name.startswith("/") else ""
            listener.close()
            self._sockets.append(PassedSocket(name, address, OwnedFd(number)))

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def listener(self, share: str, socket: Socket, policy: Policy | None) -> Listener | None:
        """A listener on the socket that *share* takes, which else would make *socket*; None when there is none.

        Raises ListenError where more people may connect to it than its policy says.
        """
        found = self._find(share, socket.path)
        if found is None:
            return None
        complaint = "" if policy is None else "; ".join(_wider(found, socket, policy))
        if complaint:
            raise ListenError(f"inherited socket {found.address or found.name!r}: {complaint}")
        return Listener.adopt(os.dup(found.descriptor.fileno()))

    def unclaimed(self, policies: Iterable[Policy]) -> tuple[PassedSocket, ...]:
        """Those that no share of *policies* takes."""
        taken = [self._find(policy.name, policy.socket.path) for policy in policies]
        return tuple(one for one in self._sockets if one not in taken)

    def close(self) -> None:
        for one in self._sockets:
            one.descriptor.close()
        self._sockets.clear()

    def _find(self, share: str, path: Path) -> PassedSocket | None:
        by_name = next((one for one in self._sockets if one.name == share), None)
        by_address = (one for one in self._sockets if one.address and _same(one.address, path))
        return by_name or next(by_address, None)


def _wider(passed: PassedSocket, wanted: Socket, policy: Policy) -> Iterator[str]:
    """What of a socket that we did not make is more than the policy names. What it does not name is the maker's."""
    named = [key for key in policy.origins if key.startswith("share.socket.")]
    if not named:
        return
    if not passed.address:
        yield f"it has no file, and {policy.origin(named[0])} says who may connect; listen on {wanted.path}"
        return
    if "share.socket.path" in named and not _same(passed.address, wanted.path):
        yield f"{policy.origin('share.socket.path')} wants it at {wanted.path}; listen there, or take that key out"
    try:
        state = os.stat(passed.address, follow_symlinks=False)
    except OSError as error:
        yield f"its file cannot be looked at: {error.strerror}"
        return
    mode = stat.S_IMODE(state.st_mode)
    if "share.socket.mode" in named and mode & ~wanted.mode:
        said = policy.origin("share.socket.mode")
        yield f"its mode is 0{mode:03o}, and {said} allows 0{wanted.mode:03o}; say SocketMode=0{wanted.mode:03o}"
    if "share.socket.owner" in named and mode & 0o700 and state.st_uid != wanted.owner:
        said = policy.origin("share.socket.owner")
        yield f"its owner is {state.st_uid}, and {said} says {wanted.owner}; say SocketUser={wanted.owner}"
    if "share.socket.group" in named and mode & 0o070 and state.st_gid != wanted.group:
        said = policy.origin("share.socket.group")
        yield f"its group is {state.st_gid}, and {said} says {wanted.group}; say SocketGroup={wanted.group}"


def _same(address: str, path: Path) -> bool:
    """Whether both are one place, by whatever way above it."""
    return os.path.basename(address) == path.name and (
        os.path.realpath(os.path.dirname(address)) == os.path.realpath(path.parent)
    )
