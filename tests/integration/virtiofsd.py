"""The daemon as those who manage virtual machines start it: virtiofsd's command line, a socket that they listen on."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.guest.frontend import FrontEnd
from tests.integration.running import COMMANDS, Running

PROGRAM = COMMANDS["real"][0]
# A descriptor that is locked in the name of the process that becomes the daemon, as libvirt's pid file.
_LOCKED = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX)
os.set_inheritable(file, True)
os.write(file, b"%d" % os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
_REDIRECTED = "import os, sys; os.dup2(int(sys.argv[1]), 2); os.execv(sys.argv[2], sys.argv[2:])"


class Daemon(Running):
    """One daemon on `directory/share`, whose arguments are made of the socket's descriptor (or path) and the share."""

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        prefix: Sequence[str] = (),
        program: Path | None = None,
    ) -> None:
        self.program = PROGRAM if program is None else os.fspath(program)
        super().__init__("real", directory, *arguments, pass_fds=pass_fds, prefix=prefix)

    def command(self, kind: str, share: Path) -> list[str]:
        return [self.program, "--policy-dir", os.fspath(share.parent / "shares.d")]

    def serves(self, path: Path, work: Callable[[FrontEnd], None] = lambda _: None) -> None:
        """A guest mounts, lists and leaves."""
        with FrontEnd.connect(path) as guest:
            guest.start()
            guest.init()
            assert b"." in guest.list()
            work(guest)

    def status(self) -> int:
        """Waits for its end."""
        return self.process.wait(15)

    def warnings(self) -> list[str]:
        """What is said of options that are left out."""
        return [line.partition("warning: ")[2] for line in self.log.read_text().splitlines() if "warning: --" in line]


def listening(path: Path) -> socket.socket:
    """As whoever starts the daemon makes it."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(os.fspath(path))
    made.listen(1)
    made.set_inheritable(True)
    return made


def with_pid_file(file: Path) -> list[str]:
    """A prefix: the command after it holds *file* and the lock on it."""
    return [sys.executable, "-c", _LOCKED, os.fspath(file)]


def with_standard_error(descriptor: int) -> list[str]:
    """A prefix: the command after it logs to *descriptor*."""
    return [sys.executable, "-c", _REDIRECTED, str(descriptor)]
