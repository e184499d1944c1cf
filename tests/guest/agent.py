"""The serial line between a test and the shell loop that is the guest's init (initramfs.AGENT)."""

from __future__ import annotations

import base64
import itertools
import socket
import time
from dataclasses import dataclass

LINE_BYTES = 720
RECEIVE_BYTES = 65536


class GuestError(Exception):
    """The guest did not do what was asked; the message carries the end of its console."""


@dataclass(frozen=True)
class Outcome:
    """What one script did: its exit status and everything it printed, both streams together."""

    status: int
    output: str


class Agent:
    """Runs scripts in a guest, one at a time. Owns the host's end of the line."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._received = bytearray()
        self._nonces = itertools.count(1)

    def wait_ready(self, seconds: float) -> str:
        """Return the guest's kernel release. Raises TimeoutError, ConnectionError (the guest ended)."""
        deadline = time.monotonic() + seconds
        while True:
            word, _, rest = self._read_line(deadline).partition(" ")
            if word == "ready":
                return rest

    def run(self, script: str, seconds: float) -> Outcome:
        """Run a shell script and wait for its end. Raises TimeoutError, ConnectionError."""
        nonce = self.start(script)
        return self.wait(nonce, seconds)

    def start(self, script: str) -> str:
        """Hand over a script without waiting; `wait` with the returned nonce fetches what it did."""
        nonce = f"n{next(self._nonces)}"
        encoded = base64.b64encode(script.encode()).decode()
        lines = [encoded[at : at + LINE_BYTES] for at in range(0, len(encoded), LINE_BYTES)]
        self._line.settimeout(30)
        self._line.sendall("".join(f"{line}\n" for line in [*lines, f"run {nonce}"]).encode())
        return nonce

    def wait(self, nonce: str, seconds: float) -> Outcome:
        deadline = time.monotonic() + seconds
        lines: list[str] = []
        while True:
            line = self._read_line(deadline)
            if line.startswith(f"end {nonce} "):
                output = base64.b64decode("".join(lines)).decode(errors="replace")
                return Outcome(int(line.split()[2]), output)
            lines.append(line)

    def close(self) -> None:
        self._line.close()

    def _read_line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the guest did not answer in time")
            self._line.settimeout(left)
            data = self._line.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the guest closed its line")
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return line.decode(errors="replace").strip("\r")
