"""What is done with the installed units in a guest that systemd has booted: a service of that guest runs this.

Prints one line for each scene on the console, "NAME: JSON" after a mark, and powers the guest off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.service import children, is_jailed

MARK = "OUTCOME "
UNIT = "virtiofs-sandbox.service"
POLICIES = Path("/etc/virtiofs-sandbox/shares.d")
SOCKETS = Path("/run/virtiofs-sandbox")
# A machine without KVM, where one Python starts in seconds.
PATIENCE = 120.0
OWNER = 1234


def run(*command: str, environ: dict[str, str] | None = None, user: int | None = None) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, user=user)
    return {"status": done.returncode, "said": done.stdout + done.stderr}


def systemctl(*words: str) -> dict[str, Any]:
    return run("systemctl", "--no-pager", *words)


def properties(unit: str, *names: str) -> dict[str, str]:
    said = systemctl("show", unit, "--property", ",".join(names))["said"]
    return dict(line.split("=", 1) for line in said.splitlines())


def entries(unit: str, **fields: str) -> list[dict[str, Any]]:
    """Of the journal, in order: those of *unit* with these fields."""
    subprocess.run(["journalctl", "--sync"], check=True)
    matches = [f"{name}={value}" for name, value in fields.items()]
    said = run("journalctl", "--no-pager", "--output", "json", "--unit", unit, *matches)["said"]
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def until(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def policy(name: str, source: str, text: str = "") -> None:
    (POLICIES / f"{name}.toml").write_text(
        f'[share]\nsource = "{source}"\ntag = "{name}"\n[sandbox]\nminimum = "userns"\n{text}'
    )


def create(client: FrontEnd, name: bytes, mode: int = 0o644) -> None:
    client.start()
    client.init()
    client.call(Opcode.CREATE, fuse.create(name, os.O_RDWR, mode=mode))


def processes(unit: str) -> list[int]:
    """Every process of the unit, by its control group."""
    group = properties(unit, "ControlGroup")["ControlGroup"]
    found = Path("/sys/fs/cgroup" + group).rglob("cgroup.procs") if group else ()
    return [int(pid) for file in found for pid in file.read_text().split()]


def worker_status(share: str) -> dict[str, str]:
    """/proc/PID/status of the worker that has the share now."""
    for pid in processes(UNIT):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if is_jailed(pid) and share.encode() in command and not children(pid):
            return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {}


class Scenes:
    """Each is a method; they are played in this order."""

    def start(self) -> object:
        for directory in ("/srv/data/secret", "/srv/other", "/home/person/closed"):
            os.makedirs(directory)
        for directory in ("/home/person", "/home/person/closed"):
            os.chown(directory, OWNER, OWNER)
            os.chmod(directory, 0o700)
        policy("data", "/srv/data", '[limits.pids]\nmax = 50\n[paths]\nreadonly = ["nothing"]\n')
        policy("squashed", "/home/person/closed", f'[identity]\nmap = "squash"\nowner = "{OWNER}:{OWNER}"\n')
        begun = systemctl("start", UNIT)
        return {
            **begun,
            "standing": properties(UNIT, "ActiveState", "StatusText", "NRestarts"),
            "listening": entries(UNIT, VIRTIOFS_EVENT="listening"),
            "groups": sorted(path.name for path in Path("/sys/fs/cgroup/system.slice/" + UNIT).rglob("share-*")),
            "logs": run("virtiofs-sandbox", "logs", "--json"),
        }

    def a_guest_on_each_share(self) -> object:
        with (
            FrontEnd.connect(SOCKETS / "data.sock", PATIENCE) as one,
            FrontEnd.connect(SOCKETS / "squashed.sock", PATIENCE) as two,
        ):
            create(one, b"program", 0o4755)
            create(two, b"file")
            status = worker_status("data")
            served = entries(UNIT, VIRTIOFS_EVENT="client-served")
        return {
            "mode": os.stat("/srv/data/program").st_mode & 0o7777,
            "owner": os.stat("/home/person/closed/file").st_uid,
            "NoNewPrivs": status.get("NoNewPrivs"),
            "Seccomp_filters": status.get("Seccomp_filters"),
            "CapBnd": status.get("CapBnd"),
            "served": served,
            "us": os.getpid(),
        }

    def reload(self) -> object:
        with FrontEnd.connect(SOCKETS / "data.sock", PATIENCE) as client:
            create(client, b"before")
            policy("data", "/srv/data", '[limits.pids]\nmax = 50\n[paths]\nreadonly = ["nothing"]\nhide = ["secret"]\n')
            good = systemctl("reload", UNIT)
            until(lambda: entries(UNIT, VIRTIOFS_EVENT="layers-hold"))
            held = entries(UNIT, VIRTIOFS_EVENT="layers-hold")
            policy("data", "/srv/data", "[mistake]\n")
            bad = systemctl("reload", UNIT)
            client.call(Opcode.GETATTR, bytes(16), node=fuse.ROOT)
        policy("data", "/srv/data")
        again = systemctl("reload", UNIT)
        return {"good": good, "bad": bad, "again": again, "held": held, "standing": properties(UNIT, "ActiveState")}

    def a_worker_beyond_its_memory(self) -> object:
        """In its stead a process in its group, since a worker takes no more memory than it is allowed."""
        policy("data", "/srv/data", '[limits.memory]\nmax = "64MiB"\n')
        systemctl("reload", UNIT)
        (group,) = Path("/sys/fs/cgroup/system.slice/" + UNIT).rglob("share-data")
        hungry = "import sys; open(sys.argv[1], 'w').write('0'); held = [bytes([1]) * (1 << 20) for _ in range(200)]"
        run(sys.executable, "-c", hungry, str(group / "cgroup.procs"))
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        # By then systemd has heard of it.
        time.sleep(5)
        standing = properties(UNIT, "ActiveState", "NRestarts")
        with FrontEnd.connect(SOCKETS / "data.sock", PATIENCE) as client:
            create(client, b"later")
        return {"events": events, "standing": standing, "there": os.path.exists("/srv/data/later")}

    def a_supervisor_that_is_killed(self) -> object:
        before = properties(UNIT, "NRestarts", "SubState")
        os.kill(int(properties(UNIT, "MainPID")["MainPID"]), signal.SIGKILL)
        wanted = {**before, "NRestarts": str(int(before["NRestarts"]) + 1)}
        back = until(lambda: properties(UNIT, "NRestarts", "SubState") == wanted)
        with FrontEnd.connect(SOCKETS / "data.sock", PATIENCE) as client:
            create(client, b"after")
        return {"back": back, "there": os.path.exists("/srv/data/after")}

    def a_supervisor_that_hangs(self) -> object:
        directory = Path("/run/systemd/system") / f"{UNIT}.d"
        directory.mkdir()
        # As long as signs of life come it must not end, however slow the machine is.
        (directory / "watchdog.conf").write_text("[Service]\nWatchdogSec=20\n")
        systemctl("daemon-reload")
        systemctl("restart", UNIT)
        time.sleep(30)
        before = properties(UNIT, "NRestarts", "SubState")
        os.kill(int(properties(UNIT, "MainPID")["MainPID"]), signal.SIGSTOP)
        ended = until(lambda: properties(UNIT, "NRestarts")["NRestarts"] != before["NRestarts"])
        back = until(lambda: properties(UNIT, "SubState")["SubState"] == "running")
        return {"before": before, "ended": ended, "back": back, "said": run("journalctl", "-u", UNIT)["said"]}

    def stop(self) -> object:
        with FrontEnd.connect(SOCKETS / "data.sock", PATIENCE) as client:
            create(client, b"last")
            pids = processes(UNIT)
            stopped = systemctl("stop", UNIT)
        return {
            **stopped,
            "were": len(pids),
            "standing": properties(UNIT, "ActiveState", "Result"),
            "left": [pid for pid in pids if os.path.exists(f"/proc/{pid}")],
            "groups": [str(path) for path in Path("/sys/fs/cgroup").rglob("*virtiofs*")],
            "sockets": sorted(str(path) for path in SOCKETS.rglob("*.sock")),
            "last": [entry["VIRTIOFS_EVENT"] for entry in entries(UNIT) if "VIRTIOFS_EVENT" in entry][-1],
        }

    def a_share_by_its_socket(self) -> object:
        name = "virtiofs-sandbox@other"
        policy("other", "/srv/other")
        begun = systemctl("start", f"{name}.socket")
        before = properties(f"{name}.service", "ActiveState")
        with FrontEnd.connect(SOCKETS / "other.sock", PATIENCE) as client:
            create(client, b"file")
            serving = properties(f"{name}.service", "ActiveState", "StatusText")
            status = run("virtiofs-sandbox", "status")
        stopped = systemctl("stop", f"{name}.service")
        there = (SOCKETS / "other.sock").is_socket()
        with FrontEnd.connect(SOCKETS / "other.sock", PATIENCE) as client:
            create(client, b"again")
        systemctl("stop", f"{name}.socket", f"{name}.service")
        return {
            "begun": begun,
            "before": before,
            "serving": serving,
            "status": status,
            "stopped": stopped,
            "there": there,
            "files": sorted(os.listdir("/srv/other")),
            "left": (SOCKETS / "other.sock").exists(),
        }

    def a_socket_for_the_supervisor_of_all(self) -> object:
        unit = "virtiofs-sandbox@other.socket"
        directory = Path("/run/systemd/system") / f"{unit}.d"
        directory.mkdir()
        (directory / "service.conf").write_text(f"[Socket]\nService={UNIT}\n")
        systemctl("daemon-reload")
        systemctl("start", unit)
        before = properties(UNIT, "ActiveState")
        with FrontEnd.connect(SOCKETS / "other.sock", PATIENCE) as client:
            create(client, b"third")
            status = run("virtiofs-sandbox", "status")
        systemctl("stop", unit, UNIT)
        return {"before": before, "status": status, "files": sorted(os.listdir("/srv/other"))}

    def a_users_shares(self) -> object:
        home, runtime = Path("/home/person"), Path("/run/user/1234")
        share, policies = home / "shared", home / ".config/virtiofs-sandbox/shares.d"
        runtime.mkdir(parents=True)
        policies.mkdir(parents=True)
        share.mkdir()
        text = f'[share]\nsource = "{share}"\ntag = "mine"\n[sandbox]\nminimum = "userns"\n'
        (policies / "mine.toml").write_text(text)
        for path in (runtime, share, home / ".config", *(home / ".config").rglob("*")):
            os.chown(path, OWNER, OWNER)
        runtime.chmod(0o700)
        environ = {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(home), "PATH": os.environ["PATH"], "USER": "person"}
        settings = "".join(f"Environment={name}={value}\n" for name, value in environ.items())
        # A session's manager without a session: logind and its bus are not in this guest.
        Path("/run/systemd/system/manager.service").write_text(
            f"[Service]\nType=notify\nUser={OWNER}\nDelegate=yes\n{settings}ExecStart=/lib/systemd/systemd --user\n"
        )
        systemctl("daemon-reload")
        begun = systemctl("start", "manager.service")
        ask = ["systemctl", "--user", "--no-pager"]
        started = run(*ask, "start", UNIT, environ=environ, user=OWNER)
        status = run("virtiofs-sandbox", "status", environ=environ, user=OWNER)
        files: list[str] = []
        if started["status"] == 0:
            with FrontEnd.connect(runtime / "virtiofs-sandbox/mine.sock", PATIENCE) as client:
                create(client, b"file")
                files = os.listdir(share)
        reloaded = run(*ask, "reload", UNIT, environ=environ, user=OWNER)
        stopped = run(*ask, "stop", UNIT, environ=environ, user=OWNER)
        said = run("journalctl", "--no-pager", "-u", "manager.service")["said"]
        return {
            "begun": begun,
            "started": started,
            "status": status,
            "files": files,
            "reloaded": reloaded,
            "stopped": stopped,
            "said": said,
        }


def names() -> list[str]:
    return [name for name in vars(Scenes) if not name.startswith("_")]


def main() -> None:
    scenes = Scenes()
    # Those that the kernel's command line names, else all.
    words = dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)
    with open("/dev/console", "w", encoding="utf-8") as console:
        for name in words.get("scenes", ",".join(names())).split(","):
            scene: Callable[[], object] = getattr(scenes, name)
            try:
                outcome = scene()
            except Exception:  # noqa: BLE001 - the outcome of a scene, told to the test
                outcome = {
                    "failed": traceback.format_exc(),
                    "journal": run("journalctl", "--no-pager", "--lines", "60")["said"],
                }
            # In lines that a console takes; each has its mark.
            text = json.dumps(outcome)
            for start in range(0, len(text), 2000):
                console.write(f"{MARK}{name}: {text[start : start + 2000]}\n")
            console.flush()


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        os.sync()
        subprocess.run(["systemctl", "poweroff", "--force", "--force"], check=False)
