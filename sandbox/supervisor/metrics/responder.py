"""As much HTTP/1.1 as a scrape needs: one GET a connection, within a bound of bytes and of time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

from virtiofs_sandbox.supervisor.conversations import Conversations
from virtiofs_sandbox.supervisor.listener import Listener

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATH = "/metrics"
MAX_HEAD = 8 * 1024
_SECONDS = 5.0
# However many ask, metrics are written no more often than this; who asks sooner gets the same text.
_FRESH_SECONDS = 1.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Header Too Large"}


class Refused(Exception):  # noqa: N818 - it says what happened to the request
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Responder:
    """Takes over *listener*, and answers on it until closed. To be made inside the event loop."""

    def __init__(
        self,
        listener: Listener,
        text: Callable[[], Awaitable[bytes]],
        failed: Callable[[str], None],
        *,
        seconds: float = _SECONDS,
    ) -> None:
        """*text* writes the metrics. *seconds* is what a peer has to ask, and again to take the answer."""
        self._text = text
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._written = b""
        self._fresh_until = 0.0
        self._conversations = Conversations(listener, self._converse, failed)

    async def close(self) -> None:
        await self._conversations.close(0.0)

    async def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError, EOFError):
            method = "GET"
            try:
                async with asyncio.timeout(self._seconds):
                    method = asked(await self._head(connection))
                status, kind, body = 200, CONTENT_TYPE, await self._metrics()
            except Refused as error:
                status, kind, body = error.status, "text/plain; charset=utf-8", f"{error}\n".encode()
            async with asyncio.timeout(self._seconds):
                await self._loop.sock_sendall(connection, answer(status, kind, body, bodiless=method == "HEAD"))

    async def _head(self, connection: socket.socket) -> bytes:
        """Up to the empty line. Raises Refused, EOFError."""
        received = bytearray()
        while b"\r\n\r\n" not in received:
            if len(received) > MAX_HEAD:
                raise Refused(431, f"a request's head has at most {MAX_HEAD} bytes")
            data = await self._loop.sock_recv(connection, MAX_HEAD)
            if not data:
                raise EOFError
            received += data
        return bytes(received)

    async def _metrics(self) -> bytes:
        async with self._writing:
            if self._loop.time() >= self._fresh_until:
                self._written = await self._text()
                self._fresh_until = self._loop.time() + _FRESH_SECONDS
            return self._written


def asked(head: bytes) -> str:
    """The method of a request for PATH. Raises Refused."""
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        raise Refused(400, "this is HTTP/1.1: GET /metrics HTTP/1.1")
    method, target, _ = words
    if target.split(b"?", 1)[0] != PATH.encode():
        raise Refused(404, f"there is nothing here but {PATH}")
    if method not in (b"GET", b"HEAD"):
        raise Refused(405, "only GET and HEAD are answered")
    return method.decode()


def answer(status: int, kind: str, body: bytes, *, bodiless: bool) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{allow}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if bodiless else body)
