"""The exact id and operation that would fail is named before a guest finds it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from tests.unit.checking import (
    FOREIGN,
    host,
    needs_root,
    none,
    of_kind,
    only,
    planned,
    share_of,
    single,
    source,
    subject,
)
from virtiofs_sandbox.confine import HostProbe, Tier
from virtiofs_sandbox.confine.preflight import Bounds, Severity, check
from virtiofs_sandbox.policies.share import (
    Access,
    Identity,
    IdMap,
    PathRules,
    Unmapped,
)

__all__ = ["host", "source"]


@needs_root
def test_the_id_without_a_mapping_and_the_operation_that_fails_are_named(source: Path, host: HostProbe) -> None:
    os.chown(source / "file", FOREIGN, -1)
    made = single(subject(share_of(source), host))
    found = only(made, "unmapped-uid")
    assert (found.severity, found.key) == (Severity.ERROR, "identity.map")
    assert f"chown, chmod and utimes of file by the guest: EPERM, uid {FOREIGN} has no mapping" in found.what
    none(made, "unmapped-gid")
    none(subject(share_of(source), host), "unmapped-uid")


@needs_root
def test_the_group_without_a_mapping_is_named(source: Path, host: HostProbe) -> None:
    os.chown(source / "file", -1, FOREIGN)
    found = only(single(subject(share_of(source), host)), "unmapped-gid")
    assert f"chgrp of file by the guest: EPERM, gid {FOREIGN}" in found.what


@needs_root
def test_where_nothing_can_be_changed_a_foreign_owner_is_no_error(source: Path, host: HostProbe) -> None:
    os.chown(source / "file", FOREIGN, -1)
    for settings in ({"access": Access.READ_ONLY}, {"paths": PathRules(readonly=("file",))}):
        found = only(single(subject(share_of(source, **settings), host)), "unmapped-uid")
        assert found.severity is Severity.NOTE


@needs_root
def test_hidden_files_of_foreign_owners_are_nobody_s_business(source: Path, host: HostProbe) -> None:
    os.chown(source / "file", FOREIGN, -1)
    none(single(subject(share_of(source, paths=PathRules(hide=("file",))), host)), "unmapped-uid")


@needs_root
def test_many_files_of_one_owner_are_one_finding_with_their_number(source: Path, host: HostProbe) -> None:
    for number in range(20):
        (source / f"f{number:02}").touch()
        os.chown(source / f"f{number:02}", FOREIGN, -1)
    assert "f00, f01, f02, f03, f04 and 15 more" in only(single(subject(share_of(source), host)), "unmapped-uid").what


@needs_root
def test_a_range_maps_what_lies_in_it(source: Path, host: HostProbe) -> None:
    os.chown(source / "file", 300005, 300005)
    os.chown(source, 300000, 300000)
    identity = Identity(map=IdMap.RANGE, first=300000, count=10)
    made = subject(share_of(source, identity=identity), host)
    if made.plan is None:
        pytest.skip(f"no range here: {made.refusal}")
    none(made, "unmapped-uid")
    os.chown(source / "file", 300010, 300005)
    assert "uid 300010 has no mapping" in only(made, "unmapped-uid").what


@needs_root
def test_what_the_worker_may_not_read_or_write_is_named(source: Path, host: HostProbe) -> None:
    (source / "closed").mkdir(mode=0o700)
    (source / "secret").touch(mode=0o600)
    for name in ("closed", "secret"):
        os.chown(source / name, FOREIGN, FOREIGN)
    made = single(subject(share_of(source), host), 1000)
    made = dataclasses.replace(made, host=dataclasses.replace(host, uid=1000, gid=1000))
    unreadable = {finding.what for finding in of_kind(check(made), "unreadable")}
    assert any(what.startswith("READ of secret by the guest: EACCES") for what in unreadable)
    assert any(what.startswith("READDIR and LOOKUP of closed by the guest: EACCES") for what in unreadable)
    unwritable = {finding.what for finding in of_kind(check(made), "unwritable")}
    assert any(what.startswith("create, rename and unlink in the share's root") for what in unwritable)
    readonly = dataclasses.replace(made, share=share_of(source, access=Access.READ_ONLY))
    none(readonly, "unwritable")
    none(subject(share_of(source), host), "unreadable")


def test_a_guest_s_id_beyond_the_map_is_named_with_the_operation(source: Path, host: HostProbe) -> None:
    few = planned(
        subject(share_of(source), host, guest_ids=(0, 1001)),
        lambda plan: dataclasses.replace(
            plan, tier=Tier.USERNS, ids="caller", uid_map=b"0 300000 1000\n", gid_map=b"0 300000 1000\n"
        ),
    )
    found = only(few, "unmapped-guest")
    assert (found.severity, found.key) == (Severity.ERROR, "identity.unmapped")
    assert "create as uid 1001 in any directory by the guest: EPERM" in found.what
    squashing = Identity(unmapped=Unmapped.SQUASH)
    lenient = dataclasses.replace(few, share=share_of(source, identity=squashing))
    none(lenient, "unmapped-guest")
    assert "uid 1001 in the guest" in only(lenient, "squashed-guest").what
    none(dataclasses.replace(few, bounds=Bounds(guest_ids=(999,))), "unmapped-guest")
