"""Asking a running share by its control socket, and what becomes of the answer."""

from __future__ import annotations

import argparse
import contextlib
import errno
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.ipc.requests import (
    LENGTH_BYTES,
    Failed,
    Reply,
    Request,
    RequestError,
    decode_reply,
    encode,
    length,
)
from virtiofs_sandbox.policies.places import control_socket
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.supervisor.addresses import SocketPlace

_SECONDS = 10.0
_NOBODY = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED)
R = TypeVar("R")


class NotRunningError(Exception):
    """Nobody answers there; str() says where."""


class NotAnsweredError(Exception):
    """There is somebody, and no reply; str() says why."""


class RefusedError(Exception):
    """The request was not carried out; str() says why, *status* is the exit status that stands for it."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.sentence)
        self.status = Status.WIDENS if failed.error == "widens" else Status.FAILED


def ask(path: Path, request: Request, kind: type[R]) -> R:
    """The answer of the share at *path*. Raises NotRunningError, NotAnsweredError, RefusedError."""
    try:
        reply = _exchange(path, encode(request))
    except OSError as error:
        if error.errno in _NOBODY:
            raise NotRunningError(f"nobody answers on {shown(path)}: {error.strerror}") from error
        raise NotAnsweredError(f"{shown(path)}: {error.strerror or error}") from error
    except RequestError as error:
        raise NotAnsweredError(f"{shown(path)}: {error}") from error
    if isinstance(reply, Failed):
        raise RefusedError(reply)
    if not isinstance(reply, kind):
        raise NotAnsweredError(f"{shown(path)}: another reply than was asked for")
    return reply


def answer(command: str, options: argparse.Namespace, request: Request, kind: type[R]) -> R | Status:
    """The answer of the share that *options* name, or the exit status of a command that has none: the complaint is
    made then.
    """
    path = control_socket(options.share, arguments.control_directory_of(options))
    try:
        return ask(path, request, kind)
    except NotRunningError as error:
        complain(command, f"no share called {options.share!r} runs here: {error}")
    except NotAnsweredError as error:
        complain(command, error)
    except RefusedError as error:
        complain(command, error)
        return error.status
    return Status.FAILED


def warn(command: str, warnings: Iterable[str]) -> None:
    """What was carried out, and does not hold for all."""
    for warning in warnings:
        complain(command, f"warning: {warning}")


def _exchange(path: Path, request: bytes) -> Reply:
    place = SocketPlace(path)
    try:
        file = place.open_path()
    finally:
        place.close()
    with file, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        # By way of the descriptor: a path may be longer than an address, and a symbolic link leads nowhere.
        connection.connect(f"/proc/self/fd/{file.fileno()}")
        # Who is turned away before the request was read finds the reason all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return decode_reply(_exactly(connection, length(_exactly(connection, LENGTH_BYTES))))


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise RequestError("malformed", "the reply ends in the middle")
        received += data
    return bytes(received)
