"""Where policies and their sockets are found. Loads nothing else, so that a name can be told from a directory before
the zygote is forked.
"""

from __future__ import annotations

import os
from pathlib import Path

from virtiofs_sandbox.policies.problems import PolicyError, closest, shown

NAME = "virtiofs-sandbox"
SUFFIX = ".toml"
DEFAULTS = "defaults.toml"
CONTROL_SUFFIX = ".sock"
SYSTEM = Path("/etc") / NAME / "shares.d"
SYSTEM_SOCKETS = Path("/run") / NAME


def default_directory() -> Path:
    """Where the policies of the calling user are."""
    if os.geteuid() == 0:
        return SYSTEM
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored (XDG base directory specification).
    home = os.path.expanduser("~")
    # Who has neither HOME nor an account, as in a pod, has no policies either.
    above = Path(base if base.startswith("/") else os.path.join(home if home.startswith("/") else "/", ".config"))
    return above / NAME / "shares.d"


def socket_directory() -> Path:
    """Where a socket is made that no policy names. Without a session it need not be there, nor can it be made then."""
    caller = os.geteuid()
    if caller == 0:
        return SYSTEM_SOCKETS
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    # Where pam_systemd(8) puts it.
    return Path(base if base.startswith("/") else f"/run/user/{caller}") / NAME


def defaults_file(directory: Path) -> Path:
    """The site's file beside the directory of policies; it need not be there."""
    return Path(os.path.abspath(directory)).parent / DEFAULTS


def is_there(file: Path) -> bool:
    """Whether there is a file to read, or something that keeps us from knowing: then reading it says what."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def is_file_name(text: str) -> bool:
    """Whether *text* stands for a policy file rather than for a policy's name."""
    return "/" in text or text.endswith(SUFFIX)


def named(name: str, directory: Path) -> Path:
    """Where the policy called *name* would be."""
    return directory / f"{name}{SUFFIX}"


def find(name_or_file: str, directory: Path) -> Path:
    """The file of a policy: NAME stands for NAME.toml in *directory*. Raises PolicyError when there is none."""
    file = Path(name_or_file) if is_file_name(name_or_file) else named(name_or_file, directory)
    if os.path.isfile(file):
        return file
    if is_file_name(name_or_file):
        raise PolicyError.of_file(file, "there is no such policy file")
    there = names(directory)
    if there:
        hint = closest(name_or_file, there) or f"; there are {', '.join(there)}"
    else:
        hint = f"; none is there yet: virtiofs-sandbox policy new {shown(name_or_file)} makes one"
    raise PolicyError.of_file(file, f"there is no such policy{hint}")


def names(directory: Path) -> list[str]:
    """Names of the policies in *directory*, sorted. Raises PolicyError as `files` does."""
    return [file.stem for file in files(directory)]


def files(directory: Path) -> list[Path]:
    """The policy files in *directory*, sorted by name; hidden ones, as editors leave them, are none.

    Raises PolicyError when it is there and cannot be listed: a policy that is not seen would not hold.
    """
    try:
        found = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PolicyError.of_file(
            directory, f"this directory of policies cannot be listed: {error.strerror}"
        ) from error
    return [directory / name for name in found if name.endswith(SUFFIX) and not name.startswith(".")]


def control_directory() -> Path:
    """Where the control sockets of running shares are (docs/control.md)."""
    return socket_directory() / "control"


def group_directory() -> Path:
    """Where the members of groups of shares find each other (docs/limits.md)."""
    return socket_directory() / "groups"


def control_socket(share: str, directory: Path) -> Path:
    """Where the share called *share* is asked: NAME.sock, with what no file may be called encoded."""
    name = share.replace("%", "%25").replace("/", "%2F")
    return directory / f"{'%2E' + name[1:] if name.startswith('.') else name}{CONTROL_SUFFIX}"


def serve_socket(directory: Path) -> Path:
    """Where the supervisor of all shares is asked. No share's socket can be called so."""
    return directory / f"%serve{CONTROL_SUFFIX}"
