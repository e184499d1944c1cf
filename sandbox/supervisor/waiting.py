"""The line of monitors that wait for a share's one place.

A monitor that restarts connects again before its old connection is quite gone, so a connection that finds the place
taken waits. It is turned away only when the same holder is still there after a second: then two monitors want one
share, which is a mistake somebody should hear about.
"""

from __future__ import annotations

from collections import deque

from virtiofs_sandbox.supervisor.clients import Client

CAPACITY = 64


class WaitingLine:
    """First come, first served; at most CAPACITY. Whoever has hung up while waiting just falls out."""

    def __init__(self, patience: float) -> None:
        """*patience*: seconds that a client waits beside one and the same holder."""
        self._patience = patience
        self._clients: deque[Client] = deque()

    def __bool__(self) -> bool:
        return bool(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def full(self) -> bool:
        return len(self._clients) >= CAPACITY

    def join(self, client: Client) -> None:
        self._clients.append(client)

    def rejoin(self, client: Client) -> None:
        """Back to the head: it was called up, but the worker was gone."""
        self._clients.appendleft(client)

    def call_up(self) -> Client | None:
        """The client whose turn it is, which the caller now owns."""
        self.drop_departed()
        return self._clients.popleft() if self._clients else None

    def drop_departed(self) -> int:
        """Closes the connections whose monitors have hung up; returns how many there were."""
        departed = [client for client in self._clients if client.hung_up()]
        for client in departed:
            self._clients.remove(client)
            client.close()
        return len(departed)

    def overdue(self, now: float, holder_since: float) -> list[Client]:
        """Takes out the clients that have waited too long beside a holder who came at *holder_since*."""
        overdue = [client for client in self._clients if self._deadline(client, holder_since) <= now]
        for client in overdue:
            self._clients.remove(client)
        return overdue

    def next_deadline(self, holder_since: float) -> float | None:
        """When `overdue` will next have somebody."""
        return min((self._deadline(client, holder_since) for client in self._clients), default=None)

    def close(self) -> None:
        while self._clients:
            self._clients.popleft().close()

    def _deadline(self, client: Client, holder_since: float) -> float:
        return max(client.arrived, holder_since) + self._patience
