"""SELinux labels of files that this thread creates.

What is written to /proc/thread-self/attr/fscreate is the label of every inode the thread makes until it is taken back
(proc_pid_attr(5)), so a socket file has its own from the moment it is there, not only after a relabelling.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ATTRIBUTE = Path("/proc/thread-self/attr/fscreate")
_FILE_SYSTEMS = Path("/proc/filesystems")
_XATTR = "security.selinux"


class LabelError(Exception):
    """The label cannot be given; str() says why and what to do."""


def is_enabled() -> bool:
    """Whether this kernel has SELinux and it was not switched off at boot: selinuxfs is registered only then."""
    try:
        return any(line.split()[-1] == "selinuxfs" for line in _FILE_SYSTEMS.read_text(encoding="ascii").splitlines())
    except OSError:
        return False


@contextlib.contextmanager
def creating(label: str | None) -> Iterator[None]:
    """What this thread creates meanwhile gets *label*; None leaves it to the policy of the machine.

    Raises LabelError.
    """
    if label is None:
        yield
        return
    if not is_enabled():
        raise LabelError(f"label {label!r}: SELinux is off here (no selinuxfs in {_FILE_SYSTEMS}); take the label out")
    try:
        _write(label)
    except OSError as error:
        hint = "is it a context of the loaded policy, and may this process choose labels (setfscreate)?"
        raise LabelError(f"label {label!r}: {error.strerror}; {hint}") from error
    try:
        yield
    finally:
        _write("")


def check_label(path: str, label: str) -> None:
    """Raises LabelError unless the file at *path* has *label*."""
    try:
        found = os.getxattr(path, _XATTR).rstrip(b"\0").decode("utf-8", "backslashreplace")
    except OSError as error:
        found = error.strerror or str(error)
    if found != label:
        hint = "its file system labels all files alike (mount option context=); choose another directory"
        raise LabelError(f"label {label!r}: the file got {found!r}: {hint}")


def _write(label: str) -> None:
    """At once, as the kernel wants it. Nothing takes it back."""
    descriptor = os.open(_ATTRIBUTE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        # An empty write(2) would not reach the kernel's parser; a newline alone means none.
        os.write(descriptor, label.encode() or b"\n")
    finally:
        os.close(descriptor)
