"""Every failing system call says its name, its errno and the path it was about."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest
from virtiofs_sandbox.syscalls import landlock, mounts, processes
from virtiofs_sandbox.syscalls.base import SyscallError, named


def test_a_wrapper_names_call_and_path(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path / "missing")
    with pytest.raises(SyscallError) as failed:
        mounts.clone_tree(missing, True)
    assert (failed.value.call, failed.value.errno, failed.value.filename) == ("open_tree", errno.ENOENT, missing)
    assert "open_tree: No such file or directory" in str(failed.value)


def test_a_call_of_the_standard_library_gets_its_name(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path / "missing")
    with pytest.raises(SyscallError) as failed:
        named("open(status)", os.open, missing, os.O_RDONLY)
    assert (failed.value.call, failed.value.errno, failed.value.filename) == ("open(status)", errno.ENOENT, missing)


def test_what_a_package_finds_wrong_itself_counts_as_an_invalid_argument() -> None:
    def refuses() -> None:
        raise ValueError

    with pytest.raises(SyscallError) as failed:
        named("prctl", refuses)
    assert failed.value.errno == errno.EINVAL


def test_declarations_of_the_same_function_do_not_disturb_each_other() -> None:
    """All calls without a wrapper go through one C function with different argument types."""
    with pytest.raises(SyscallError, match="landlock_create_ruleset"):
        landlock.create_ruleset(1 << 63, 0, 0)
    with pytest.raises(SyscallError, match="pivot_root"):
        mounts.pivot_root(b"/nowhere", b"/nowhere")


def test_a_forgotten_errno_is_gone() -> None:
    """The landlock package takes it for a failure of its own call."""
    ctypes.set_errno(errno.EBADF)
    processes.clear_errno()
    assert ctypes.get_errno() == 0
