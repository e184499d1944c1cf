"""The slim process that forks jails, as its owner sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import Self

import prctl
from virtiofs_sandbox.launcher.errors import LaunchError


class Zygote:
    """Owner of one zygote process and of the socket to it.

    A zygote that died is replaced: close() the old one, start() another. Running jails do not notice.
    """

    def __init__(self, pid: int, peer: socket.socket) -> None:
        self.pid = pid
        self.socket = peer

    @classmethod
    def start(cls) -> Self:
        """Forks the zygote and makes the calling process a child subreaper, so that keepers become its children.

        To be called before the event loop starts and before any thread, listener or large import. A replacement may be
        started from a running loop, since the child never returns to it, but never beside a second thread, whose locks
        would stay taken in the child. Raises LaunchError.
        """
        if threading.active_count() != 1:
            raise LaunchError("zygote", "fork", 0, "start it before the first thread")
        prctl.set_child_subreaper(1)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise LaunchError("zygote", "fork", error.errno or 0, "raise the limit on processes or memory") from error
        if pid == 0:
            try:
                # Imported on this side of the fork: only the zygote needs it.
                from virtiofs_sandbox.launcher import forking  # noqa: PLC0415

                forking.serve(theirs)
            finally:
                os._exit(1)
        theirs.close()
        # A group of its own, which keepers leave only when a launch is known to have worked: so close() can find what
        # a launch left behind that was cut off in the middle.
        os.setpgid(pid, pid)
        ours.setblocking(False)
        return cls(pid, ours)

    def fileno(self) -> int:
        """The supervisor's end of the socket; between launches it turns readable only when the zygote is gone."""
        return self.socket.fileno()

    def kill(self) -> None:
        """Ends the zygote and launches that got no answer yet, without waiting for it; close() reaps.

        What a dead zygote was building keeps its socket open until then, so that nobody else sees its end.
        """
        os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ends the zygote, and with it launches that got no answer yet, and reaps them. Jails go on."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        self.kill()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, self.pid, os.WEXITED)
