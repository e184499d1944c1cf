"""What a command line of virtiofsd's amounts to here, gathered option by option."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.compat.idmaps import Extent, Rule, of_namespace, of_rules

# What a worker needs to serve at all, with room for the files that a guest has open.
LEAST_DESCRIPTORS = 512


class Question(enum.Enum):
    """Something to print and be done."""

    HELP = "help"
    VERSION = "version"


@dataclass(frozen=True)
class Caller:
    """Who says it: *maps_all* is whether this user may map any id."""

    uid: int
    gid: int
    maps_all: bool


@dataclass
class Meaning:
    """*fields* are those of narrowing.Arguments; *spelling* is how each was written, by the name of its row there.

    *warnings* are options that are left out where the guest then gets less, *refusals* those where it would get more,
    a sentence each. *nofile*: the most open files; *dropped*: a mask of capabilities that the worker does without.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    shared_dir: str | None = None
    nofile: int | None = None
    dropped: int = 0
    policy_dir: Path | None = None
    control_dir: Path | None = None
    worker: Path | None = None
    log_format: LogForm | None = None
    question: Question | None = None
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    xattrmap: str | None = None
    migration: dict[str, None] = field(default_factory=dict)
    uid_map: list[Extent] = field(default_factory=list)
    gid_map: list[Extent] = field(default_factory=list)
    uid_rules: list[Rule] = field(default_factory=list)
    gid_rules: list[Rule] = field(default_factory=list)

    def warn(self, option: str, sentence: str) -> None:
        self.warnings.append(f"{option}: {sentence}")

    def refuse(self, option: str, sentence: str) -> None:
        self.refusals.append(f"{option}: {sentence}")

    def settle(self, caller: Caller) -> None:
        """Decides what takes several options to decide; to be called once, after the last one."""
        self._settle_xattrs()
        self._settle_ids(caller)
        if self.migration:
            self.warn(
                ", ".join(self.migration),
                "there is no live migration yet: the monitor will not find that the device can be moved",
            )
        if self.fields.get("socket_group") is None and "socket" in self.fields:
            self.fields["private"] = True

    def _settle_xattrs(self) -> None:
        if self.xattrmap is None:
            return
        if self.fields.get("xattr"):
            self.refuse(
                self.xattrmap,
                "names of extended attributes are not mapped yet, and with --xattr the guest would have the host's "
                "own; leave one of the two out",
            )
            return
        self.fields["no_xattr"] = True
        self.warn(self.xattrmap, "names are not mapped yet: the guest gets no extended attributes")

    def _settle_ids(self, caller: Caller) -> None:
        maps, rules = self.uid_map or self.gid_map, self.uid_rules or self.gid_rules
        if maps and rules:
            self.refuse("--uid-map, --gid-map", "they do not go with --translate-uid and --translate-gid")
        elif maps:
            self._settle_maps(caller)
        elif rules:
            self._settle_rules(caller)

    def _settle_maps(self, caller: Caller) -> None:
        identity = of_namespace(self.uid_map, self.gid_map, uid=caller.uid, gid=caller.gid, maps_all=caller.maps_all)
        if identity is not None:
            self.fields["identity"] = identity
        elif caller.maps_all:
            self.refuse(
                "--uid-map, --gid-map",
                "no such map can be had: the guest would get all ids; "
                "accepted as root: one line from 0 on, the same for both",
            )
        else:
            self.warn(
                "--uid-map, --gid-map",
                f"no such map can be had: everything belongs to uid {caller.uid}; accepted as this user: "
                f":0:{caller.uid}:1: and a line from 1 on, the same for both",
            )

    def _settle_rules(self, caller: Caller) -> None:
        changing = [[one for one in rules if not one.changes_nothing] for rules in (self.uid_rules, self.gid_rules)]
        asked = [one for rules in changing for one in rules if one.direction.changes_what_is_made]
        identity = of_rules(self.uid_rules, self.gid_rules) if caller.maps_all else None
        if identity is not None:
            self.fields["identity"] = identity
        elif asked:
            self.refuse(
                "--translate-uid, --translate-gid",
                "single ids are not translated yet: what the guest makes would belong to others than it says; "
                "accepted, as root: map:0:FIRST:COUNT, the same for both",
            )
        elif any(changing):
            self.warn(
                "--translate-uid, --translate-gid",
                "single ids are not translated yet: the guest is shown the host's owners",
            )
