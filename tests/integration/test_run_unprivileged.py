"""`run` by somebody who is not root: the same jail in a user namespace of one id, and the start line says so."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import Caller, Running


def become(account: pwd.struct_passwd) -> list[str]:
    """Starts a command line that runs the rest as *account*: its home, and no capability or other group."""
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--reset-env", "--"]


@pytest.fixture
def nobody() -> pwd.struct_passwd:
    """An account without rights, which can run our interpreter."""
    if os.geteuid() != 0:
        pytest.skip("without root every other test runs unprivileged already")
    account = pwd.getpwnam("nobody")
    command = [*become(account), sys.executable, "-c", "import virtiofs_sandbox"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if tried.returncode:
        pytest.skip(f"{account.pw_name} cannot run {sys.executable}: {tried.stderr[-200:]}")
    return account


@pytest.fixture
def place(nobody: pwd.struct_passwd) -> Iterator[Path]:
    """A directory of nobody's, where nobody can reach it."""
    directory = Path(tempfile.mkdtemp())
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    yield directory
    shutil.rmtree(directory)


def test_an_unprivileged_caller_is_served_in_the_userns_tier(nobody: pwd.struct_passwd, place: Path) -> None:
    path = place / "s"
    with Running("real", place, "--socket", os.fspath(path), prefix=become(nobody)) as run:
        run.ready()
        assert "(jail: userns, " in run.output.read_text()
        caller = Caller("real", path)
        assert caller.served()
        (keeper,) = run.of(1, "virtiofs-worker")
        assert os.readlink(f"/proc/{keeper}/ns/user") != os.readlink(f"/proc/{run.process.pid}/ns/user")
        assert Path(f"/proc/{keeper}/uid_map").read_text().split() == [str(nobody.pw_uid), str(nobody.pw_uid), "1"]
        caller.close()
        caller = Caller("real", path)
        assert caller.served()
        assert run.stop() == 0
        run.nobody_left()
    assert not path.exists()
