"""virtiofsd's command line with real jails: as each of its callers says it, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.cgroups.hierarchies import UNIFIED, mounts
from virtiofs_sandbox.confine import capabilities
from virtiofs_sandbox.confine.capabilities import Capability

from tests.cgroups.site import Site
from tests.environments import ENVIRONMENTS, unavailable
from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.vhost import Channel, ProtocolFeature, Request
from tests.integration.running import ROOT, children, process_name
from tests.integration.virtiofsd import PROGRAM, Daemon, listening, with_pid_file, with_standard_error
from tests.unit.generated import section_holds

WORKER = "virtiofs-worker"
NO_MIGRATION = "--migration-on-error, --migration-mode"
# @ stands for the shared directory, # for the socket's descriptor or path; what is warned of stands beside it.
INHERITED = {
    "libvirt": (
        "--fd=# --shared-dir @ --cache never --sandbox namespace --xattr --thread-pool-size=8 --rlimit-nofile=4096 "
        "--log-level debug --readonly",
        [],
    ),
    "libvirt 9.0": ("--fd=# -o source=@,cache=none,sandbox=chroot,xattr,no_flock,no_posix_lock -d", []),
    "systemd-vmspawn": (
        "--shared-dir @ --xattr --fd # --no-announce-submounts --uid-map=:0:100000:65536: --gid-map=:0:100000:65536:",
        ["--no-announce-submounts"],
    ),
    "LXD": ("--fd=# --cache=never -o source=@", []),
}
MADE = {
    "KubeVirt": (
        "--socket-path=# --shared-dir=@ --sandbox=none --cache=auto --migration-on-error=guest-error "
        "--migration-mode=find-paths",
        [NO_MIGRATION],
    ),
    "KubeVirt, for a service account": (
        "--socket-path=# --shared-dir=@ --sandbox=none --cache=auto --migration-on-error=guest-error "
        "--migration-mode=find-paths --translate-uid=host:107:0:1",
        ["--translate-uid, --translate-gid", NO_MIGRATION],
    ),
    "cloud-hypervisor": ("--socket-path=# --shared-dir=@ --cache=never --thread-pool-size=4", []),
    "crosvm": ("--socket-path # --shared-dir @ --tag=data --announce-submounts", []),
}


def test_the_documents_have_the_lines_that_are_run_here() -> None:
    rows = [
        (caller, f"`virtiofs-sandbox {line.replace('@', 'DIR').replace('#', 'N' if callers is INHERITED else 'PATH')}`")
        for callers in (INHERITED, MADE)
        for caller, (line, _) in callers.items()
    ]
    section_holds(
        ROOT / "docs/compatibility.md",
        "from tests/integration/test_virtiofsd_form.py",
        "".join(f"| {caller} | {line} |\n" for caller, line in [("caller", "says"), ("---", "---"), *rows]),
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter, with a share in it; a comma in its name is written twice in an old list."""
    directory = Path(tempfile.mkdtemp(prefix="virtiofsd,"))
    directory.chmod(0o755)
    (directory / "share").mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def path(place: Path) -> Path:
    """Where libvirt would have the socket of a machine called web."""
    directory = place / "domain-7-web"
    directory.mkdir()
    return directory / "fs0-fs.sock"


def filled(line: str, place: Path, here: int | Path) -> list[str]:
    share = os.fspath(place / "share")
    return [
        word.replace("@", share.replace(",", ",,") if word.startswith("source=") else share).replace("#", str(here))
        for word in line.split()
    ]


@contextlib.contextmanager
def inherited(place: Path, path: Path, *options: str, prefix: tuple[str, ...] = ()) -> Iterator[Daemon]:
    """A daemon that got its socket, which nobody else holds by the time it serves."""
    with listening(path) as made:
        arguments = [f"--fd={made.fileno()}", f"--shared-dir={place / 'share'}", *options]
        daemon = Daemon(place, arguments, pass_fds=[made.fileno()], prefix=prefix)
    with daemon as running:
        yield running.ready()


@pytest.mark.parametrize(("line", "warned"), INHERITED.values(), ids=INHERITED)
def test_a_caller_that_listens_itself_is_served_and_the_daemon_leaves_with_the_client(
    line: str, warned: list[str], place: Path, path: Path
) -> None:
    with listening(path) as made:
        daemon = Daemon(place, filled(line, place, made.fileno()), pass_fds=[made.fileno()])
    with daemon as running:
        running.ready().serves(path)
        running.family()
        assert running.status() == 0
        running.nobody_left()
        assert [line.partition(": ")[0] for line in running.warnings()] == warned
    assert path.is_socket()
    assert not path.with_name("fs0-fs.sock.pid").exists()


@pytest.mark.parametrize(("line", "warned"), MADE.values(), ids=MADE)
def test_a_caller_that_names_a_path_is_served_and_both_files_are_gone(
    line: str, warned: list[str], place: Path
) -> None:
    path, pid_file = place / "s", place / "s.pid"
    with Daemon(place, filled(line, place, path)) as running:
        running.ready()
        assert int(pid_file.read_text()) == running.process.pid
        assert path.stat().st_mode & 0o777 == 0o600
        running.serves(path)
        assert running.status() == 0
        assert [line.partition(": ")[0] for line in running.warnings()] == warned
    assert not path.exists()
    assert not pid_file.exists()


def test_what_a_killed_daemon_left_at_its_path_is_in_nobodys_way(place: Path) -> None:
    path = place / "s"
    said = [f"--socket-path={path}", f"--shared-dir={place / 'share'}"]
    with Daemon(place, said) as running:
        running.ready()
        with Daemon(place / "share", said) as second:
            assert second.status() == 1
            assert "another process holds it" in second.log.read_text()
        running.family()
        os.kill(running.process.pid, signal.SIGKILL)
        assert running.status() == -signal.SIGKILL
        running.nobody_left()
    assert path.with_name("s.pid").exists()
    with Daemon(place, said) as running:
        running.ready().serves(path)
        assert running.status() == 0


def test_a_pid_file_that_is_another_name_of_a_file_is_not_written(place: Path) -> None:
    (place / "precious").write_text("precious")
    os.link(place / "precious", place / "s.pid")
    with Daemon(place, [f"--socket-path={place / 's'}", f"--shared-dir={place / 'share'}"]) as running:
        assert running.status() == 1
    assert (place / "precious").read_text() == "precious"


def test_called_virtiofsd_it_is_virtiofsd(place: Path) -> None:
    link, path = place / "virtiofsd", place / "s"
    link.symlink_to(PROGRAM)

    def said(*words: str) -> tuple[int, str]:
        done = subprocess.run([link, *words], capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout

    assert said() == (2, said("--help")[1])
    assert said("-h")[1].startswith("usage: virtiofsd --shared-dir DIR")
    assert said("--version")[1].startswith("virtiofs-sandbox 0.")
    with Daemon(place, filled(MADE["crosvm"][0], place, path), program=link) as running:
        running.ready().serves(path)
        assert running.status() == 0


@pytest.mark.parametrize("name", ["root", "container"])
def test_capabilities_are_told_without_privileges(name: str, place: Path) -> None:
    if reason := unavailable(name):
        pytest.skip(reason)
    command = [*ENVIRONMENTS[name].command(place), PROGRAM, "--print-capabilities"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
    assert json.loads(done.stdout) == {"type": "fs", "features": ["separate-options"]}
    assert done.stderr == ""


def test_a_tag_is_there_for_monitors_that_ask_for_it(place: Path) -> None:
    with Daemon(place, [f"--socket-path={place / 's'}", f"--shared-dir={place / 'share'}", "--tag=data"]) as running:
        running.ready()
        with FrontEnd.connect(place / "s") as guest:
            assert guest.negotiate().protocol_features & ProtocolFeature.CONFIG
            reply = guest.channel.ask(Request.GET_CONFIG, struct.pack("<III", 0, 36, 0) + bytes(36))
            assert reply[12:].rstrip(b"\0") == b"data"
        assert running.status() == 0


@pytest.mark.parametrize("said", ["--persistent", "policy"])
def test_a_persistent_daemon_serves_one_client_after_another(said: str, place: Path, path: Path) -> None:
    if said == "policy":
        policies(place, data='listen = "persistent"')
    with inherited(place, path, *([said] if said.startswith("-") else [])) as running:
        for _ in range(2):
            running.serves(path)
        assert running.stop() == 0
        running.nobody_left()


def test_a_client_beside_the_first_one_is_served_until_it_leaves_too(place: Path, path: Path) -> None:
    policies(place, data="max_clients = 2")
    with inherited(place, path) as running:
        with FrontEnd.connect(path) as other:
            other.start()
            other.init()
            running.serves(path)
            running.logged("worker ended: the client left")
            running.until(lambda: len(running.of(1, WORKER)) == 1, "bury the first one's jail")
            assert other.serves()
        assert running.status() == 0


def test_there_is_no_worker_before_there_is_a_client(place: Path, path: Path) -> None:
    with inherited(place, path) as running:
        assert [process_name(pid) for pid in children(running.process.pid)] == ["virtiofs-sandbo"]
        running.serves(path)
        assert running.status() == 0


def test_a_client_that_goes_before_a_worker_is_ready_has_been_the_client(place: Path, path: Path) -> None:
    with listening(path) as made:
        Channel.connect(path, 10).close()
        arguments = [f"--fd={made.fileno()}", f"--shared-dir={place / 'share'}"]
        daemon = Daemon(place, arguments, pass_fds=[made.fileno()])
    with daemon as running:
        assert running.status() == 0


def test_a_client_that_breaks_the_protocol_has_a_status_of_its_own(place: Path, path: Path) -> None:
    guard = (sys.executable, os.fspath(ROOT / "tests" / "guard.py"), "--work", os.fspath(place), "--")
    with inherited(place, path, prefix=guard) as running:
        channel = Channel.connect(path, 10)
        channel.send(Request.SET_OWNER, b"what?")
        assert running.status() == 4
        channel.close()


def test_a_worker_that_dies_takes_the_daemon_with_it_and_that_is_no_success(place: Path, path: Path) -> None:
    with inherited(place, path) as running, FrontEnd.connect(path) as guest:
        guest.start()
        guest.init()
        running.family()
        (keeper,) = running.of(1, WORKER)
        os.kill(keeper, signal.SIGKILL)
        assert running.status() == 1
        running.nobody_left()


def test_a_client_for_whom_no_worker_gets_ready_is_not_kept_waiting(place: Path, path: Path) -> None:
    with inherited(place, path, "--worker=/bin/true") as running:
        channel = Channel.connect(path, 10)
        assert running.status() == 1
        channel.close()
        assert "no worker gets ready" in running.log.read_text()


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--cache=sometimes"], 2, "never, auto, metadata, always are accepted"),
        (["--inode-file-handles=mandatory"], 3, "files are not referred to by handles yet"),
        (["--xattr"], 3, "--xattr would widen the policy: "),
        (["--shared-dir=/nowhere"], 1, "No such file or directory"),
        (["--fd=0"], 1, "descriptor 0 "),
    ],
)
def test_what_is_wrong_has_a_status_and_a_sentence(options: list[str], status: int, words: str, place: Path) -> None:
    policies(place, data="")
    with Daemon(place, ["--fd=99", f"--shared-dir={place / 'share'}", *options]) as running:
        assert running.status() == status
        log = running.log.read_text()
        assert words in log
        assert log.startswith("virtiofs-sandbox as virtiofsd: ")
        assert log.count("\n") == 1
        assert running.output.read_text() == ""


def test_what_is_taken_from_the_worker_it_does_not_have(place: Path, path: Path) -> None:
    with inherited(place, path, "--rlimit-nofile=600", "--modcaps=-setuid:-mknod") as running:

        def look(_: FrontEnd) -> None:
            (worker,) = running.of(2, WORKER)
            limits = Path(f"/proc/{worker}/limits").read_text()
            assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [
                ["600"] * 2
            ]
            held = int(Path(f"/proc/{worker}/status").read_text().partition("CapEff:")[2].split()[0], 16)
            assert not held & capabilities.mask(Capability.SETUID)
            assert held & capabilities.mask(Capability.SETGID)

        running.serves(path, look)
        assert running.status() == 0


def test_a_daemon_is_asked_and_told_by_its_name(place: Path, path: Path) -> None:
    policies(place, data='access = "read-only"')
    with inherited(place, path) as running, FrontEnd.connect(path) as guest:
        guest.start()
        guest.init()

        def ask(*words: str) -> str:
            command = [PROGRAM, *words, f"--control-dir={running.control}"]
            return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

        assert "data@web-fs0" in ask("status")
        policies(place, data='access = "read-only"\nlog_level = "debug"')
        assert "log_level" in ask("reload", "data@web-fs0")
        assert guest.serves()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_group_leaves_nobody(number: signal.Signals, place: Path, path: Path) -> None:
    with inherited(place, path) as running, FrontEnd.connect(path) as guest:
        guest.start()
        guest.init()
        family = running.family()
        assert len(family) == 3
        os.killpg(running.process.pid, number)
        assert running.status() == (0 if number is signal.SIGTERM else -number)
        running.nobody_left()


@contextlib.contextmanager
def machine() -> Iterator[dict[str, Path]]:
    """A group in every hierarchy of both versions, as for a virtual machine, by what /proc calls the hierarchy."""
    if os.geteuid() != 0:
        pytest.skip("makes control groups at the root of each hierarchy: needs root")
    ours = [line.split(":", 2)[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    made = {}
    for mount in mounts(Path("/proc/self/mountinfo").read_text()):
        kinds = {"cgroup2": "", "cgroup": next((one for one in ours if one and one in mount.options), None)}
        hierarchy = kinds.get(mount.kind)
        # A group of processors takes nobody before it has some.
        if hierarchy is None or hierarchy == "cpuset" or mount.root != "/":
            continue
        directory = Path(mount.point) / f"virtiofs-sandbox-tests-machine-{os.getpid()}"
        with contextlib.suppress(OSError):
            directory.mkdir()
            made[hierarchy] = directory
    try:
        yield made
    finally:
        for directory in made.values():
            deadline = time.monotonic() + 5
            while directory.exists():
                try:
                    directory.rmdir()
                except OSError:
                    assert time.monotonic() < deadline, f"somebody is left in {directory}"
                    time.sleep(0.01)


def test_workers_are_launched_in_the_groups_that_the_daemon_was_moved_to(place: Path, path: Path) -> None:
    """Whatever the daemon was moved to after its start; where the policy has a group for a limit, that one wins."""
    site = Site()
    policies(place, data="[limits.pids]\nmax = 50", defaults=f'[limits]\nparent = "{site.parent}"\n')
    try:
        with machine() as made, inherited(place, path, "--persistent") as running:
            for group in made.values():
                (group / "cgroup.procs").write_text(str(running.process.pid))
            with FrontEnd.connect(path) as guest:
                guest.start()
                guest.init()
                for pid in running.family():
                    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
                    found = {hierarchy: where for _, hierarchy, where in (line.split(":", 2) for line in lines)}
                    wanted = {hierarchy: f"/{group.name}" for hierarchy, group in made.items()}
                    if process_name(pid) == WORKER:
                        limited = "" if site.version("pids") == UNIFIED else "pids"
                        wanted[limited] = f"{site.parent}/virtiofs-sandbox/share-data%40web-fs0"
                    assert wanted.items() <= found.items()
            assert running.stop() == 0
            running.nobody_left()
            assert "takes no worker" not in running.log.read_text()
    finally:
        site.close()


def test_a_group_that_takes_no_worker_of_a_users_is_warned_of(place: Path, path: Path) -> None:
    if reason := unavailable("user"):
        pytest.skip(reason)
    prefix = tuple(ENVIRONMENTS["user"].command(place))
    with machine() as made, inherited(place, path, "--persistent", prefix=prefix) as running:
        for group in made.values():
            (group / "cgroup.procs").write_text(str(running.process.pid))
        running.serves(path)
        for group in made.values():
            running.logged(f"the control group {group}, where the supervisor was moved to, takes no worker: ")
        assert running.stop() == 0
        running.nobody_left()


def test_a_pid_file_that_is_passed_on_stays_locked_and_no_worker_has_it(place: Path, path: Path) -> None:
    file = place / "pid"
    with inherited(place, path, prefix=tuple(with_pid_file(file))) as running:
        with FrontEnd.connect(path) as guest, file.open("r+b") as ours:
            guest.start()
            guest.init()
            with pytest.raises(BlockingIOError):
                fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert int(file.read_text()) == running.process.pid
            for pid in running.family():
                held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
                assert os.fspath(file) not in held
        assert running.status() == 0
        with file.open("r+b") as ours:
            fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_log_that_nobody_reads_any_more_ends_nothing(place: Path, path: Path) -> None:
    reading, writing = os.pipe()
    with listening(path) as made:
        arguments = [f"--fd={made.fileno()}", f"--shared-dir={place / 'share'}", "--log-level=debug"]
        prefix = with_standard_error(writing)
        daemon = Daemon(place, arguments, pass_fds=[made.fileno(), writing], prefix=prefix)
    os.close(writing)
    os.close(reading)
    with daemon as running:
        running.ready().serves(path)
        assert running.status() == 0


def test_several_machines_use_one_policy_at_once_and_each_daemon_has_a_name(place: Path) -> None:
    policies(place, data='vms = ["web*"]')
    with contextlib.ExitStack() as stack:
        daemons = []
        for number in range(3):
            directory = place / f"domain-{number}-web{number}"
            directory.mkdir()
            path = directory / "fs1-fs.sock"
            work = place / f"log{number}"
            (work / "share").parent.mkdir()
            with listening(path) as made:
                arguments = [
                    f"--fd={made.fileno()}",
                    f"--shared-dir={place / 'share'}",
                    f"--policy-dir={place / 'shares.d'}",
                    f"--control-dir={place / 'control'}",
                ]
                daemon = stack.enter_context(Daemon(work, arguments, pass_fds=[made.fileno()]))
            daemons.append((daemon.ready(), path))
        names = {f"data@web{number}-fs1.sock" for number in range(3)}
        assert set(os.listdir(place / "control")) == names
        for daemon, path in daemons:
            daemon.serves(path)
            assert daemon.status() == 0
            assert f", policy: {place}/shares.d/data.toml" in daemon.output.read_text()
    assert os.listdir(place / "control") == []


@pytest.mark.parametrize("machine", ["db", ""])
def test_a_directory_of_another_machines_policy_is_not_shared(machine: str, place: Path) -> None:
    policies(place, data='vms = ["web*"]')
    directory = place / (f"domain-1-{machine}" if machine else "elsewhere")
    directory.mkdir()
    with listening(directory / "fs0-fs.sock") as made:
        arguments = [f"--fd={made.fileno()}", f"--shared-dir={place / 'share'}"]
        daemon = Daemon(place, arguments, pass_fds=[made.fileno()])
    with daemon as running:
        assert running.status() == 3
        assert "share.vms: " in running.log.read_text()


def test_a_users_session_has_the_ids_that_libvirt_maps(place: Path, path: Path) -> None:
    if reason := unavailable("user-with-range"):
        pytest.skip(reason)
    environment = ENVIRONMENTS["user-with-range"]
    own = environment.uid
    maps = [f"--{kind}-map=:0:{own}:1:" for kind in ("uid", "gid")]
    maps += [f"--{kind}-map=:1:300000:65536:" for kind in ("uid", "gid")]
    prefix = tuple(environment.command(place))
    with inherited(place, path, *maps, prefix=prefix) as running:

        def create(guest: FrontEnd) -> None:
            for uid in (0, 5):
                guest.call(Opcode.MKDIR, fuse.mkdir(f"of{uid}".encode()), uid=uid)

        running.serves(path, create)
        assert running.status() == 0
        assert "(jail: userns, " in running.output.read_text()
        assert running.warnings() == []
    share = place / "share"
    assert [(share / name).stat().st_uid for name in ("of0", "of5")] == [own, 300004]


def test_kubevirts_container_is_served_by_the_jail_that_can_be_had_there(place: Path) -> None:
    if reason := unavailable("container"):
        pytest.skip(reason)
    line, warned = MADE["KubeVirt"]
    path = place / "s"
    with Daemon(place, filled(line, place, path), prefix=ENVIRONMENTS["container"].command(place)) as running:
        running.ready().serves(path)
        assert running.status() == 0
        assert "(jail: bare, " in running.output.read_text()
        assert [line.partition(": ")[0] for line in running.warnings()] == warned


def policies(place: Path, *, data: str, defaults: str = "") -> None:
    """The policy data.toml about the share, with more lines in its first table, and the site's defaults."""
    (place / "shares.d").mkdir(exist_ok=True)
    (place / "defaults.toml").write_text(defaults)
    (place / "shares.d/data.toml").write_text(f'[share]\nsource = "{place}/share"\ntag = "data"\n{data}\n')
