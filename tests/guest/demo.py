"""make demo: a real guest works on a shared directory through a jailed worker; a second one follows.

Lives beside the guest harness, which it is made of, and which is no part of the installed package. Ends by itself;
one line per step says what was done and what that shows. Exit status 1 and the ends of the logs on failure.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.guest.agent import GuestError
from tests.guest.images import MissingProgramError
from tests.guest.kernel_view import KernelView
from tests.guest.machine import Machine
from tests.guest.qemu import Qemu
from tests.guest.service import TAG, Service, ServiceError
from tests.guest.uml import UserModeLinux

MOUNT = f"mount -t virtiofs {TAG} /mnt"
HELLO = "hello from the host\n"
LINE = 118


class UnexpectedError(Exception):
    """A step did something else than it should."""


class Steps:
    """Prints the steps as they are done."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._number = 0

    def done(self, what: str, proof: str) -> None:
        self._number += 1
        print(f"{self._number:2}. [{time.monotonic() - self._start:4.1f} s] {what}: {proof}", flush=True)

    @staticmethod
    def detail(label: str, words: Iterable[str]) -> None:
        line = f"      {label:<14}"
        for word in words:
            if len(line) + len(word) > LINE:
                print(line)
                line = " " * 20
            line += f" {word}"
        print(line, flush=True)


def main() -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="virtiofs-demo-") as folder:
        work = Path(folder)
        service = Service(work, guarded=False)
        try:
            with service:
                show(Steps(), service)
        except (GuestError, ServiceError, UnexpectedError, MissingProgramError, OSError) as error:
            explain(error, service)
            return 1
    print(
        "Done. Try it on a directory of your own: .venv/bin/virtiofs-sandbox run DIR --socket /tmp/fs.sock --tag share"
    )
    return 0


def show(steps: Steps, service: Service) -> None:
    service.share.mkdir()
    (service.share / "hello").write_text(HELLO)
    service.start()
    steps.done(
        "virtiofs-sandbox run", f"the supervisor (pid {service.supervisor}) accepts connections on {service.socket}"
    )
    with new_guest(service, "first") as guest:
        guest.boot()
        steps.done(
            f"a {guest.kind} guest booted", f"Linux {guest.release}, a kernel of its own, connected as the monitor"
        )
        work_in(guest, service, steps)
        show_jail(service, steps)
        before = service.wait_worker().workers
        guest.power_off()
        service.wait(lambda: set(before).isdisjoint(service.processes().workers), "end the first guest's worker")
        steps.done("the guest powered off", f"its worker (pid {before[0]}) is gone; the supervisor goes on")
    with new_guest(service, "second") as guest:
        guest.boot()
        text = guest.check(f"{MOUNT}; cat /mnt/renamed")
        expect(text == "written in the guest\n", f"the second guest read {text!r}")
        worker = service.wait_worker().workers[0]
        steps.done("a second guest booted and read the first one's file", f"same supervisor, new worker (pid {worker})")
        guest.power_off()
    status = service.stop()
    expect(status == 0 and not service.socket.exists(), f"status {status} and {service.socket} at the end")
    steps.done("SIGTERM to the supervisor", "it ended with status 0 and took its socket along")


def work_in(guest: Machine, service: Service, steps: Steps) -> None:
    text = guest.check(f"{MOUNT}; cat /mnt/hello")
    expect(text == HELLO, f"the guest read {text!r}")
    steps.done("the guest mounted the share and read a file", f"it says {text.strip()!r}")
    guest.check("echo written in the guest >/mnt/draft; mkdir /mnt/folder")
    guest.check("dd if=/dev/urandom of=/mnt/folder/data bs=64k count=64")
    guest.check("mv /mnt/draft /mnt/renamed; sync")
    listing = guest.check("cd /mnt; find . | sort").split()
    steps.done("the guest wrote, renamed and listed", " ".join(listing))
    on_host = sorted([".", *(f"./{path.relative_to(service.share)}" for path in service.share.rglob("*"))])
    expect(on_host == listing, f"the host has {on_host}")
    size = (service.share / "folder" / "data").stat().st_size
    same = (service.share / "renamed").read_text() == "written in the guest\n"
    expect(same and size == 64 << 16, f"the host's copies differ ({size} bytes of data)")
    steps.done("the host looked at the same directory", f"same names, same text, {size} bytes of data arrived")


def show_jail(service: Service, steps: Steps) -> None:
    processes = service.wait_worker()
    outside, inside = KernelView.of(processes.supervisor), KernelView.of(processes.workers[0])
    steps.done("the kernel was asked about the worker", f"pid {inside.pid}, keeper {processes.keepers[0]}; /proc says:")
    steps.detail("namespaces", [f"own: {' '.join(inside.apart_from(outside))};", *shared(inside, outside)])
    steps.detail("capabilities", sorted(inside.capabilities["CapEff"]) or ["none"])
    steps.detail("bounding set", sorted(inside.capabilities["CapBnd"]) or ["empty"])
    steps.detail(
        "seccomp",
        [f"mode {inside.seccomp}, {inside.seccomp_filters} program(s);", f"NoNewPrivs {int(inside.no_new_privs)}"],
    )
    steps.detail("Landlock", ["on, but the kernel shows it nowhere: make test asks it by trying (tests/escape)"])
    steps.detail("root", [" ".join(inside.root) or "an empty directory"])
    counted = collections.Counter(inside.descriptors.values())
    steps.detail("descriptors", [f"{kind} ({count})" for kind, count in sorted(counted.items())])
    expect(inside.seccomp == "filter" and inside.no_new_privs, "the worker runs without its filter")


def shared(inside: KernelView, outside: KernelView) -> list[str]:
    names = [name for name in inside.namespaces if name not in inside.apart_from(outside)]
    return ["shared with the supervisor:", *names] if names else ["shared with the supervisor: none"]


def new_guest(service: Service, name: str) -> Machine:
    """user-mode-linux, since it boots in a second; else QEMU."""
    work = service.work / name
    try:
        return UserModeLinux(work, service.socket)
    except MissingProgramError:
        return Qemu(work, service.socket)


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise UnexpectedError(otherwise)


def explain(error: Exception, service: Service) -> None:
    print(f"\nThe demo failed: {error}", file=sys.stderr)
    if service.log_path.exists() and not isinstance(error, ServiceError):
        print("The supervisor's last lines:", *service.log.splitlines()[-20:], sep="\n    ", file=sys.stderr)
    print(
        "What to try: `make build guests` for what is missing; `dmesg | tail` for what the kernel refused; to see a\n"
        "launch alone, `.venv/bin/virtiofs-sandbox run /tmp --socket /tmp/fs.sock --tag share --log-level debug`.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
