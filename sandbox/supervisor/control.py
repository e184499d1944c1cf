"""The control socket of a share: who may ask, how long a question may take, one answer for each.

A connection carries one request and one reply. Nobody who asks can hold up the share: connections are few at a time,
each has its seconds, and nothing here waits but for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable

from virtiofs_sandbox.ipc.requests import (
    LENGTH_BYTES,
    Code,
    Failed,
    Reply,
    Request,
    RequestError,
    decode_request,
    encode,
    length,
    words,
)
from virtiofs_sandbox.supervisor.clients import Peer, peer_of
from virtiofs_sandbox.supervisor.conversations import Conversations
from virtiofs_sandbox.supervisor.events import ControlFailed, ControlRefused, Sink
from virtiofs_sandbox.supervisor.listener import Listener

_SECONDS = 5.0
_LAST_SECONDS = 0.2


Answer = Callable[[Request, Peer], Awaitable[Reply]]
"""May take its time, since nobody else waits for it. Raises RequestError."""


class ControlSocket:
    """Takes over *listener*, and answers on it until closed. To be made inside the event loop."""

    def __init__(
        self,
        share: str,
        listener: Listener,
        answer: Answer,
        sink: Sink,
        *,
        seconds: float = _SECONDS,
        may_ask: Callable[[Peer], bool] | None = None,
    ) -> None:
        """*seconds* is what a peer has to send its request, and again to take the reply."""
        self._share = share
        self._answer = answer
        self._sink = sink
        self._seconds = seconds
        self._may_ask = may_ask or _is_root_or_us
        self._loop = asyncio.get_running_loop()
        self._conversations = Conversations(listener, self._admit, self._complain)

    async def close(self) -> None:
        """No more questions; what is under way is soon cut short, and the file of the socket is gone."""
        await self._conversations.close(_LAST_SECONDS)

    def _complain(self, reason: str) -> None:
        self._sink(ControlFailed(self._share, reason))

    async def _admit(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        if self._may_ask(peer):
            await self._converse(connection, peer)
            return
        self._sink(ControlRefused(self._share, peer))
        with connection, contextlib.suppress(OSError):
            refusal = f"{peer}: only root and uid {os.geteuid()}, which runs the share, may ask"
            connection.send(encode(Failed(error="not-permitted", sentence=refusal)))

    async def _converse(self, connection: socket.socket, peer: Peer) -> None:
        with connection:
            try:
                async with asyncio.timeout(self._seconds):
                    request = decode_request(await self._receive(connection))
            except TimeoutError:
                reply: Reply = _failed("slow", f"no request within {self._seconds:g} s")
            except RequestError as error:
                reply = _failed(error.code, error)
            except (OSError, EOFError):
                # Somebody who only looked whether anybody is there.
                return
            else:
                reply = await self._reply(request, peer)
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._loop.sock_sendall(connection, encode(reply))

    async def _reply(self, request: Request, peer: Peer) -> Reply:
        try:
            return await self._answer(request, peer)
        except RequestError as error:
            return _failed(error.code, error)
        except Exception as error:  # noqa: BLE001 - a fault in here must not go unanswered, nor end a share in service
            self._complain(f"fault in the supervisor: {error!r}")
            return _failed("fault", f"fault in the supervisor: {error!r}")

    async def _receive(self, connection: socket.socket) -> bytes:
        return await self._exactly(connection, length(await self._exactly(connection, LENGTH_BYTES)))

    async def _exactly(self, connection: socket.socket, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            data = await self._loop.sock_recv(connection, size - len(received))
            if not data:
                raise EOFError
            received += data
        return bytes(received)


def _is_root_or_us(peer: Peer) -> bool:
    return peer.uid in (0, os.geteuid())


def _failed(code: Code, sentence: object) -> Failed:
    return Failed(error=code, sentence=words(sentence))
