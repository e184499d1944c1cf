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
from virtiofs_sandbox.supervisor.events import ControlFailed, ControlRefused, Sink
from virtiofs_sandbox.supervisor.listener import Listener

_AT_ONCE = 8
_SECONDS = 5.0
_PAUSE = 1.0
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
        self._listener = listener
        self._answer = answer
        self._sink = sink
        self._seconds = seconds
        self._may_ask = may_ask or _is_root_or_us
        self._loop = asyncio.get_running_loop()
        self._conversations: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._accept_again()

    async def close(self) -> None:
        """No more questions; what is under way is soon cut short, and the file of the socket is gone."""
        self._closed = True
        self._loop.remove_reader(self._listener.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        conversations = tuple(self._conversations)
        if conversations:
            # A reply that is made has time to be sent.
            await asyncio.wait(conversations, timeout=_LAST_SECONDS)
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)

    def _accept_again(self) -> None:
        self._pause = None
        if not self._closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()
        except OSError as error:
            self._sink(ControlFailed(self._share, f"cannot accept: {error.strerror}"))
            self._loop.remove_reader(self._listener.fileno())
            self._pause = self._loop.call_later(_PAUSE, self._accept_again)
            return
        if connection is None:
            return
        connection.setblocking(False)
        peer = peer_of(connection)
        if not self._may_ask(peer):
            self._sink(ControlRefused(self._share, peer))
            with connection, contextlib.suppress(OSError):
                refusal = f"{peer}: only root and uid {os.geteuid()}, which runs the share, may ask"
                connection.send(encode(Failed(error="not-permitted", sentence=refusal)))
            return
        conversation = asyncio.ensure_future(self._converse(connection, peer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._ended)
        if len(self._conversations) >= _AT_ONCE:
            # The others wait in the backlog.
            self._loop.remove_reader(self._listener.fileno())

    def _ended(self, conversation: asyncio.Task[None]) -> None:
        self._conversations.discard(conversation)
        if not conversation.cancelled() and (error := conversation.exception()) is not None:
            self._sink(ControlFailed(self._share, f"fault in the supervisor: {error!r}"))
        if self._pause is None:
            self._accept_again()

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
            self._sink(ControlFailed(self._share, f"fault in the supervisor: {error!r}"))
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
