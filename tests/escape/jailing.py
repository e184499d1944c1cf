"""Launches real jails for tests, without a supervisor: shared memory, and what the prober answered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from virtiofs_sandbox.confine import LaunchPlan, Tier
from virtiofs_sandbox.ipc.memfds import fixed_memory, sealed_document
from virtiofs_sandbox.launcher import HandOver, Jail, Launcher
from virtiofs_sandbox.launcher.launch import bury_group, end_group

STATISTICS_BYTES = 4096
ARENA_BYTES = 1 << 24
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Running:
    """A jail with this side's ends of what it was given."""

    jail: Jail
    control: socket.socket
    log: int
    statistics: int


@asynccontextmanager
async def running(launcher: Launcher, plan: LaunchPlan, document: bytes = b"") -> AsyncIterator[Running]:
    """Launches with *document* as configuration, and on leaving kills and reaps."""
    with ExitStack() as ours:
        with ExitStack() as theirs:
            control, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            control.setblocking(False)
            log, log_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            statistics = ours.enter_context(fixed_memory("statistics", STATISTICS_BYTES))
            ours.enter_context(control)
            ours.callback(os.close, log)
            theirs.enter_context(worker_end)
            theirs.callback(os.close, log_writer)
            arena = theirs.enter_context(fixed_memory("arena", ARENA_BYTES))
            config = theirs.enter_context(sealed_document("config", document))
            hand_over = HandOver(
                control=worker_end.fileno(),
                config=config.fileno(),
                stats=statistics.fileno(),
                arena=arena.fileno(),
                log=log_writer,
            )
            jail = await launcher.launch(plan, hand_over)
        ours.callback(end, jail)
        yield Running(jail, control, log, statistics.fileno())


def lines(facts: dict[str, str]) -> bytes:
    """*facts* as the prober reads them."""
    return "".join(f"{key}={value}\n" for key, value in facts.items()).encode()


def end(jail: Jail) -> os.waitid_result:
    """Kills and reaps; returns how it ended."""
    signal.pidfd_send_signal(jail.pidfd, signal.SIGKILL)
    os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED | os.WNOWAIT)
    if jail.tier is Tier.BARE:
        end_group(jail.pid)
    result = os.waitid(os.P_PIDFD, jail.pidfd, os.WEXITED)
    os.close(jail.pidfd)
    while jail.tier is Tier.BARE and not bury_group(jail.pid):
        time.sleep(0.001)
    assert result is not None
    return result


async def answers(jail: Running) -> list[dict[str, Any]]:
    """Everything the prober says until it is done; what was said so far if it dies."""
    loop = asyncio.get_running_loop()
    said: list[dict[str, Any]] = []
    async with asyncio.timeout(ANSWER_SECONDS):
        while message := await loop.sock_recv(jail.control, 65536):
            said.append(json.loads(message))
            if "done" in said[-1]:
                break
    return said
