"""What Landlock stops, tried right by right on this kernel, with what each older ABI lacks left out."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import prctl
import pytest
from landlock import FSAccess
from tests.fakes.launching import PLAN
from virtiofs_sandbox.confine import landlock
from virtiofs_sandbox.launcher import stages
from virtiofs_sandbox.policies.share import Access
from virtiofs_sandbox.syscalls import landlock as landlock_syscalls

WORKER = Path(__file__).parents[2] / ".venv/bin/virtiofs-worker"
DENIED = {errno.EACCES, errno.EXDEV}
ABIS = range(1, landlock.NEWEST_ABI + 1)
TCGETS = 0x5401
WORKER_WITHOUT_DESCRIPTORS = 15

try:
    HERE = landlock_syscalls.abi_version()
except OSError:
    HERE = 0

# Right -> a use of it below a directory that `tree` has filled.
USES: dict[FSAccess, Callable[[Path], object]] = {
    FSAccess.WRITE_FILE: lambda base: os.open(base / "file", os.O_WRONLY),
    FSAccess.READ_FILE: lambda base: os.open(base / "file", os.O_RDONLY),
    FSAccess.READ_DIR: lambda base: os.listdir(base / "directory"),
    FSAccess.REMOVE_DIR: lambda base: os.rmdir(base / "directory"),
    FSAccess.REMOVE_FILE: lambda base: os.unlink(base / "file"),
    FSAccess.MAKE_CHAR: lambda base: os.mknod(base / "made", stat.S_IFCHR | 0o600, os.makedev(0, 0)),
    FSAccess.MAKE_DIR: lambda base: os.mkdir(base / "made"),
    FSAccess.MAKE_REG: lambda base: os.mknod(base / "made", stat.S_IFREG | 0o600),
    FSAccess.MAKE_SOCK: lambda base: os.mknod(base / "made", stat.S_IFSOCK | 0o600),
    FSAccess.MAKE_FIFO: lambda base: os.mkfifo(base / "made"),
    FSAccess.MAKE_BLOCK: lambda base: os.mknod(base / "made", stat.S_IFBLK | 0o600, os.makedev(7, 255)),
    FSAccess.MAKE_SYM: lambda base: os.symlink("anywhere", base / "made"),
    FSAccess.REFER: lambda base: os.rename(base / "file", base / "directory" / "file"),
    FSAccess.TRUNCATE: lambda base: os.truncate(base / "file", 0),
    FSAccess.IOCTL_DEV: lambda base: fcntl.ioctl(os.open(base / "device", os.O_RDONLY), TCGETS, b"\0" * 64),
}
NEEDS_ROOT = {FSAccess.MAKE_BLOCK, FSAccess.IOCTL_DEV}


def tree(base: Path) -> Path:
    (base / "directory").mkdir(parents=True)
    (base / "file").write_text("text")
    if os.geteuid() == 0:
        os.mknod(base / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return base


def entered(wanted_abi: int, access: Access, share: Path, use: Callable[[], object], binary: Path | None = None) -> int:
    """The errno of *use* inside the domain of a share with this *access*, as the launcher makes it."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(share, os.O_PATH), stages.FD_SHARE)
            os.dup2(os.open(binary or share / "file", os.O_PATH), stages.FD_BINARY)
            prctl.set_no_new_privs(1)
            made = landlock.plan(access, wanted_abi)
            stages.landlock_domain(dataclasses.replace(PLAN, landlock=made))
            use()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(254)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def needs_abi(abi: int) -> None:
    if abi > HERE:
        pytest.skip(f"this kernel has Landlock ABI {HERE}: {abi} cannot be tried")


def needs_root(right: FSAccess) -> None:
    if right in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("only root makes device nodes")


def expected(right: FSAccess, abi: int, granted: FSAccess) -> set[int]:
    """The errnos that are right. The first ABI forbids what the second lets one grant."""
    if right is FSAccess.REFER and abi == 1:
        return DENIED
    if not right & landlock.handled(abi) or right & granted:
        return {0, errno.ENOTTY} if right is FSAccess.IOCTL_DEV else {0}
    return DENIED


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize("right", USES, ids=lambda right: str(right.name))
@pytest.mark.parametrize("access", Access)
def test_a_right_is_had_in_the_share_as_far_as_its_access_goes(
    tmp_path: Path, access: Access, right: FSAccess, abi: int
) -> None:
    needs_abi(abi)
    needs_root(right)
    share = tree(tmp_path / "share")
    granted = FSAccess(landlock.plan(access, abi).share_rights)
    assert entered(abi, access, share, lambda: USES[right](share)) in expected(right, abi, granted)


@pytest.mark.parametrize("abi", ABIS)
@pytest.mark.parametrize(
    "right", [right for right in USES if right != FSAccess.IOCTL_DEV], ids=lambda right: str(right.name)
)
def test_outside_the_share_there_is_no_right(tmp_path: Path, right: FSAccess, abi: int) -> None:
    """A device there cannot even be opened."""
    needs_abi(abi)
    needs_root(right)
    share, outside = tree(tmp_path / "share"), tree(tmp_path / "outside")
    got = entered(abi, Access.READ_WRITE, share, lambda: USES[right](outside))
    assert got in expected(right, abi, FSAccess(0))


@pytest.mark.parametrize("abi", ABIS)
def test_only_the_binary_is_run(tmp_path: Path, abi: int) -> None:
    needs_abi(abi)
    if not WORKER.exists():
        pytest.skip("installed without a worker: no static program is at hand")
    share = tree(tmp_path / "share")
    programs = [share / "program", tmp_path / "program"]
    for program in programs:
        program.write_bytes(WORKER.read_bytes())
        program.chmod(0o755)
    for program in programs:

        def execute(program: Path = program) -> None:
            os.execv(program, ["virtiofs-worker"])  # noqa: S606

        assert entered(abi, Access.READ_WRITE, share, execute) == errno.EACCES
        run = entered(abi, Access.READ_WRITE, share, execute, program)
        # It finds none of the descriptors it is to start with, but it runs.
        assert run == WORKER_WITHOUT_DESCRIPTORS


@pytest.mark.parametrize("abi", ABIS)
def test_tcp_is_out_of_reach_where_the_kernel_can_say_so(tmp_path: Path, abi: int) -> None:
    needs_abi(abi)
    share = tree(tmp_path / "share")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        covered = errno.EACCES if abi >= landlock.TCP_ABI else 0
        assert entered(abi, Access.READ_WRITE, share, lambda: socket.socket().connect(address)) == covered
    assert entered(abi, Access.READ_WRITE, share, lambda: socket.socket().bind(("127.0.0.1", 0))) == covered


@pytest.mark.parametrize("abi", ABIS)
def test_abstract_sockets_and_processes_outside_are_out_of_reach_where_the_kernel_can_say_so(
    tmp_path: Path, abi: int
) -> None:
    needs_abi(abi)
    share = tree(tmp_path / "share")
    covered = errno.EPERM if abi >= landlock.SCOPE_ABI else 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0landlock-{os.getpid()}-{abi}")
        server.listen()
        name = server.getsockname()
        got = entered(abi, Access.READ_WRITE, share, lambda: socket.socket(socket.AF_UNIX).connect(name))
        assert got == covered
    us = os.getpid()
    assert entered(abi, Access.READ_WRITE, share, lambda: os.kill(us, signal.SIGCONT)) == covered


# Frozen on purpose: a change of these numbers is a change of what a worker may do.
RIGHTS = {
    1: (0x1FFF, 0x17BE, 0, 0, 0),
    2: (0x3FFF, 0x37BE, 0, 0, 0),
    3: (0x7FFF, 0x77BE, 0, 0, 0),
    4: (0x7FFF, 0x77BE, 3, 0, 0),
    5: (0xFFFF, 0x77BE, 3, 0, 0),
    6: (0xFFFF, 0x77BE, 3, 3, 0),
    7: (0xFFFF, 0x77BE, 3, 3, 2),
}


@pytest.mark.parametrize("abi", ABIS)
def test_the_rights_of_each_abi_are_these(abi: int) -> None:
    handled, writable, net, scoped, flags = RIGHTS[abi]
    made = landlock.plan(Access.READ_WRITE, abi)
    assert (made.handled_fs, made.share_rights) == (handled, writable)
    assert (made.handled_net, made.scoped, made.restrict_flags) == (net, scoped, flags)
    read_only = landlock.plan(Access.READ_ONLY, abi)
    assert (read_only.handled_fs, read_only.share_rights, read_only.binary_rights) == (handled, 0xC, 0x5)


LOST = {
    1: "renaming between directories (guests get EXDEV), truncation, TCP, device ioctls, abstract sockets and signals, "
    "denial records",
    2: "truncation, TCP, device ioctls, abstract sockets and signals, denial records",
    3: "TCP, device ioctls, abstract sockets and signals, denial records",
    4: "device ioctls, abstract sockets and signals, denial records",
    5: "abstract sockets and signals, denial records",
    6: "denial records",
}


@pytest.mark.parametrize("abi", LOST)
def test_an_older_abi_says_what_is_lost(abi: int) -> None:
    assert landlock.shortfall(abi) == f"Landlock ABI {abi} of this kernel does not cover {LOST[abi]}; ABI 7 does"


@pytest.mark.parametrize("abi", [7, 8])
def test_the_newest_abi_lacks_nothing(abi: int) -> None:
    assert landlock.shortfall(abi) is None
