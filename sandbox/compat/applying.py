"""What an option of virtiofsd's does to the meaning of a command line, and how its value is read."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.compat.meaning import LEAST_DESCRIPTORS, Meaning, Question
from virtiofs_sandbox.policies.share import CacheMode, LogLevel, SeccompAction, ShareError, check_tag

T = TypeVar("T")
Apply = Callable[[Meaning, str, str], None]
"""Gets the value, empty for a switch, and how the option was written; raises ValueError with what is accepted."""

# capability.h, in the order of its numbers.
CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
NO_HANDLES = "files are not referred to by handles yet; a descriptor or a name is kept for each, as with never"


def sets(name: str, row: str, read: Callable[[str], Any]) -> Apply:
    """Sets a field of the arguments."""

    def apply(meaning: Meaning, value: str, option: str) -> None:
        meaning.fields[name] = read(value)
        meaning.spelling[row] = option

    return apply


def on(_: str) -> bool:
    return True


def off(_: str) -> bool:
    return False


def nothing(_: Meaning, value: str, option: str) -> None:
    """It asks for what is so anyway."""


def warns(sentence: str) -> Apply:
    return lambda meaning, _, option: meaning.warn(option, sentence)


def one_of(choices: Mapping[str, T]) -> Callable[[str], T]:
    def read(value: str) -> T:
        try:
            return choices[value.lower()]
        except KeyError:
            raise ValueError(f"{', '.join(choices)} are accepted") from None

    return read


def path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError("a path is accepted")
    return Path(os.path.abspath(value))


def number(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 10:
        raise ValueError("a number is accepted")
    return int(value)


def tag(value: str) -> str:
    try:
        return check_tag(value)
    except ShareError as error:
        raise ValueError(str(error)) from None
    except UnicodeEncodeError:
        raise ValueError("UTF-8 is accepted") from None


def group(value: str) -> int:
    if value.isascii() and value.isdigit():
        return number(value)
    try:
        return grp.getgrnam(value).gr_gid
    except (KeyError, ValueError):
        raise ValueError("the name or number of a group of this machine is accepted") from None


def shared_dir(meaning: Meaning, value: str, option: str) -> None:
    meaning.shared_dir = os.fspath(path(value))
    meaning.spelling["DIR"] = option


def socket_path(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["socket"] = path(value)
    meaning.spelling["--socket"] = option


def socket_group(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["socket_group"] = group(value)


def log_level(meaning: Meaning, value: str, option: str) -> None:
    levels = {
        "error": LogLevel.ERROR,
        "warn": LogLevel.WARNING,
        "info": LogLevel.INFO,
        "debug": LogLevel.DEBUG,
        "trace": LogLevel.DEBUG,
        "off": LogLevel.ERROR,
    }
    meaning.fields["log_level"] = one_of(levels)(value)


def legacy_log_level(meaning: Meaning, value: str, option: str) -> None:
    words = {"debug": "debug", "info": "info", "warn": "warn", "err": "error"}
    log_level(meaning, one_of(words)(value), option)


def legacy_cache(value: str) -> CacheMode:
    modes = {
        "auto": CacheMode.AUTO,
        "always": CacheMode.ALWAYS,
        "none": CacheMode.NEVER,
        "metadata": CacheMode.METADATA,
    }
    return one_of(modes)(value)


def log_format(meaning: Meaning, value: str, option: str) -> None:
    meaning.log_format = one_of({form.value: form for form in LogForm})(value)


def xattr(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["xattr"] = True
    meaning.fields.pop("no_xattr", None)
    meaning.spelling["--xattr"] = option


def no_xattr(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["no_xattr"] = True
    meaning.fields.pop("xattr", None)


def seccomp(meaning: Meaning, value: str, option: str) -> None:
    actions = {
        "none": None,
        "kill": SeccompAction.KILL,
        "log": SeccompAction.LOG,
        "trap": SeccompAction.KILL,
    }
    action = one_of(actions)(value)
    if action is None:
        meaning.fields.pop("seccomp", None)
        meaning.warn(option, "there is no jail without a filter; the usual one holds")
        return
    meaning.fields["seccomp"] = action


def nofile(meaning: Meaning, value: str, option: str) -> None:
    most = number(value)
    if most and most < LEAST_DESCRIPTORS:
        raise ValueError(f"0 for no change, or {LEAST_DESCRIPTORS} and more are accepted")
    meaning.nofile = most or None


def a_number(meaning: Meaning, value: str, option: str) -> None:
    number(value)


def modcaps(meaning: Meaning, value: str, option: str) -> None:
    for word in value.split(":"):
        name = word[1:].lower().removeprefix("cap_")
        if word[:1] not in ("+", "-") or name not in CAPABILITIES:
            raise ValueError("names of capabilities, each with + or - before it, and : between them, are accepted")
        if word[0] == "-":
            meaning.dropped |= 1 << CAPABILITIES.index(name)
        else:
            meaning.warn(option, f"the worker keeps what its share needs and gets no {name} besides")


def adds(name: str, read: Callable[[str], Any]) -> Apply:
    return lambda meaning, value, option: getattr(meaning, name).append(read(value))


def xattrmap(meaning: Meaning, value: str, option: str) -> None:
    meaning.xattrmap = option


def handles(meaning: Meaning, value: str, option: str) -> None:
    known = {"never": None, "prefer": False, "fallback": False, "mandatory": True}
    mandatory = one_of(known)(value)
    if mandatory:
        meaning.refuse(option, "files are not referred to by handles yet, and mandatory says not to start without them")
    elif mandatory is False:
        meaning.warn(option, NO_HANDLES)


def migration(meaning: Meaning, value: str, option: str) -> None:
    meaning.migration[option] = None


def migration_of(*values: str) -> Apply:
    def apply(meaning: Meaning, value: str, option: str) -> None:
        one_of(dict.fromkeys(values))(value)
        migration(meaning, value, option)

    return apply


def asks(question: Question) -> Apply:
    def apply(meaning: Meaning, value: str, option: str) -> None:
        meaning.question = question

    return apply


def own(name: str) -> Apply:
    return lambda meaning, value, option: setattr(meaning, name, path(value))
