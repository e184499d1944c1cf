"""One host: a namespace with the installed copy in it, the commands run there, and what of them is left."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.guest import images, initramfs
from tests.guest.images import ROOT
from tests.guest.service import alive, children
from tests.libvirt.namespace import WRITABLE

# What Debian's packages make: the user QEMU runs as, in the group that may use /dev/kvm. And a user with a range.
QEMU_USER, KVM_GROUP, SHARER, FIRST_SUBORDINATE = 64055, 64056, 61234, 300_000
ACCOUNTS = {
    "passwd": f"libvirt-qemu:x:{QEMU_USER}:{KVM_GROUP}::/var/lib/libvirt:/usr/sbin/nologin\n"
    f"sharer:x:{SHARER}:{SHARER}::/home/sharer:/bin/sh\n",
    "group": f"libvirt-qemu:x:{QEMU_USER}:\nkvm:x:{KVM_GROUP}:libvirt-qemu\nsharer:x:{SHARER}:\n",
    "subuid": f"sharer:{FIRST_SUBORDINATE}:65536\n",
    "subgid": f"sharer:{FIRST_SUBORDINATE}:65536\n",
}
GUEST = "/srv/guest"


class HostError(Exception):
    """A command on the host failed; the message carries what it printed."""


class Host:
    """Leaving the context ends every process in it. *layers* are directories that lie over the machine's."""

    def __init__(self, work: Path, layers: Sequence[Path]) -> None:
        self.work = work
        self._layers = layers
        self._process: subprocess.Popen[str] | None = None
        self._first = 0

    def start(self) -> Self:
        """Raises MissingProgramError (no guest can be had), HostError."""
        self._make_files()
        words = [sys.executable, "-m", "tests.libvirt.namespace", str(self.work), *map(str, self._layers)]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise HostError(f"no namespace: status {self._process.wait(10)}")
        (self._first,) = children(self._process.pid)
        return self

    def path(self, inside: str) -> Path:
        """Where a file of the host, in one of the writable places, is seen from here."""
        return self.work / "files" / inside.lstrip("/")

    def command(self, *words: str, user: int = 0) -> list[str]:
        """A command line that does it on the host, as *user* in a group of the same number."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"] if user else []
        home = "/home/sharer" if user else "/root"
        environment = [f"HOME={home}", f"XDG_RUNTIME_DIR=/run/user/{user}", "PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8"]
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", "--wd=/", "--"]
        return [*enter, "env", "-i", *environment, *become, *words]

    def run(self, *words: str, user: int = 0, seconds: float = 60) -> str:
        """Runs it to its end and returns what it printed. Raises HostError, subprocess.TimeoutExpired."""
        done = self.attempt(*words, user=user, seconds=seconds)
        if done.returncode:
            raise HostError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def attempt(self, *words: str, user: int = 0, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def start_process(self, *words: str, log: Path, user: int = 0) -> subprocess.Popen[bytes]:
        """Starts it in the background, its output in *log*; the process is the one that waits for it."""
        with log.open("ab") as output:
            return subprocess.Popen(
                self.command(*words, user=user), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def processes(self) -> dict[int, str]:
        """Everybody on the host but its first process: pid as seen from here, and command line."""
        namespace = os.readlink(f"/proc/{self._first}/ns/pid")
        inside = {pid for pid in _all_pids() if _namespace_of(pid) == namespace} - {self._first}
        # A jail is a namespace below, and hangs on a process of this one.
        below = list(inside)
        for pid in below:
            below += children(pid)
        lines = {pid: _command_line(pid) for pid in below if alive(pid)}
        return {pid: line for pid, line in lines.items() if line is not None}

    def named(self, text: str) -> list[int]:
        """Pids, as seen from here, of those whose command line contains *text*."""
        return [pid for pid, line in self.processes().items() if text in line]

    def pid_of(self, number: int) -> int:
        """The pid here of the process that has *number* on the host. Raises HostError."""
        for pid in self.processes():
            if number in numbers(pid)[1:2]:
                return pid
        raise HostError(f"no process {number} on the host")

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise HostError(f"not in {seconds} s: {what}; there are: {self.processes()}")
            time.sleep(0.02)

    def mounts(self) -> list[str]:
        """The mounts there are in the namespace of its first process."""
        return Path(f"/proc/{self._first}/mountinfo").read_text().splitlines()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            if self._first:
                os.kill(self._first, signal.SIGKILL)
            self._process.kill()
            self._process.communicate(timeout=20)

    def _make_files(self) -> None:
        image = images.qemu()
        for place in WRITABLE:
            self.path(place).mkdir(parents=True)
            (self.work / "layer" / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, more in ACCOUNTS.items():
            there = Path("/etc") / name
            text = there.read_text() if there.exists() else ""
            (self.work / "layer" / "etc" / name).write_text(text + more)
        for folder in (self.path(GUEST), self.path("/home/sharer"), self.path(f"/run/user/{SHARER}")):
            folder.mkdir(parents=True)
        for folder in (self.path("/home/sharer"), self.path(f"/run/user/{SHARER}")):
            os.chown(folder, SHARER, SHARER)
            folder.chmod(0o700)
        self.path("/run/agents").mkdir()
        self.path("/run/agents").chmod(0o1777)
        # libvirt asks every QEMU it finds what it can do, for seconds: one is enough. So an overlay hides a file.
        masked = self.work / "layer" / "usr" / "bin" / "qemu-system-i386"
        masked.parent.mkdir(parents=True)
        os.mknod(masked, stat.S_IFCHR, os.makedev(0, 0))
        shutil.copyfile(image.kernel, self.path(f"{GUEST}/kernel"))
        initramfs.build(image.busybox, image.modules, self.path(f"{GUEST}/initrd"), image.files)


def numbers(pid: int) -> list[int]:
    """A process's pids, from the outermost namespace to its own; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return next(([int(word) for word in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _namespace_of(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _command_line(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
