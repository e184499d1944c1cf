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
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line
from virtiofs_sandbox.ipc.requests import (
    LENGTH_BYTES,
    MAX_REPLY_BYTES,
    Done,
    Failed,
    Reply,
    Request,
    RequestError,
    Restart,
    Stop,
    decode_reply,
    encode,
    length,
)
from virtiofs_sandbox.policies.places import control_socket, serve_socket
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.supervisor.addresses import SocketPlace

_SECONDS = 10.0
# What may stop or start shares: as long as a worker may take to get ready or to drain.
PATIENTLY = 60.0
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


def ask(path: Path, request: Request, kind: type[R], seconds: float = _SECONDS) -> R:
    """The answer of the supervisor at *path*. Raises NotRunningError, NotAnsweredError, RefusedError."""
    try:
        reply = _exchange(path, encode(request), seconds)
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


def answer(
    command: str, options: argparse.Namespace, request: Request, kind: type[R], seconds: float = _SECONDS
) -> R | Status:
    """The answer of the share that *options* name, or of the supervisor of all where they name none; or the exit status
    of a command that has no answer: the complaint is made then. *seconds*: how long it may take.
    """
    directory = arguments.control_directory_of(options)
    try:
        if options.share is None:
            return ask(serve_socket(directory), request, kind, seconds)
        try:
            return ask(control_socket(options.share, directory), request, kind, seconds)
        except NotRunningError as error:
            try:
                return ask(serve_socket(directory), request, kind, seconds)
            except NotRunningError:
                raise error from None
    except NotRunningError as error:
        who = "`serve`" if options.share is None else f"share called {options.share!r}"
        complain(command, f"no {who} runs here: {error}")
    except NotAnsweredError as error:
        complain(command, error)
    except RefusedError as error:
        complain(command, error)
        return error.status
    return Status.FAILED


def carry_out(command: str, options: argparse.Namespace, request: Restart | Stop) -> int:
    """Has something done and says what becomes of it; returns the exit status."""
    reply = answer(command, options, request, Done, PATIENTLY)
    if isinstance(reply, Status):
        return reply
    for sentence in (*reply.changes, *reply.later):
        write_line(STANDARD_OUTPUT, sentence)
    return Status.DONE


def warn(command: str, warnings: Iterable[str]) -> None:
    """What was carried out, and does not hold for all."""
    for warning in warnings:
        complain(command, f"warning: {warning}")


def _exchange(path: Path, request: bytes, seconds: float) -> Reply:
    place = SocketPlace(path)
    try:
        file = place.open_path()
    finally:
        place.close()
    with file, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        # By way of the descriptor: a path may be longer than an address, and a symbolic link leads nowhere.
        connection.connect(f"/proc/self/fd/{file.fileno()}")
        # Who is turned away before the request was read finds the reason all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return decode_reply(_exactly(connection, length(_exactly(connection, LENGTH_BYTES), MAX_REPLY_BYTES)))


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(size - len(received))
        if not data:
            raise RequestError("malformed", "the reply ends in the middle")
        received += data
    return bytes(received)
