"""systemd's journal, by its native protocol: a datagram for each entry, a sealed memfd for one that is too long.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. No library, since what is wanted most, not to wait, is what they do not do.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from virtiofs_sandbox.ipc import memfds
from virtiofs_sandbox.ipc.requests import LogLine
from virtiofs_sandbox.supervisor.recording import told

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "virtiofs-sandbox"
# Those of syslog.
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)


def is_at(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether *descriptor* leads to the journal: systemd.exec(5), $JOURNAL_STREAM."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def entry(line: LogLine) -> bytes:
    """The line as an entry. What only its event has becomes VIRTIOFS_ and its name; lists and tables are JSON."""
    fields = {
        "MESSAGE": told(line),
        "PRIORITY": str(PRIORITIES[line.level]),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "VIRTIOFS_SHARE": line.share,
        "VIRTIOFS_GENERATION": line.generation,
        "VIRTIOFS_CLIENT_PID": None if line.client is None else line.client.pid,
        "VIRTIOFS_CLIENT_UID": None if line.client is None else line.client.uid,
        "VIRTIOFS_EVENT": line.event,
        **{f"VIRTIOFS_{name.upper()}": value for name, value in line.data.items()},
    }
    return encode((name, _text(value)) for name, value in fields.items() if value is not None)


def encode(fields: Iterable[tuple[str, str]]) -> bytes:
    """Fields as the protocol has them: a value with a line feed goes behind its length."""
    encoded = bytearray()
    for name, text in fields:
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            encoded += name.encode("ascii") + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
        else:
            encoded += name.encode("ascii") + b"=" + value + b"\n"
    return bytes(encoded)


class Journal:
    """Sends entries to the journal at *path*, and never waits for it."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        # What journald's own clients ask for; the kernel cuts it to net.core.wmem_max.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)

    def send(self, encoded: bytes) -> int:
        """Returns how much was taken: all. Raises BlockingIOError when the journal is behind, and any other OSError
        when there is none.
        """
        try:
            # Anew each time: journald may have been started again.
            self._socket.sendto(encoded, self._path)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_file(encoded)
        return len(encoded)

    def close(self) -> None:
        self._socket.close()

    def _send_file(self, encoded: bytes) -> None:
        with memfds.sealed_document("journal", encoded) as file:
            # Not by socket.send_fds, which forgets the address.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))
            self._socket.sendmsg([b""], [rights], 0, self._path)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
