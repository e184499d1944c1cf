"""Reading a file that decides over security: only where nobody else could have written it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from virtiofs_sandbox.policies.problems import PolicyError, shown

MAX_BYTES = 64 * 1024


def read_policy(file: Path) -> str:
    """The text of *file*, which only root and the caller may be able to change. Raises PolicyError.

    The same holds for every directory above it, also where a symbolic link leads. A directory that all may write to is
    fine when it has the sticky bit: in /tmp nobody else can take the next component away.
    """
    try:
        real = file.resolve(strict=True)
        lexical = Path(os.path.abspath(file))
        above = dict.fromkeys([*reversed(lexical.parents), *reversed(real.parents)])
        states = {directory: directory.stat() for directory in above}
    except OSError as error:
        raise PolicyError.of_file(file, f"it cannot be read: {error.strerror}") from error
    except RuntimeError as error:
        raise PolicyError.of_file(file, "symbolic links lead in a circle") from error
    for directory, state in states.items():
        _check(file, f"directory {shown(directory)} above it", state)
    try:
        # Resolved above, so nothing is left to follow; without waiting for a FIFO's writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise PolicyError.of_file(file, f"it cannot be read: {error.strerror}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise PolicyError.of_file(file, "it is no regular file")
        _check(file, "it", state)
        with open(descriptor, "rb", closefd=False) as opened:
            content = opened.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise PolicyError.of_file(file, f"it is too long: at most {MAX_BYTES} bytes are read")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyError.of_file(file, f"line {line} is no UTF-8; policy files are") from error


def _check(file: Path, what: str, state: os.stat_result) -> None:
    caller = os.geteuid()
    if state.st_uid not in (0, caller):
        accepted = "root" if caller == 0 else f"root or {_user(caller)}"
        raise PolicyError.of_file(file, f"{what} belongs to {_user(state.st_uid)}: {accepted} is accepted; chown it")
    if stat.S_ISDIR(state.st_mode) and state.st_mode & stat.S_ISVTX:
        return
    if state.st_mode & stat.S_IWOTH:
        raise PolicyError.of_file(file, f"{what} can be written by everybody; chmod o-w it")
    own_group = 0 if caller == 0 else _primary_group(caller)
    if state.st_mode & stat.S_IWGRP and state.st_gid not in (0, own_group):
        raise PolicyError.of_file(file, f"{what} can be written by group {state.st_gid}; chmod g-w it")


def _primary_group(uid: int) -> int:
    """The primary group of *uid*, of which many distributions give each user one of their own."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return os.getegid()


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
