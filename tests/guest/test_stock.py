"""A stock virtiofsd in the jail: it serves guests as it does by itself, and gets no further when it is led astray."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests import environments
from tests.guest import fuse
from tests.guest.conftest import new_machine
from tests.guest.frontend import FrontEnd, FuseError
from tests.guest.fuse import Opcode
from tests.guest.kernel_view import KernelView
from tests.guest.policed import Policed
from tests.guest.qemu import Qemu
from tests.guest.service import PROGRAM as COMMAND
from tests.guest.service import TAG, ServiceError, alive
from tests.guest.stock import PROGRAM, Stock

MOUNT = f"mount -t virtiofs {TAG} /mnt"
# Of everything that a guest does with files, something.
WORK = """set -e; cd /mnt; mkdir folder; echo one >file; mv file folder; cd folder; cat file
printf 0123456789 >data; printf abc >>data; truncate -s 4 data; truncate -s 8 data; : >data
echo two >a; ln a b; ln -s link-target c; mv a a2; mv a2 b2; cat b; readlink c; mkfifo fifo; mknod plain p
echo x >owned; chmod 4751 owned; chown 1234:5678 owned; chmod 640 owned; printf changed >>owned; truncate -s 8 owned
touch -d '2001-02-03 04:05:06' owned c; stat -f . >/dev/null
mkdir -p deep/er/est; echo z >deep/er/est/f; exec 5<deep/er/est/f; rm -r deep; cat <&5 >/dev/null; exec 5<&-
i=0; while [ $i -lt 300 ]; do echo $i >n$i; i=$((i+1)); done; ls -la >/dev/null; rm n*
dd if=/dev/zero of=big bs=1M count=5 conv=fsync 2>/dev/null; fallocate -l 6000000 big
cp /bin/busybox busybox; ./busybox true
sync; echo 3 >/proc/sys/vm/drop_caches; ./busybox expr $(head -c 5000 big | wc -c); rm busybox big; sync"""
WORKER = COMMAND.parent / "virtiofs-worker"
WORK_SAYS = "one\ntwo\nlink-target\n5000\n"
BASE = {"chown", "dac_override", "fowner", "fsetid", "setgid", "setuid"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root maps all ids, and looks into a jail")


@contextlib.contextmanager
def connected(service: Stock) -> Iterator[FrontEnd]:
    with FrontEnd.connect(service.socket) as client:
        client.start()
        client.init()
        yield client


def logged(service: Stock, text: str, times: int = 1) -> bool:
    return service.log.count(text) >= times


def accepts(service: Stock) -> bool:
    """Whether there is one daemon, and it waits for its client."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        (pid,) = service.processes().workers
        return Path(f"/proc/{pid}/syscall").read_text().startswith("288 ")
    return False


def mkdir(name: bytes) -> bytes:
    return struct.pack("<II", 0o755, 0) + name + b"\0"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    with Stock(tmp_path_factory.mktemp("stock"), "xattr = true\n") as service:
        yield service.start()


def test_a_guest_works_reboots_and_quits_and_the_next_one_finds_its_files(tmp_path: Path) -> None:
    with Stock(tmp_path, "xattr = true\n") as service:
        service.start()
        with new_machine("qemu", tmp_path / "first", service.socket) as guest:
            assert isinstance(guest, Qemu)
            guest.boot()
            served = service.wait_worker().workers
            assert guest.check(f"{MOUNT}; {WORK}") == WORK_SAYS
            guest.reset()
            assert guest.check(f"{MOUNT}; cat /mnt/folder/file") == "one\n"
            assert service.processes().workers == served
            guest.quit()
        # Whatever the guest asked for: nothing that the daemon does for it is missing from the list of its calls.
        assert "seccomp" not in service.log
        with new_machine("qemu", tmp_path / "second", service.socket) as guest:
            assert guest.boot().check(f"{MOUNT}; cat /mnt/folder/file") == "one\n"
            os.kill(service.wait_worker().workers[0], signal.SIGKILL)
        with connected(service) as client:
            assert client.serves()
        assert "killed by signal 9 (SIGKILL)" in service.log
        status = (service.share / "folder/owned").stat()
        assert (status.st_mode & 0o7777, status.st_size) == (0o640, 8)


def test_threads_of_a_pool_find_every_call_they_make_on_the_list(tmp_path: Path) -> None:
    with Stock(tmp_path, "xattr = true\n", "--thread-pool-size=4", "--killpriv-v2", "--allow-mmap") as service:
        service.start()
        with new_machine("qemu", tmp_path / "guest", service.socket) as guest:
            assert guest.boot().check(f"{MOUNT}; {WORK}") == WORK_SAYS
        assert "seccomp" not in service.log


def test_a_daemon_serves_one_client_and_the_next_has_one_of_its_own(stock: Stock) -> None:
    seen = set()
    for _ in range(20):
        with connected(stock) as client:
            seen |= set(stock.processes().workers)
            assert client.serves()
    assert len(seen) >= 20
    stock.wait(lambda: len(stock.processes().workers) == 1, "be left with the daemon that waits")


@needs_root
def test_the_kernel_says_that_it_is_jailed_as_our_own_worker_is(stock: Stock) -> None:
    with connected(stock):
        (pid,) = stock.processes().workers
        view = KernelView.of(pid)
        assert len(view.apart_from(KernelView.of(stock.supervisor))) == 7
        assert view.capabilities["CapEff"] == view.capabilities["CapPrm"] == BASE | {"setfcap"}
        assert not view.capabilities["CapBnd"]
        assert view.no_new_privs
        # Ours for accept, clone3 and the rest, and its own.
        assert (view.seccomp, view.seccomp_filters) == ("filter", 4)
        assert view.root == ("hidden-directory", "hidden-file", "lib", "proc", "program", "share")
        assert sorted(os.listdir(f"/proc/{pid}/root/proc")) == ["self", "sys"]
        assert {what for number, what in view.descriptors.items() if number > 2} == {
            "socket",
            "eventfd",
            "eventpoll",
            "directory of procfs",
            "directory of the share",
            "memfd:guest-memory",
        }


@needs_root
def test_before_it_has_a_client_it_holds_its_log_and_the_socket_to_accept_on_and_nothing_else_of_ours(
    stock: Stock,
) -> None:
    stock.wait(partial(accepts, stock), "have a daemon that waits in accept(2)")
    (pid,) = stock.processes().workers
    found = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    assert found["2"].startswith("pipe:")
    assert found["3"].startswith("socket:")
    assert [link for link in found.values() if link.startswith(("pipe:", "socket:"))] == [found["2"], found["3"]]


@pytest.mark.parametrize("name", [b"../escaped", b"../../escaped", b"../lib/escaped", b"../share/../../escaped"])
def test_a_name_that_climbs_out_of_the_share_ends_in_the_jails_read_only_root(stock: Stock, name: bytes) -> None:
    # virtiofsd judges no names (1.13 and 1.14): without a jail this makes a directory beside the share.
    with connected(stock) as client:
        with pytest.raises(FuseError) as refused:
            client.call(Opcode.MKDIR, mkdir(name))
        assert refused.value.errno in (errno.EROFS, errno.ENOENT)
        for victim in (b"../program", b"../lib/libc.so.6", b"../hidden-file"):
            with pytest.raises(FuseError) as refused:
                client.call(Opcode.UNLINK, victim + b"\0")
            assert refused.value.errno in (errno.EROFS, errno.EBUSY)
    assert not list(stock.work.glob("**/escaped"))


def test_a_link_that_leads_out_of_the_share_is_followed_by_nobody(stock: Stock) -> None:
    (stock.share / "out").unlink(missing_ok=True)
    (stock.share / "out").symlink_to(stock.file)
    with connected(stock) as client:
        node = fuse.Entry.parse(client.call(Opcode.LOOKUP, b"out\0")).node
        with pytest.raises(FuseError):
            client.call(Opcode.OPEN, struct.pack("<II", os.O_RDONLY, 0), node=node)


@needs_root
def test_files_belong_to_the_calling_users(stock: Stock) -> None:
    with connected(stock) as client:
        client.call(Opcode.MKDIR, mkdir(b"of-a-user"), uid=4711)
    status = (stock.share / "of-a-user").stat()
    assert (status.st_uid, status.st_gid) == (4711, 4711)


def test_what_a_policy_says_becomes_its_options(tmp_path: Path) -> None:
    policy = 'access = "read-only"\nlog_level = "error"\n[cache]\nmode = "always"\n[identity]\nmap = "squash"\n'
    with Stock(tmp_path, policy, "--thread-pool-size=2", "--no-readdirplus") as service:
        service.start()
        with connected(service) as client:
            assert client.serves()
            with pytest.raises(FuseError) as refused:
                client.call(Opcode.MKDIR, mkdir(b"folder"))
            assert refused.value.errno == errno.EROFS
            (pid,) = service.processes().workers
            said = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert {
        b"--readonly",
        b"--cache=always",
        b"--log-level=error",
        b"--thread-pool-size=2",
        b"--no-readdirplus",
        b"--sandbox=none",
        b"--inode-file-handles=never",
    } <= set(said)


def test_with_one_owner_everything_a_guest_makes_belongs_to_it(tmp_path: Path) -> None:
    with Stock(tmp_path, '[identity]\nmap = "squash"\n') as service:
        service.start()
        with connected(service) as client:
            for uid in (0, 1000, 0x7FFFFFFF):
                client.call(Opcode.MKDIR, mkdir(b"of-%d" % uid), uid=uid)
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in service.share.iterdir()}
    assert owners == {(os.geteuid(), os.getegid())}


@needs_root
@pytest.mark.parametrize(
    ("name", "policy", "owners"),
    [
        ("user", "", {65534}),
        ("user-with-range", '[identity]\nmap = "range"\n', {61234, 300_999}),
        ("root", '[identity]\nmap = "range"\nrange = { first = 500000, count = 65536 }\n', {500_000, 501_000}),
        ("root", '[identity]\nmap = "squash"\nowner = "1234:5678"\n', {1234}),
    ],
    ids=["a user", "a user with a range", "a range of root's", "another owner"],
)
def test_whoever_runs_it_files_belong_to_whom_the_policy_says(
    reachable: Path, name: str, policy: str, owners: set[int]
) -> None:
    environment = environments.ENVIRONMENTS[name]
    with Stock(reachable, policy, prefix=environment.command(reachable) if environment.uid else ()) as service:
        service.share.mkdir()
        os.chown(service.share, *2 * (min(owners),))
        service.start()
        with connected(service) as client:
            for uid in (0, 1000):
                client.call(Opcode.MKDIR, mkdir(b"of-%d" % uid), uid=uid)
            if "range" in policy:
                with pytest.raises(FuseError) as refused:
                    client.call(Opcode.MKDIR, mkdir(b"of-nobody"), uid=70_000)
                assert refused.value.errno == errno.EINVAL
        assert {path.stat().st_uid for path in service.share.iterdir()} == owners
        assert f"jail: {environment.tier}" in service.log


def test_a_tree_of_directories_is_one_share_of_it_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    tree = f'tree = {{ one = "{tmp_path}/one", two = {{ source = "{tmp_path}/two", access = "read-only" }} }}\n'
    with Stock(tmp_path / "work", tree) as service:
        service.start()
        with connected(service) as client:
            two = fuse.Entry.parse(client.call(Opcode.LOOKUP, b"two\0")).node
            one = fuse.Entry.parse(client.call(Opcode.LOOKUP, b"one\0")).node
            with pytest.raises(FuseError) as refused:
                client.call(Opcode.MKDIR, mkdir(b"folder"), node=two)
            assert refused.value.errno == errno.EROFS
            with contextlib.suppress(FuseError):
                client.call(Opcode.MKDIR, mkdir(b"folder"), node=one)


def test_a_changed_policy_waits_until_the_client_leaves_and_holds_for_the_next(tmp_path: Path) -> None:
    with Stock(tmp_path, 'log_level = "info"\n') as service:
        service.start()
        with connected(service) as client:
            assert "takes effect when the client leaves" in service.reload(
                'access = "read-only"\n' + service.worker_table
            )
            client.call(Opcode.MKDIR, mkdir(b"before"))
        with connected(service) as client, pytest.raises(FuseError):
            client.call(Opcode.MKDIR, mkdir(b"after"))


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        ('[paths]\nhide = ["secret"]\n', "paths.hide"),
        ('[limits.requests]\nread = "1MiB/s"\n', "limits.requests.read"),
        ('[cache]\ntimeout = "5s"\n', "cache.timeout"),
    ],
)
def test_what_it_cannot_carry_out_is_refused_by_name(tmp_path: Path, policy: str, key: str) -> None:
    with Stock(tmp_path, policy) as service:
        with pytest.raises(ServiceError):
            service.start()
        assert f"{key}: worker.program cannot carry it out" in service.log


@pytest.mark.parametrize(
    ("path", "says"),
    [("/bin/ls", "/program: unrecognized option '--fd=3'"), (str(WORKER), "descriptor 3 should be")],
    ids=["by the system's loader", "static"],
)
def test_programs_of_this_machine_are_started_too_and_what_is_none_of_them_says_why_it_ends(
    tmp_path: Path, path: str, says: str
) -> None:
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is not installed")
    with Policed(tmp_path, f'[worker]\nprogram = "{path}"\n') as service:
        with pytest.raises(ServiceError):
            service.start()
        assert says in service.log
        assert "ended without having had a client: exit status" in service.log


def test_a_stop_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    with Stock(tmp_path) as service:
        service.start()
        with connected(service) as client:
            assert client.serves()
            everybody = service.processes().all
            assert service.stop() == 0
        assert not any(alive(pid) for pid in everybody)


def test_a_daemon_that_dies_at_once_is_started_with_pauses_and_not_for_ever(tmp_path: Path) -> None:
    with Stock(tmp_path) as service:
        service.start()
        for deaths in range(1, 4):
            service.wait(lambda: len(service.processes().workers) == 1, "have a daemon")
            os.kill(service.processes().workers[0], signal.SIGKILL)
            service.wait(partial(logged, service, "killed by signal 9 (SIGKILL)", deaths), "notice the death")
        service.wait(partial(logged, service, "3 failures in a row; next launch in"), "pause")
        with connected(service) as client:
            assert client.serves()


def test_what_can_be_seen_of_it_from_outside_is_told_and_what_cannot_is_not_made_up(tmp_path: Path) -> None:
    limits = '[limits]\nunenforceable = "warn"\n[limits.pids]\nmax = 64\n'
    with Stock(tmp_path, f"max_clients = 2\n{limits}") as service:
        service.start()
        with connected(service) as first, connected(service) as second:
            assert first.serves()
            assert second.serves()
            pids = service.processes().workers
            (said,) = service.ask("status")["shares"]
            assert (said["state"], len(said["clients"]), said["tier"]) == ("serving", 2, "full")
            assert said["program"] == str(PROGRAM)
            assert said["counters"] == {}
            (figures,) = service.ask("top", "--once")["shares"]
            assert (figures["counted"], figures["requests"], figures["clients"]) == (False, 0, 2)
            if "limits.pids" not in service.log:
                groups = [Path(f"/proc/{pid}/cgroup").read_text() for pid in pids]
                assert all("virtiofs-sandbox/share-guest" in group for group in groups)
