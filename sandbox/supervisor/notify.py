"""Telling the service manager how we stand (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names.

Nobody waits for it, and nothing depends on it: a manager that does not listen costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

_MICROSECONDS = 1_000_000
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Silent without a manager. *period*: how often it wants a sign of life, in seconds; None where it wants none."""

    def __init__(self, address: str | None, period: float | None = None) -> None:
        """*address*: a path, or a name in the abstract space behind "@"."""
        self._address = None if address is None else address.replace("@", "\0", 1) if address[0] == "@" else address
        self._period = period
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str], pid: int | None = None) -> Notifier:
        """By what the manager told the process *pid*, or this one.

        Takes the variables out of *environ*, for no child may speak for us. What no manager says counts as not said.
        """
        said = {variable: environ.pop(variable, None) for variable in _VARIABLES}
        address = said["NOTIFY_SOCKET"]
        if not address or address[0] not in "/@":
            return cls(None)
        microseconds = said["WATCHDOG_USEC"] or ""
        ours = said["WATCHDOG_PID"] in (None, "", str(pid or os.getpid()))
        wanted = ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        return cls(address, int(microseconds) / _MICROSECONDS / 2 if wanted else None)

    def watchdog(self) -> float | None:
        """After how many seconds the next sign of life is due: half of what the manager waits."""
        return self._period

    def ready(self, status: str) -> None:
        """Started, or done with a reload."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1", _status("stopping"))

    def status(self, text: str) -> None:
        """One line for whoever asks the manager."""
        self._send(_status(text))

    def alive(self) -> None:
        """The sign of life."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None or self._address is None:
            return
        # Full, gone, forbidden: the manager's matter, and its own time limits tell.
        with contextlib.suppress(OSError):
            self._socket.sendto("\n".join(lines).encode(errors="backslashreplace"), self._address)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"
