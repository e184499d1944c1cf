"""A directory of policies and the `virtiofs-sandbox serve` that goes by it, with all that it leaves on the machine."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from virtiofs_sandbox.cli.asking import ask
from virtiofs_sandbox.ipc.requests import Listing, ListShares, Request
from virtiofs_sandbox.policies.places import serve_socket

from tests.guest.images import ROOT
from tests.guest.service import ENDS_WITH_TEST, PROGRAM, ServiceError, alive, children, is_jailed
from tests.soak.groups import Groups

# The worker's descriptor of the share (ipc/README.md): by it a jail tells whose it is.
SHARE_DESCRIPTOR = 7
LOG_TAIL = 6000
_AFTER_AN_ANSWER = 0.5
R = TypeVar("R")


@dataclass(frozen=True)
class Policy:
    """What a test may say in one policy file."""

    readonly: bool = False
    several: bool = False
    cache: str = "auto"
    log_level: str = "info"
    hide: tuple[str, ...] = ()
    read: str | None = None
    control: str = ""
    socket: str = "fs.sock"

    def text(self, source: Path, sockets: Path, name: str) -> str:
        hide = ", ".join(f'"{pattern}"' for pattern in self.hide)
        lines = [
            "[share]",
            f'source = "{source}"',
            f'tag = "{name}"',
            f'socket = "{sockets / name}.{self.socket}"',
            f'access = "{"read-only" if self.readonly else "read-write"}"',
            f'log_level = "{self.log_level}"',
            f"max_clients = {2 if self.several else 1}",
            "[cache]",
            f'mode = "{self.cache}"',
            "[paths]",
            f"hide = [{hide}]",
            *(["[limits.requests]", f'read = "{self.read}"'] if self.read else []),
            self.control,
        ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Inventory:
    """What there is of a supervisor at one moment, in the numbers that must come back."""

    processes: Counter[str]
    descriptors: Counter[str]
    mounts: int
    files: frozenset[Path]
    groups: frozenset[Path]

    def beyond(self, before: Inventory) -> list[str]:
        """In words, all that is other than *before*."""
        found = []
        for what, now, then in (
            ("processes", self.processes, before.processes),
            ("descriptors", self.descriptors, before.descriptors),
        ):
            if now != then:
                found.append(f"{what}: {dict(now - then)} too many, {dict(then - now)} too few")
        if self.mounts != before.mounts:
            found.append(f"mounts: {self.mounts}, not {before.mounts}")
        for what, names, known in (("files", self.files, before.files), ("groups", self.groups, before.groups)):
            if names != known:
                found.append(f"{what}: {sorted(map(str, names ^ known))}")
        return found


@dataclass
class Site:
    """All is below *work*, but for the control groups in *allowed*; *scraped*: with metrics on a socket."""

    work: Path
    allowed: Groups
    scraped: bool = False
    _process: subprocess.Popen[bytes] | None = None
    _shares: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for directory in (self.policies, self.sockets, self.control, self.temporary, self.work / "shares"):
            directory.mkdir(mode=0o755, parents=True)
        metrics = f'[site]\nmetrics = "{self.metrics}"\n' if self.scraped else ""
        (self.work / "defaults.toml").write_text(self.allowed.defaults + metrics)

    @property
    def policies(self) -> Path:
        return self.work / "shares.d"

    @property
    def sockets(self) -> Path:
        return self.work / "s"

    @property
    def control(self) -> Path:
        return self.work / "control"

    @property
    def temporary(self) -> Path:
        return self.work / "tmp"

    @property
    def metrics(self) -> Path:
        return self.sockets / "metrics"

    @property
    def log_path(self) -> Path:
        return self.work / "log"

    def source(self, name: str) -> Path:
        return self.work / "shares" / name

    def add(self, name: str) -> Path:
        """Makes the directory of a share, which says whose it is."""
        source = self.source(name)
        source.mkdir()
        (source / "who").write_text(name)
        (source / "secret").write_text(name)
        self._shares[source.stat().st_ino] = name
        return source

    def write(self, name: str, policy: Policy | str | None) -> None:
        """Puts a policy in place, at once and whole; None: takes it away; text: whatever that says."""
        file = self.policies / f"{name}.toml"
        if policy is None:
            file.unlink()
            return
        text = policy if isinstance(policy, str) else policy.text(self.source(name), self.sockets, name)
        fresh = self.policies / f".{name}.new"
        fresh.write_text(text)
        fresh.chmod(0o644)
        os.replace(fresh, file)

    # The supervisor.

    def start(self, seconds: float = 120) -> float:
        """Starts it, waits until it answers with every share tried, and returns how long that took in seconds."""
        begun, before = time.monotonic(), self.log.count("share(s) of ")
        command = ["serve", "--policy-dir", str(self.policies), "--control-dir", str(self.control)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*ENDS_WITH_TEST, str(PROGRAM), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.temporary)},
            )
        self.wait(lambda: self.log.count("share(s) of ") > before, "come into service", seconds)
        return time.monotonic() - begun

    def stop(self, seconds: float = 60) -> float:
        """SIGTERM, and how long the end took. Raises ServiceError for any status but 0."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self.failed("stop") from error
        if status != 0:
            raise self.failed("stop well")
        return time.monotonic() - begun

    def kill(self) -> None:
        """SIGKILL, and waits until its jails are gone with it."""
        family = self.family()
        self.process.kill()
        self.process.wait(10)
        deadline = time.monotonic() + 20
        while left := [pid for pid in family if alive(pid)]:
            if time.monotonic() > deadline:
                raise ServiceError(f"jails outlive their supervisor: {left}")
            time.sleep(0.01)

    def forget_socket(self, name: str) -> None:
        """Removes what a killed supervisor left of a share whose policy says no more where that was."""
        for file in self.sockets.glob(f"{name}.*"):
            file.unlink()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServiceError("the supervisor was not started")
        return self._process

    @property
    def supervisor(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def ask(self, request: Request, kind: type[R]) -> R:
        """Raises RefusedError, NotAnsweredError, NotRunningError."""
        return ask(serve_socket(self.control), request, kind, 60)

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise self.failed(what)
            time.sleep(0.02)

    def failed(self, what: str) -> ServiceError:
        status = self.process.poll()
        state = "runs" if status is None else f"ended with status {status}"
        return ServiceError(f"the supervisor did not {what}; it {state}; its log ends:\n{self.log[-LOG_TAIL:]}")

    # Who and what is there.

    def jails(self) -> list[tuple[int, tuple[int, ...]]]:
        """Of each jail the keeper and its workers."""
        keepers = [pid for pid in children(self.supervisor) if is_jailed(pid)]
        return [(keeper, tuple(children(keeper))) for keeper in keepers]

    def zygotes(self) -> list[int]:
        return [pid for pid in children(self.supervisor) if not is_jailed(pid) and alive(pid)]

    def family(self) -> list[int]:
        return [pid for keeper, workers in self.jails() for pid in (keeper, *workers)] + self.zygotes()

    def share_of(self, keeper: int) -> str | None:
        """Whose jail it is; None for one that is not complete, or going."""
        try:
            return self._shares.get(os.stat(f"/proc/{keeper}/fd/{SHARE_DESCRIPTOR}").st_ino)
        except OSError:
            return None

    def standing(self) -> dict[str, str]:
        """The state of every share, by name."""
        return {one.share: one.state for one in self.ask(ListShares(), Listing).shares}

    def inventory(self) -> Inventory:
        jails = self.jails()
        roles = Counter(
            supervisor=1,
            zygote=len(self.zygotes()),
            keeper=len(jails),
            worker=sum(len(workers) for _, workers in jails),
            zombie=sum(not alive(pid) for pid in children(self.supervisor)),
        )
        return Inventory(
            processes=roles,
            descriptors=descriptors(self.supervisor),
            mounts=len(Path(f"/proc/{self.supervisor}/mountinfo").read_text().splitlines()),
            files=self.files(),
            groups=self.groups(),
        )

    def files(self) -> frozenset[Path]:
        """What the supervisor may have made: sockets, locks, temporary files."""
        places = (self.sockets, self.control, self.temporary, self.policies)
        return frozenset(file for place in places for file in place.rglob("*"))

    def groups(self) -> frozenset[Path]:
        return frozenset(self.allowed.there())

    def settled(self, warm: int, seconds: float = 90) -> Inventory:
        """Waits until there are *warm* jails, all ready, and nothing is on its way; what there is then."""

        def at_rest() -> bool:
            jails = self.jails()
            complete = all(len(workers) == 1 for _, workers in jails)
            states = Counter(self.standing().values())
            return len(jails) == warm == states["warm"] and complete and not states["warming"]

        self.wait(at_rest, f"come to rest with {warm} warm workers", seconds)
        # The last question's connection ends after its answer.
        time.sleep(_AFTER_AN_ANSWER)
        return self.inventory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ServiceError):
                self.stop()
            if self._process.poll() is None:
                self.kill()


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors by what they are, numbers left out."""
    found: Counter[str] = Counter()
    directory = Path(f"/proc/{pid}/fd")
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r"\d+", "N", os.readlink(directory / name))] += 1
    return found
