"""Every option of virtiofsd 1.13, and what it means here: docs/compatibility.md is this table, the parser reads it."""

from __future__ import annotations

import enum
import grp
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.compat import idmaps
from virtiofs_sandbox.compat.meaning import LEAST_DESCRIPTORS, Meaning, Question
from virtiofs_sandbox.policies.share import CacheMode, LogLevel, SeccompAction, ShareError, Tier, check_tag

# capability.h, in the order of its numbers.
CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip


T = TypeVar("T")


class Outcome(enum.Enum):
    CARRIED_OUT = "carried out"
    WARNING = "warning"
    REFUSAL = "refusal"


Apply = Callable[[Meaning, str, str], None]
_CARRIED_OUT: Mapping[Outcome, str] = {Outcome.CARRIED_OUT: ""}


@dataclass(frozen=True)
class Option:
    """*value* is what its value is called, None for a switch. *legacy* are its words in the list of `-o`.

    *means*: what it does here. *row*: the row of policies/narrowing.py that judges it, None where it touches no policy.
    *outcomes* says when it is which. *apply* gets the value and how the option was written; it raises ValueError with
    what is accepted.
    """

    names: tuple[str, ...]
    means: str
    apply: Apply
    value: str | None = None
    legacy: tuple[str, ...] = ()
    row: str | None = None
    outcomes: Mapping[Outcome, str] = field(default_factory=lambda: _CARRIED_OUT)
    ours: bool = False


def _sets(name: str, row: str, read: Callable[[str], Any]) -> Apply:
    """Sets a field of the arguments."""

    def apply(meaning: Meaning, value: str, option: str) -> None:
        meaning.fields[name] = read(value)
        meaning.spelling[row] = option

    return apply


def _on(_: str) -> bool:
    return True


def _off(_: str) -> bool:
    return False


def _nothing(_: Meaning, value: str, option: str) -> None:
    """It asks for what is so anyway."""


def _warns(sentence: str) -> Apply:
    return lambda meaning, _, option: meaning.warn(option, sentence)


def _warning(sentence: str) -> dict[str, Any]:
    """An option that is left out, with the guest getting less."""
    return {"apply": _warns(sentence), "outcomes": {Outcome.WARNING: sentence}}


def _one_of(choices: Mapping[str, T]) -> Callable[[str], T]:
    def read(value: str) -> T:
        try:
            return choices[value.lower()]
        except KeyError:
            raise ValueError(f"{', '.join(choices)} are accepted") from None

    return read


def _path(value: str) -> Path:
    if not value or "\0" in value:
        raise ValueError("a path is accepted")
    return Path(os.path.abspath(value))


def _number(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 10:
        raise ValueError("a number is accepted")
    return int(value)


def _tag(value: str) -> str:
    try:
        return check_tag(value)
    except ShareError as error:
        raise ValueError(str(error)) from None
    except UnicodeEncodeError:
        raise ValueError("UTF-8 is accepted") from None


def _group(value: str) -> int:
    if value.isascii() and value.isdigit():
        return _number(value)
    try:
        return grp.getgrnam(value).gr_gid
    except (KeyError, ValueError):
        raise ValueError("the name or number of a group of this machine is accepted") from None


def _shared_dir(meaning: Meaning, value: str, option: str) -> None:
    meaning.shared_dir = os.fspath(_path(value))
    meaning.spelling["DIR"] = option


def _socket_path(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["socket"] = _path(value)
    meaning.spelling["--socket"] = option


def _socket_group(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["socket_group"] = _group(value)


def _log_level(meaning: Meaning, value: str, option: str) -> None:
    levels = {
        "error": LogLevel.ERROR,
        "warn": LogLevel.WARNING,
        "info": LogLevel.INFO,
        "debug": LogLevel.DEBUG,
        "trace": LogLevel.DEBUG,
        "off": LogLevel.ERROR,
    }
    meaning.fields["log_level"] = _one_of(levels)(value)


def _legacy_log_level(meaning: Meaning, value: str, option: str) -> None:
    words = {"debug": "debug", "info": "info", "warn": "warn", "err": "error"}
    _log_level(meaning, _one_of(words)(value), option)


def _legacy_cache(value: str) -> CacheMode:
    modes = {
        "auto": CacheMode.AUTO,
        "always": CacheMode.ALWAYS,
        "none": CacheMode.NEVER,
        "metadata": CacheMode.METADATA,
    }
    return _one_of(modes)(value)


def _log_format(meaning: Meaning, value: str, option: str) -> None:
    meaning.log_format = _one_of({form.value: form for form in LogForm})(value)


def _xattr(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["xattr"] = True
    meaning.fields.pop("no_xattr", None)
    meaning.spelling["--xattr"] = option


def _no_xattr(meaning: Meaning, value: str, option: str) -> None:
    meaning.fields["no_xattr"] = True
    meaning.fields.pop("xattr", None)


def _seccomp(meaning: Meaning, value: str, option: str) -> None:
    actions = {
        "none": None,
        "kill": SeccompAction.KILL,
        "log": SeccompAction.LOG,
        "trap": SeccompAction.KILL,
    }
    action = _one_of(actions)(value)
    if action is None:
        meaning.fields.pop("seccomp", None)
        meaning.warn(option, "there is no jail without a filter; the usual one holds")
        return
    meaning.fields["seccomp"] = action


def _nofile(meaning: Meaning, value: str, option: str) -> None:
    number = _number(value)
    if number and number < LEAST_DESCRIPTORS:
        raise ValueError(f"0 for no change, or {LEAST_DESCRIPTORS} and more are accepted")
    meaning.nofile = number or None


def _a_number(meaning: Meaning, value: str, option: str) -> None:
    _number(value)


def _modcaps(meaning: Meaning, value: str, option: str) -> None:
    for word in value.split(":"):
        name = word[1:].lower().removeprefix("cap_")
        if word[:1] not in ("+", "-") or name not in CAPABILITIES:
            raise ValueError("names of capabilities, each with + or - before it, and : between them, are accepted")
        if word[0] == "-":
            meaning.dropped |= 1 << CAPABILITIES.index(name)
        else:
            meaning.warn(option, f"the worker keeps what its share needs and gets no {name} besides")


def _adds(name: str, read: Callable[[str], Any]) -> Apply:
    return lambda meaning, value, option: getattr(meaning, name).append(read(value))


def _xattrmap(meaning: Meaning, value: str, option: str) -> None:
    meaning.xattrmap = option


def _handles(meaning: Meaning, value: str, option: str) -> None:
    known = {"never": None, "prefer": False, "fallback": False, "mandatory": True}
    mandatory = _one_of(known)(value)
    if mandatory:
        meaning.refuse(option, "files are not referred to by handles yet, and mandatory says not to start without them")
    elif mandatory is False:
        meaning.warn(option, _NO_HANDLES)


def _migration(meaning: Meaning, value: str, option: str) -> None:
    meaning.migration[option] = None


def _migration_of(*values: str) -> Apply:
    def apply(meaning: Meaning, value: str, option: str) -> None:
        _one_of(dict.fromkeys(values))(value)
        _migration(meaning, value, option)

    return apply


def _asks(question: Question) -> Apply:
    def apply(meaning: Meaning, value: str, option: str) -> None:
        meaning.question = question

    return apply


def _own(name: str) -> Apply:
    return lambda meaning, value, option: setattr(meaning, name, _path(value))


_NO_HANDLES = "files are not referred to by handles yet; a descriptor or a name is kept for each, as with never"
_NO_ACLS = "there are no POSIX access control lists yet: the guest goes by modes alone"
_NO_LABELS = "there are no labels for new files yet: the guest labels none"
_NO_LOCKS = "locks are not shared with the host yet: each guest keeps its own"
_NO_MIGRATION = "there is no live migration yet"
_NO_DIRECT = "files are not opened past the host's page cache yet: O_DIRECT of the guest stops at the guest"
_NO_KILLPRIV = "the guest clears set-ID bits itself, by a request of its own"
_TIERS = {"namespace": Tier.USERNS, "chroot": Tier.BARE, "none": Tier.BARE}

OPTIONS = (
    Option(
        ("--shared-dir",),
        "The directory. A policy that speaks of it holds, and is found by it.",
        _shared_dir,
        "DIR",
        legacy=("source",),
        row="DIR",
    ),
    Option(
        ("--socket-path", "--socket"),
        "Made here, for its owner alone or with --socket-group for those too; a stale one is replaced, one in use is "
        "not; removed at the end. Its pid stands in a file beside it, PATH.pid.",
        _socket_path,
        "PATH",
        row="--socket",
    ),
    Option(
        ("--fd",),
        "An inherited socket that listens already.",
        _sets("fd", "--fd", _number),
        "N",
        row="--fd",
    ),
    Option(
        ("--socket-group",),
        "Group of the socket that is made here, whose members may connect.",
        _socket_group,
        "GROUP",
        row="--socket-group",
    ),
    Option(
        ("--tag",),
        "For monitors that ask for it. Without it: the policy's, or the directory's name.",
        _sets("tag", "--tag", _tag),
        "TAG",
        row="--tag",
    ),
    Option(
        ("--cache",),
        "As there. Without it: the policy's, or auto.",
        _sets("cache", "--cache", _one_of({mode.value: mode for mode in CacheMode})),
        "MODE",
        row="--cache",
    ),
    Option(
        (),
        "The same, with none for never.",
        _sets("cache", "--cache", _legacy_cache),
        "MODE",
        legacy=("cache",),
        row="--cache",
    ),
    Option(
        ("--readonly",),
        "A read-only mount, besides what Landlock and the worker refuse.",
        _sets("readonly", "--readonly", _on),
        row="--readonly",
    ),
    Option(("--xattr",), "As there.", _xattr, legacy=("xattr",), row="--xattr"),
    Option((), "None, whatever the policy has.", _no_xattr, legacy=("no_xattr",), row="-o no_xattr"),
    Option(
        ("--writeback",),
        "As there.",
        _sets("writeback", "--writeback", _on),
        legacy=("writeback",),
        row="--writeback",
    ),
    Option(
        (),
        "None, whatever the policy has.",
        _sets("writeback", "--writeback", _off),
        legacy=("no_writeback",),
        row="--writeback",
    ),
    Option(
        ("--sandbox",),
        "The least jail that the caller puts up with, never the one to build: that is always the strongest that the "
        "host allows. namespace: at least `userns`. chroot, none: without a policy `bare` will do.",
        _sets("tolerated", "--sandbox", _one_of(_TIERS)),
        "MODE",
        legacy=("sandbox",),
        row="--sandbox",
    ),
    Option(
        ("--seccomp",),
        "What a call outside the list gets: kill and trap, death; log, a record. Without it: an error.",
        _seccomp,
        "ACTION",
        row="--seccomp",
        outcomes={Outcome.CARRIED_OUT: "kill, trap, log", Outcome.WARNING: "none: the filter holds"},
    ),
    Option(
        ("--log-level",),
        "trace is debug here, off is error. RUST_LOG is not looked at.",
        _log_level,
        "LEVEL",
        row="--log-level",
    ),
    Option((), "The same.", _legacy_log_level, "LEVEL", legacy=("loglevel",), row="--log-level"),
    Option(("-d",), "Debug.", lambda meaning, _, option: _log_level(meaning, "debug", option), row="--log-level"),
    Option(
        ("--rlimit-nofile",),
        f"At most so many descriptors for the worker; more than the supervisor may have changes nothing. At least "
        f"{LEAST_DESCRIPTORS}; 0 is no change.",
        _nofile,
        "N",
    ),
    Option(
        ("--modcaps",),
        "The worker keeps at most seven capabilities, inside a user namespace of its own. -NAME takes one away.",
        _modcaps,
        "LIST",
        legacy=("modcaps",),
        outcomes={Outcome.CARRIED_OUT: "-NAME", Outcome.WARNING: "+NAME: there are no others"},
    ),
    Option(
        ("--uid-map",),
        "As root one line from 0 on, as a user oneself as 0 and a line from 1 on (what libvirt's session mode says), "
        "or oneself alone; the same for uid and gid.",
        _adds("uid_map", idmaps.extent),
        ":IN:OUT:COUNT:",
        row="--uid-map, --gid-map",
        outcomes={
            Outcome.CARRIED_OUT: "such a map",
            Outcome.WARNING: "another one, as a user: everything is this user's",
            Outcome.REFUSAL: "another one, as root",
        },
    ),
    Option(
        ("--gid-map",),
        "The same.",
        _adds("gid_map", idmaps.extent),
        ":IN:OUT:COUNT:",
        row="--uid-map, --gid-map",
        outcomes={Outcome.CARRIED_OUT: "as --uid-map"},
    ),
    Option(
        ("--translate-uid",),
        "As root map:0:FIRST:COUNT, the same for uid and gid: the guest's ids are those of the host from FIRST on.",
        _adds("uid_rules", idmaps.rule),
        "RULE",
        row="--uid-map, --gid-map",
        outcomes={
            Outcome.CARRIED_OUT: "that, and rules that change nothing",
            Outcome.WARNING: "host, squash-host: the guest is shown the host's owners",
            Outcome.REFUSAL: "others: what the guest makes would belong to others than it says",
        },
    ),
    Option(
        ("--translate-gid",),
        "The same.",
        _adds("gid_rules", idmaps.rule),
        "RULE",
        row="--uid-map, --gid-map",
        outcomes={Outcome.CARRIED_OUT: "as --translate-uid"},
    ),
    Option(
        ("--inode-file-handles",),
        "Descriptors are kept within a budget in any case.",
        _handles,
        "MODE",
        outcomes={
            Outcome.CARRIED_OUT: "never",
            Outcome.WARNING: f"prefer, fallback: {_NO_HANDLES}",
            Outcome.REFUSAL: "mandatory",
        },
    ),
    Option(("--announce-submounts",), "As there; so it is in any case.", _nothing, legacy=("announce_submounts",)),
    Option(
        ("--no-announce-submounts",),
        "Told where another file system begins, a guest gets nothing more by it.",
        **_warning("the guest is told where another file system begins all the same"),
    ),
    Option(("--allow-direct-io",), "", legacy=("allow_direct_io",), **_warning(_NO_DIRECT)),
    Option((), "So it is.", _nothing, legacy=("no_allow_direct_io",)),
    Option(
        ("--allow-mmap",),
        "",
        **_warning("shared mappings of files in cache modes never and metadata are not there yet"),
    ),
    Option(
        ("--no-readdirplus",),
        "It shows a guest nothing that a lookup would not.",
        legacy=("no_readdirplus",),
        **_warning("directories are listed with attributes all the same, but with --cache never"),
    ),
    Option((), "So it is.", _nothing, legacy=("readdirplus",)),
    Option(("--killpriv-v2",), "", legacy=("killpriv_v2",), **_warning(_NO_KILLPRIV)),
    Option(("--no-killpriv-v2",), "So it is.", _nothing, legacy=("no_killpriv_v2",)),
    Option(
        ("--preserve-noatime",),
        "",
        **_warning("O_NOATIME of the guest is not passed on"),
    ),
    Option(("--posix-acl",), "Implies no --xattr here.", legacy=("posix_acl",), **_warning(_NO_ACLS)),
    Option((), "So it is.", _nothing, legacy=("no_posix_acl",)),
    Option(("--security-label",), "Implies no --xattr here.", legacy=("security_label",), **_warning(_NO_LABELS)),
    Option((), "So it is.", _nothing, legacy=("no_security_label",)),
    Option(
        ("--xattrmap",),
        "",
        _xattrmap,
        "RULES",
        legacy=("xattrmap",),
        row="-o no_xattr",
        outcomes={
            Outcome.WARNING: "alone: the guest gets no extended attributes",
            Outcome.REFUSAL: "with --xattr: it would have the host's own names",
        },
    ),
    Option((), "", legacy=("posix_lock",), **_warning(_NO_LOCKS)),
    Option((), "So it is.", _nothing, legacy=("no_posix_lock",)),
    Option((), "", legacy=("flock",), **_warning(_NO_LOCKS)),
    Option((), "So it is.", _nothing, legacy=("no_flock",)),
    Option(
        ("--migration-mode",),
        "",
        _migration_of("find-paths", "file-handles"),
        "MODE",
        outcomes={Outcome.WARNING: f"{_NO_MIGRATION}; one line for all of these"},
    ),
    Option(
        ("--migration-on-error",),
        "",
        _migration_of("abort", "guest-error"),
        "ACTION",
        outcomes={Outcome.WARNING: _NO_MIGRATION},
    ),
    Option(("--migration-verify-handles",), "", _migration, outcomes={Outcome.WARNING: _NO_MIGRATION}),
    Option(("--migration-confirm-paths",), "", _migration, outcomes={Outcome.WARNING: _NO_MIGRATION}),
    Option(
        ("--thread-pool-size",),
        "No meaning: there is a thread for each queue, and how many queues there are the policy says.",
        _a_number,
        "N",
    ),
    Option(
        ("--syslog",),
        "What is logged goes to standard error.",
        **_warning("log lines go to standard error, not to syslog"),
    ),
    Option(("-f",), "No meaning: it stays in the foreground.", _nothing),
    Option(
        ("--print-capabilities",),
        "Prints what libvirt asks for first, whatever else is said, and ends. No `migrate-precopy`.",
        _nothing,
    ),
    Option(("--help", "-h"), "Only where the command is called virtiofsd.", _asks(Question.HELP)),
    Option(("--version", "-V"), "Prints our version.", _asks(Question.VERSION)),
    Option(
        ("--persistent",),
        "Stay once the client has left, and serve the next one.",
        _sets("persistent", "--persistent", _on),
        row="--persistent",
        ours=True,
    ),
    Option(
        ("--policy-dir",),
        "Where policies are looked for.",
        _own("policy_dir"),
        "DIR",
        row="--policy-dir",
        ours=True,
    ),
    Option(
        ("--control-dir",),
        "Where it is asked by virtiofs-sandbox status and the like.",
        _own("control_dir"),
        "DIR",
        row="--control-dir",
        ours=True,
    ),
    Option(
        ("--log-format",),
        "Lines of text or JSON, or entries of the journal, as for run.",
        _log_format,
        "FORM",
        row="--log-format",
        ours=True,
    ),
    Option(
        ("--worker",),
        "Another worker, for tests.",
        _own("worker"),
        "PATH",
        row="--worker",
        ours=True,
    ),
)
