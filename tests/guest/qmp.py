"""QEMU's control protocol: one JSON object a line, events between the answers (docs/interop/qmp-spec)."""

from __future__ import annotations

import json
import socket
from typing import Any

RECEIVE_BYTES = 65536


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    """A connected control line. Each command waits at most *seconds*; raises TimeoutError or ConnectionError."""

    def __init__(self, line: socket.socket, seconds: float = 30) -> None:
        self._line = line
        self._line.settimeout(seconds)
        self._received = b""
        self.events: list[dict[str, Any]] = []
        self._read()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        request = {"execute": command, "arguments": arguments}
        self._line.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def close(self) -> None:
        self._line.close()

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            data = self._line.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("QEMU closed its control line")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise QmpError(f"not an object: {line!r}")
        return answer
