"""A jail without a pid namespace is one process group, and ends as one, whatever its worker forked."""

from __future__ import annotations

import os
import select
import signal
import time

from virtiofs_sandbox.launcher.launch import bury_group, end_group

SECONDS = 10.0


def test_whoever_a_keeper_leaves_behind_is_killed_and_reaped() -> None:
    alive, held = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.setsid()
        for _ in range(3):
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    signal.pause()
        os._exit(0)
    os.close(held)
    pidfd = os.pidfd_open(keeper)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert select.select([alive], [], [], 0)[0] == [], "those left behind hold the pipe"
    end_group(keeper)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    assert select.select([alive], [], [], SECONDS)[0] == [alive]
    deadline = time.monotonic() + SECONDS
    while not bury_group(keeper):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(pidfd)
    os.close(alive)
