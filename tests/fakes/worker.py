"""A worker that speaks the control protocol and serves no files.

It tells its client "hello GENERATION RULES" and then obeys the lines the client sends, so that a test in the role of a
monitor can have it crash, hang, flood or break the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from typing import NoReturn

import msgspec
import prctl
from virtiofs_sandbox.ipc.config import MAX_BYTES, LiveSettings, decode_config
from virtiofs_sandbox.ipc.messages import PROTOCOL_VERSION, Direction, Kind, Message
from virtiofs_sandbox.ipc.stats import INDEXES, LAYOUT_VERSION, MAGIC
from virtiofs_sandbox.ipc.transport import ChannelClosedError, ControlChannel, UnreadError

CONTROL, CONFIG, PAGE = 3, 4, 5
_SYS_CLONE, _CLONE_VFORK = 56, 0x4000


@dataclass(frozen=True)
class Behaviour:
    """What a worker does before a client can tell it anything. *before_ready* is a line as a client may send;
    *deserts*: it closes its control socket once it is ready, and stays; *settings*: what it does on the first SETTINGS,
    the second and so on ("apply" on all others), as in Session.settings_came. *unheld*: paths of rules that the launch
    found nothing to mount over for."""

    before_ready: str = ""
    deserts: bool = False
    ready: bool = True
    fail_launch: bool = False
    hang_launch: bool = False
    settings: tuple[str, ...] = ()
    unheld: tuple[bytes, ...] = ()


class Session:
    def __init__(self, settings: tuple[str, ...]) -> None:
        self.channel = ControlChannel(socket.socket(fileno=CONTROL), Direction.TO_WORKER)
        self.config = decode_config(os.pread(CONFIG, MAX_BYTES, 0))
        self.rules = self.config.rules
        self.limits = self.config.limits
        self.settings = list(settings)
        self.client: socket.socket | None = None
        self.deaf = False
        self.linger = 0.0

    def send(self, kind: Kind, code: int = 0, a: int = 0, b: int = 0) -> None:
        self.channel.send(Message(kind, self.config.generation, code, a, b))

    def raw(self, datagram: bytes) -> None:
        with socket.socket(fileno=os.dup(CONTROL)) as control:
            control.send(datagram)

    def obey(self, line: str) -> None:
        match line.split(maxsplit=1):
            case ["crash", number]:
                os.kill(os.getpid(), int(number))
            case ["exit", code]:
                os._exit(int(code))
            case ["deaf"]:
                self.deaf = True
            case ["linger", seconds]:
                self.linger = float(seconds)
            case ["log", text]:
                os.write(2, text.encode().decode("unicode_escape").encode("latin-1"))
            case ["client", code]:
                self.send(Kind.CLIENT, int(code), 38)
            case ["leaving", code]:
                self.send(Kind.LEAVING, int(code))
            case ["raw", hexadecimal]:
                self.raw(bytes.fromhex(hexadecimal))
            case ["flood"]:
                while True:
                    with contextlib.suppress(BlockingIOError):
                        self.send(Kind.CLIENT, 1)
                    with contextlib.suppress(BlockingIOError):
                        os.write(2, b"<6>flood\n")
            case words:
                self.obey_further(words)

    def obey_further(self, words: list[str]) -> None:
        match words:
            case ["chatter"]:
                while True:
                    self.send(Kind.CLIENT, 1)
                    time.sleep(0.05)
            case ["sleep", seconds]:
                time.sleep(float(seconds))
            case ["settings", action]:
                self.settings.append(action)
            case ["rules"]:
                self.say(self.described_rules())
            case ["limits"]:
                self.say(str(0 if self.limits is None else self.limits.read))
            case ["oldest", seconds]:
                start = time.monotonic_ns() - int(float(seconds) * 1e9)
                os.pwrite(PAGE, struct.pack("<Q", start), 8 * INDEXES["oldest_start"])
            case ["wait"]:
                wait_in_the_kernel()
            case ["applied", serial]:
                self.send(Kind.APPLIED, a=int(serial))

    def greet(self) -> None:
        self.say(f"hello {self.config.generation} {self.described_rules()}")

    def say(self, line: str) -> None:
        if self.client is not None:
            self.client.sendall(f"{line}\n".encode())

    def described_rules(self) -> str:
        return msgspec.json.encode(self.rules).decode()

    def settings_came(self, serial: int, document: bytes) -> None:
        """Does what comes next in *settings*, and says so in the log."""
        action = self.settings.pop(0) if self.settings else "apply"
        os.write(2, f"<6>settings {serial}: {action}\n".encode())
        match action.split():
            case ["apply", *delay]:
                time.sleep(float(delay[0]) if delay else 0)
                settings = msgspec.json.decode(document, type=LiveSettings)
                self.rules, self.limits = settings.rules, settings.limits
                self.send(Kind.APPLIED, a=serial, b=1)
            case ["refuse", number]:
                self.send(Kind.APPLIED, code=int(number), a=serial)
            case ["claim", another]:
                self.send(Kind.APPLIED, a=int(another))
            case ["twice"]:
                self.send(Kind.APPLIED, a=serial)
                self.send(Kind.APPLIED, a=serial)
            case ["leave"]:
                self.send(Kind.LEAVING)
                self.send(Kind.APPLIED, a=serial)
                os._exit(0)

    def serve(self) -> int:
        poll = select.poll()
        poll.register(CONTROL, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                if number != CONTROL:
                    code = self.client_ready()
                elif (code := self.control_ready()) is None and self.client is not None:
                    poll.register(self.client, select.POLLIN)
                if code is not None:
                    return code

    def control_ready(self) -> int | None:
        try:
            received = self.channel.receive(max_descriptors=1)
        except (ChannelClosedError, UnreadError):
            return 16
        if received is None:
            return None
        if received.message.kind is Kind.STOP:
            if self.deaf:
                return None
            time.sleep(min(self.linger, received.message.a / 1000))
            return 10
        if received.message.kind is Kind.SETTINGS:
            with received.descriptors[0] as memfd:
                self.settings_came(received.message.a, os.pread(memfd.fileno(), MAX_BYTES, 0))
            return None
        self.client = socket.socket(fileno=received.descriptors[0].steal())
        with contextlib.suppress(OSError):
            self.greet()
        return None

    def client_ready(self) -> int | None:
        if self.client is None:
            return None
        try:
            data = self.client.recv(65536)
        except ConnectionResetError:
            data = b""
        if data:
            for line in data.decode().splitlines():
                self.obey(line)
            return None
        while self.deaf:
            time.sleep(1000)
        self.send(Kind.LEAVING)
        self.client.close()
        time.sleep(self.linger)
        return 0


def wait_in_the_kernel() -> None:
    """For ever, in state D: who makes a child by vfork(2) sleeps so until it executes something."""
    parent = os.getpid()
    if ctypes.CDLL(None).syscall(_SYS_CLONE, _CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        prctl.set_pdeathsig(signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        os._exit(0)


def play(behaviour: Behaviour) -> NoReturn:
    """Never returns. The descriptors are at their documented numbers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    session = Session(behaviour.settings)
    session.obey(behaviour.before_ready)
    os.pwrite(PAGE, struct.pack("<5Q", MAGIC, LAYOUT_VERSION, session.config.generation, 0, 7), 0)
    if not behaviour.ready:
        time.sleep(1000)
    session.send(Kind.READY, a=PROTOCOL_VERSION)
    if behaviour.deserts:
        session.channel.close()
        os.write(2, b"<6>deserted\n")
        time.sleep(1000)
    os._exit(session.serve())
