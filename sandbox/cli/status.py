"""Exit statuses of every command."""

from __future__ import annotations

import enum


class Status(enum.IntEnum):
    """USAGE is argparse's own."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    WIDENS = 3
    PROTOCOL = 4


TABLE = {
    Status.DONE: "done, or a clean stop",
    Status.FAILED: "failed: not started, or not stopped cleanly",
    Status.USAGE: "wrong usage",
    Status.WIDENS: "an argument asks for more than a policy allows",
    Status.PROTOCOL: "the client broke the protocol (virtiofsd's command line alone)",
}
EPILOG = "exit status: " + "; ".join(f"{status.value} {meaning}" for status, meaning in TABLE.items())
