"""Every option of virtiofsd 1.13, and what it means here: docs/compatibility.md is this table, the parser reads it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from virtiofs_sandbox.compat import applying, idmaps
from virtiofs_sandbox.compat.applying import NO_HANDLES, Apply
from virtiofs_sandbox.compat.meaning import LEAST_DESCRIPTORS, Question
from virtiofs_sandbox.policies.share import CacheMode, Tier


class Outcome(enum.Enum):
    CARRIED_OUT = "carried out"
    WARNING = "warning"
    REFUSAL = "refusal"


_CARRIED_OUT: Mapping[Outcome, str] = {Outcome.CARRIED_OUT: ""}


@dataclass(frozen=True, eq=False)
class Option:
    """*value* is what its value is called, None for a switch. *legacy* are its words in the list of `-o`.

    *means*: what it does here. *row*: the row of policies/narrowing.py that judges it, None where it touches no policy.
    *outcomes* says when it is which. Of one that *repeats* each counts, of others the last.
    """

    names: tuple[str, ...]
    means: str
    apply: Apply
    value: str | None = None
    legacy: tuple[str, ...] = ()
    row: str | None = None
    outcomes: Mapping[Outcome, str] = field(default_factory=lambda: _CARRIED_OUT)
    ours: bool = False
    repeats: bool = False


def _warning(sentence: str) -> dict[str, Any]:
    """An option that is left out, with the guest getting less."""
    return {"apply": applying.warns(sentence), "outcomes": {Outcome.WARNING: sentence}}


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
        applying.shared_dir,
        "DIR",
        legacy=("source",),
        row="DIR",
    ),
    Option(
        ("--socket-path", "--socket"),
        "Made here, for its owner alone or with --socket-group for those too; a stale one is replaced, one in use is "
        "not; removed at the end. Its pid stands in a file beside it, PATH.pid.",
        applying.socket_path,
        "PATH",
        row="--socket",
    ),
    Option(
        ("--fd",),
        "An inherited socket that listens already.",
        applying.sets("fd", "--fd", applying.number),
        "N",
        row="--fd",
    ),
    Option(
        ("--socket-group",),
        "Group of the socket that is made here, whose members may connect.",
        applying.socket_group,
        "GROUP",
        row="--socket-group",
    ),
    Option(
        ("--tag",),
        "For monitors that ask for it. Without it: the policy's, or the directory's name.",
        applying.sets("tag", "--tag", applying.tag),
        "TAG",
        row="--tag",
    ),
    Option(
        ("--cache",),
        "What the guest may cache: never, auto, metadata, always. Without it: the policy's, or auto.",
        applying.sets("cache", "--cache", applying.one_of({mode.value: mode for mode in CacheMode})),
        "MODE",
        row="--cache",
    ),
    Option(
        (),
        "The same, with none for never.",
        applying.sets("cache", "--cache", applying.legacy_cache),
        "MODE",
        legacy=("cache",),
        row="--cache",
    ),
    Option(
        ("--readonly",),
        "A read-only mount, besides what Landlock and the worker refuse.",
        applying.sets("readonly", "--readonly", applying.on),
        row="--readonly",
    ),
    Option(("--xattr",), "Extended attributes for the guest.", applying.xattr, legacy=("xattr",), row="--xattr"),
    Option((), "None, whatever the policy has.", applying.no_xattr, legacy=("no_xattr",), row="-o no_xattr"),
    Option(
        ("--writeback",),
        "The guest may keep what it wrote for a while.",
        applying.sets("writeback", "--writeback", applying.on),
        legacy=("writeback",),
        row="--writeback",
    ),
    Option(
        (),
        "None, whatever the policy has.",
        applying.sets("writeback", "--writeback", applying.off),
        legacy=("no_writeback",),
        row="--writeback",
    ),
    Option(
        ("--sandbox",),
        "The least jail that the caller puts up with, never the one to build: that is always the strongest that the "
        "host allows. namespace: at least `userns`. chroot, none: without a policy `bare` will do.",
        applying.sets("tolerated", "--sandbox", applying.one_of(_TIERS)),
        "MODE",
        legacy=("sandbox",),
        row="--sandbox",
    ),
    Option(
        ("--seccomp",),
        "What a call outside the list gets: kill and trap, death; log, a record. Without it: an error.",
        applying.seccomp,
        "ACTION",
        row="--seccomp",
        outcomes={Outcome.CARRIED_OUT: "kill, trap, log", Outcome.WARNING: "none: the filter holds"},
    ),
    Option(
        ("--log-level",),
        "trace is debug here, off is error. RUST_LOG is not looked at.",
        applying.log_level,
        "LEVEL",
        row="--log-level",
    ),
    Option((), "The same.", applying.legacy_log_level, "LEVEL", legacy=("loglevel",), row="--log-level"),
    Option(
        ("-d",), "Debug.", lambda meaning, _, option: applying.log_level(meaning, "debug", option), row="--log-level"
    ),
    Option(
        ("--rlimit-nofile",),
        f"At most so many descriptors for the worker; more than the supervisor may have changes nothing. At least "
        f"{LEAST_DESCRIPTORS}; 0 is no change.",
        applying.nofile,
        "N",
    ),
    Option(
        ("--modcaps",),
        "The worker keeps at most seven capabilities, inside a user namespace of its own. -NAME takes one away.",
        applying.modcaps,
        "LIST",
        legacy=("modcaps",),
        outcomes={Outcome.CARRIED_OUT: "-NAME", Outcome.WARNING: "+NAME: there are no others"},
    ),
    Option(
        ("--uid-map",),
        "As root one line from 0 on, as a user oneself as 0 and a line from 1 on (what libvirt's session mode says), "
        "or oneself alone; the same for uid and gid.",
        applying.adds("uid_map", idmaps.extent),
        ":IN:OUT:COUNT:",
        row="--uid-map, --gid-map",
        outcomes={
            Outcome.CARRIED_OUT: "such a map",
            Outcome.WARNING: "another one, as a user: everything is this user's",
            Outcome.REFUSAL: "another one, as root",
        },
        repeats=True,
    ),
    Option(
        ("--gid-map",),
        "The same.",
        applying.adds("gid_map", idmaps.extent),
        ":IN:OUT:COUNT:",
        row="--uid-map, --gid-map",
        outcomes={Outcome.CARRIED_OUT: "as --uid-map"},
        repeats=True,
    ),
    Option(
        ("--translate-uid",),
        "As root map:0:FIRST:COUNT, the same for uid and gid: the guest's ids are those of the host from FIRST on.",
        applying.adds("uid_rules", idmaps.rule),
        "RULE",
        row="--uid-map, --gid-map",
        outcomes={
            Outcome.CARRIED_OUT: "that, and rules that change nothing",
            Outcome.WARNING: "host, squash-host: the guest is shown the host's owners",
            Outcome.REFUSAL: "others: what the guest makes would belong to others than it says",
        },
        repeats=True,
    ),
    Option(
        ("--translate-gid",),
        "The same.",
        applying.adds("gid_rules", idmaps.rule),
        "RULE",
        row="--uid-map, --gid-map",
        outcomes={Outcome.CARRIED_OUT: "as --translate-uid"},
        repeats=True,
    ),
    Option(
        ("--inode-file-handles",),
        "Descriptors are kept within a budget in any case.",
        applying.handles,
        "MODE",
        outcomes={
            Outcome.CARRIED_OUT: "never",
            Outcome.WARNING: f"prefer, fallback: {NO_HANDLES}",
            Outcome.REFUSAL: "mandatory",
        },
    ),
    Option(
        ("--announce-submounts",),
        "The guest is told where another file system begins; so it is in any case.",
        applying.nothing,
        legacy=("announce_submounts",),
    ),
    Option(
        ("--no-announce-submounts",),
        "Told where another file system begins, a guest gets nothing more by it.",
        **_warning("the guest is told where another file system begins all the same"),
    ),
    Option(("--allow-direct-io",), "", legacy=("allow_direct_io",), **_warning(_NO_DIRECT)),
    Option((), "So it is.", applying.nothing, legacy=("no_allow_direct_io",)),
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
    Option((), "So it is.", applying.nothing, legacy=("readdirplus",)),
    Option(("--killpriv-v2",), "", legacy=("killpriv_v2",), **_warning(_NO_KILLPRIV)),
    Option(("--no-killpriv-v2",), "So it is.", applying.nothing, legacy=("no_killpriv_v2",)),
    Option(
        ("--preserve-noatime",),
        "",
        **_warning("O_NOATIME of the guest is not passed on"),
    ),
    Option(("--posix-acl",), "Implies no --xattr here.", legacy=("posix_acl",), **_warning(_NO_ACLS)),
    Option((), "So it is.", applying.nothing, legacy=("no_posix_acl",)),
    Option(("--security-label",), "Implies no --xattr here.", legacy=("security_label",), **_warning(_NO_LABELS)),
    Option((), "So it is.", applying.nothing, legacy=("no_security_label",)),
    Option(
        ("--xattrmap",),
        "",
        applying.xattrmap,
        "RULES",
        legacy=("xattrmap",),
        row="-o no_xattr",
        outcomes={
            Outcome.WARNING: "alone: the guest gets no extended attributes",
            Outcome.REFUSAL: "with --xattr: it would have the host's own names",
        },
    ),
    Option((), "", legacy=("posix_lock",), **_warning(_NO_LOCKS)),
    Option((), "So it is.", applying.nothing, legacy=("no_posix_lock",)),
    Option((), "", legacy=("flock",), **_warning(_NO_LOCKS)),
    Option((), "So it is.", applying.nothing, legacy=("no_flock",)),
    Option(
        ("--migration-mode",),
        "",
        applying.migration_of("find-paths", "file-handles"),
        "MODE",
        outcomes={Outcome.WARNING: f"{_NO_MIGRATION}; one line for all of these"},
    ),
    Option(
        ("--migration-on-error",),
        "",
        applying.migration_of("abort", "guest-error"),
        "ACTION",
        outcomes={Outcome.WARNING: _NO_MIGRATION},
    ),
    Option(("--migration-verify-handles",), "", applying.migration, outcomes={Outcome.WARNING: _NO_MIGRATION}),
    Option(("--migration-confirm-paths",), "", applying.migration, outcomes={Outcome.WARNING: _NO_MIGRATION}),
    Option(
        ("--thread-pool-size",),
        "No meaning: there is a thread for each queue, and how many queues there are the policy says.",
        applying.a_number,
        "N",
    ),
    Option(
        ("--syslog",),
        "What is logged goes to standard error.",
        **_warning("log lines go to standard error, not to syslog"),
    ),
    Option(("-f",), "No meaning: it stays in the foreground.", applying.nothing),
    Option(
        ("--print-capabilities",),
        "Prints what libvirt asks for first, whatever else is said, and ends. No `migrate-precopy`.",
        applying.nothing,
    ),
    Option(("--help", "-h"), "Only where the command is called virtiofsd.", applying.asks(Question.HELP)),
    Option(("--version", "-V"), "Prints our version.", applying.asks(Question.VERSION)),
    Option(
        ("--persistent",),
        "Stay once the client has left, and serve the next one.",
        applying.sets("persistent", "--persistent", applying.on),
        row="--persistent",
        ours=True,
    ),
    Option(
        ("--policy-dir",),
        "Where policies are looked for.",
        applying.own("policy_dir"),
        "DIR",
        row="--policy-dir",
        ours=True,
    ),
    Option(
        ("--control-dir",),
        "Where it is asked by virtiofs-sandbox status and the like.",
        applying.own("control_dir"),
        "DIR",
        row="--control-dir",
        ours=True,
    ),
    Option(
        ("--log-format",),
        "Lines of text or JSON, or entries of the journal, as for run.",
        applying.log_format,
        "FORM",
        row="--log-format",
        ours=True,
    ),
    Option(
        ("--worker",),
        "Another worker, for tests.",
        applying.own("worker"),
        "PATH",
        row="--worker",
        ours=True,
    ),
)
