"""Metrics of one supervisor: from an address to somebody who answers there, or to one warning."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from virtiofs_sandbox.policies.sockets import make_directory
from virtiofs_sandbox.policies.values import MetricsAddress, shown_metrics_address
from virtiofs_sandbox.supervisor.active import ActiveShare
from virtiofs_sandbox.supervisor.events import MetricsFailed, Sink
from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.supervisor.metrics.responder import Responder

MODE = 0o660
_BACKLOG = 64


def answer_scrapes(
    address: MetricsAddress,
    shares: Callable[[], Iterable[ActiveShare]],
    about: str,
    sink: Sink,
    *,
    absent: Callable[[], int] = lambda: 0,
) -> Responder | None:
    """Tells of *shares* on *address*, and how many are *absent*. To be called inside the event loop.

    None where that cannot be: *sink* has been told why, as of the share *about*.
    """

    def failed(reason: str) -> None:
        sink(MetricsFailed(about, reason))

    try:
        # Nine mebibytes that a supervisor without metrics does without.
        from virtiofs_sandbox.supervisor.metrics.exposition import Exposition  # noqa: PLC0415

        listener = _listener(address)
    except ImportError as error:
        failed(f"nobody is told, since the package prometheus-client is missing here: {error}")
        return None
    except ListenError as error:
        failed(f"nobody is told: {error}")
        return None
    exposition = Exposition()
    return Responder(listener, lambda: exposition.text(shares(), absent()), failed)


def _listener(address: MetricsAddress) -> Listener:
    """Raises ListenError."""
    if isinstance(address, Path):
        try:
            make_directory(address.parent)
        except OSError as error:
            raise ListenError(f"socket {address}: cannot make its directory: {error.strerror}") from error
        return Listener.bind(SocketFile(address, MODE))
    host, _ = address
    shown = shown_metrics_address(address)
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # What a supervisor before left in TIME_WAIT is in nobody's way.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ListenError(f"{shown}: {error.strerror or error}") from error
    return Listener(listening, shown)
