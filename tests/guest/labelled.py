"""The first and only program of a guest with SELinux: sockets with labels, by our code. Prints one line of JSON."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.syscalls import labels

MARK = "OUTCOME "
LABEL = "u:object_r:svirt_image_t"
_POWER_OFF = 0x4321FEDC
_PLACE, _BARE_PLACE = Path("/mnt"), Path("/media")


def mount(kind: str, target: Path) -> None:
    subprocess.run(["mount", "-n", "-t", kind, kind, str(target)], check=True)


def label_of(path: Path) -> str:
    return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()


def made() -> dict[str, object]:
    """A socket with a label, a name too long for an address among them, and what comes after it."""
    found: dict[str, object] = {"enabled": labels.is_enabled()}
    listen = socket.socket.listen

    def watched(self: Any, backlog: int) -> None:
        found["before anybody can connect"] = [label_of(path) for path in _PLACE.iterdir()]
        listen(self, backlog)

    socket.socket.listen = watched  # type: ignore[assignment, method-assign]
    for name in ("s", "s" * 150):
        path = _PLACE / name
        listener = Listener.bind(SocketFile(path, 0o600, owner=107, label=LABEL))
        found[f"{len(name)}"] = [label_of(path), path.stat().st_uid]
        listener.close()
    (_PLACE / "later").touch()
    found["a file made afterwards"] = label_of(_PLACE / "later")
    try:
        Listener.bind(SocketFile(_BARE_PLACE / "s", label=LABEL))
    except ListenError as error:
        found["where files have no labels"] = str(error)
    found["left there"] = os.listdir(_BARE_PLACE)
    return found


def main() -> None:
    mount("proc", Path("/proc"))
    mount("sysfs", Path("/sys"))
    mount("selinuxfs", Path("/sys/fs/selinux"))
    arguments = Path("/proc/cmdline").read_text().split()
    policy = next(argument for argument in arguments if argument.startswith("policy=")).removeprefix("policy=")
    descriptor = os.open("/sys/fs/selinux/load", os.O_WRONLY)
    os.write(descriptor, Path(policy).read_bytes())
    os.close(descriptor)
    mount("tmpfs", _PLACE)
    mount("ramfs", _BARE_PLACE)
    print(MARK + json.dumps(made()), flush=True)


if __name__ == "__main__":
    try:
        main()
    finally:
        ctypes.CDLL(None).reboot(_POWER_OFF)
