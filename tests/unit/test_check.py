"""Each thing that would fail later is found and named; where it is not there, nothing is said of it."""

from __future__ import annotations

import dataclasses
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.checking import (
    OURS,
    ROOT,
    documented,
    host,
    needs_root,
    none,
    of_kind,
    only,
    planned,
    ruled,
    share_of,
    source,
    subject,
)
from virtiofs_sandbox.confine import HostProbe, Tier
from virtiofs_sandbox.confine.preflight import Finding, Severity, Subject, check
from virtiofs_sandbox.confine.preflight.directories import directories
from virtiofs_sandbox.confine.preflight.filesystem import Mount, consequences, telling_apart
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Child,
    Sandbox,
    Share,
)

__all__ = ["host", "source"]


def test_nothing_is_wrong_with_a_plain_directory(source: Path, host: HostProbe) -> None:
    made = subject(share_of(source), host, Socket(source.parent / "s"), guest_ids=(OURS,))
    assert [finding for finding in check(made) if finding.severity is Severity.ERROR] == []


def test_a_source_that_is_missing_or_no_directory_is_an_error(source: Path, host: HostProbe) -> None:
    missing = only(subject(share_of(source / "gone"), host), "source-missing")
    assert (missing.severity, missing.key) == (Severity.ERROR, "share.source")
    assert f"{source / 'gone'} does not exist" in missing.what
    assert only(subject(share_of(source / "file"), host), "source-no-directory").severity is Severity.ERROR
    for kind in ("source-missing", "source-no-directory"):
        none(subject(share_of(source), host), kind)


def test_a_source_that_is_a_link_is_noted(source: Path, host: HostProbe) -> None:
    link = source.parent / "link"
    link.symlink_to(source)
    assert str(source) in only(subject(share_of(link), host), "source-link").what
    none(subject(share_of(source), host), "source-link")


def test_each_directory_of_a_tree_is_looked_at(source: Path, host: HostProbe) -> None:
    children = (Child("here", source), Child("there", source.parent / "gone"))
    found = only(subject(Share("data", None, "data", children=children), host), "source-missing")
    assert found.key == "share.tree.there"


def kinds(share: Share, kind: str, *, options: str = "rw", own: str = "rw") -> set[tuple[str, Severity]]:
    mount = Mount(1, "/", frozenset(options.split(",")), kind, frozenset(own.split(",")))
    (directory,) = directories(share)
    return {(finding.kind, finding.severity) for finding in consequences(directory, mount, share, 1000)}


@pytest.mark.parametrize(
    ("kind", "own", "found"),
    [
        ("ext4", "rw", set()),
        ("xfs", "rw", set()),
        ("nfs4", "rw", {("network-file-system", Severity.WARNING)}),
        ("cifs", "rw", {("network-file-system", Severity.WARNING)}),
        ("overlay", "rw", {("overlay-file-system", Severity.NOTE)}),
        ("tmpfs", "rw", {("volatile-file-system", Severity.NOTE)}),
        ("vfat", "rw", {("no-owners", Severity.ERROR)}),
        ("fuse.sshfs", "rw,user_id=7", {("fuse-closed", Severity.ERROR)}),
        ("fuse.sshfs", "rw,user_id=1000", {("fuse-file-system", Severity.WARNING)}),
        ("fuse", "rw,user_id=7,allow_other", {("fuse-file-system", Severity.WARNING)}),
        ("ext4", "ro", {("source-read-only", Severity.ERROR)}),
    ],
)
def test_the_kind_of_the_file_system_has_its_consequences(
    source: Path, kind: str, own: str, found: set[tuple[str, Severity]]
) -> None:
    assert kinds(share_of(source), kind, own=own) == found


def test_consequences_of_writing_are_none_where_nothing_is_written(source: Path) -> None:
    share = share_of(source, access=Access.READ_ONLY)
    assert kinds(share, "ext4", options="ro") == set()
    assert kinds(share, "vfat") == {("no-owners", Severity.NOTE)}


def test_caching_over_a_network_is_warned_of(source: Path) -> None:
    assert ("cache-over-network", Severity.WARNING) in kinds(share_of(source, cache=CacheMode.ALWAYS), "nfs")
    assert ("cache-over-network", Severity.WARNING) not in kinds(share_of(source, cache=CacheMode.ALWAYS), "xfs")


def test_a_file_system_without_attributes_birth_times_and_handles_is_found_by_trying(
    source: Path, host: HostProbe
) -> None:
    """procfs has none of them; one of its directories stands for such a file system."""
    attributes = only(subject(share_of(Path("/proc/sys/vm"), xattr=True), host, entries=10), "no-xattr")
    assert (attributes.severity, attributes.key) == (Severity.ERROR, "share.xattr")
    assert "EOPNOTSUPP" in attributes.what
    assert only(subject(share_of(Path("/proc/sys/vm")), host, entries=10), "no-identity").severity is Severity.WARNING
    none(subject(share_of(Path("/proc/sys/vm")), host, entries=10), "no-xattr")
    none(subject(share_of(source, xattr=True), host), "no-xattr")
    none(subject(share_of(source), host), "no-identity")


@pytest.mark.parametrize(
    ("birth_times", "handles", "found"),
    [
        (True, True, []),
        (False, True, ["no-birth-times"]),
        (True, False, ["no-handles"]),
        (False, False, ["no-identity"]),
    ],
)
def test_what_files_are_told_apart_by_has_its_cost(
    source: Path, birth_times: bool, handles: bool, found: list[str]
) -> None:
    (directory,) = directories(share_of(source))
    told = telling_apart(directory, birth_times=birth_times, handles=handles)
    assert [finding.kind for finding in told] == found


def test_mounts_inside_are_listed(source: Path, host: HostProbe) -> None:
    assert "/dev/pts" in only(subject(share_of(Path("/dev")), host), "mounts-inside").what
    none(subject(share_of(source), host), "mounts-inside")


def test_set_id_programs_are_warned_of(source: Path, host: HostProbe) -> None:
    none(subject(share_of(source), host), "set-id")
    (source / "program").touch()
    (source / "program").chmod(0o4755)
    assert "program (-rwsr-xr-x" in only(subject(share_of(source), host), "set-id").what


@needs_root
def test_device_nodes_are_warned_of(source: Path, host: HostProbe) -> None:
    none(subject(share_of(source), host), "device")
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert "device nodes: null" in only(subject(share_of(source), host), "device").what


def test_sockets_are_noted(source: Path, host: HostProbe) -> None:
    none(subject(share_of(source), host), "socket-in-share")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(source / "talk"))
    assert "sockets: talk" in only(subject(share_of(source), host), "socket-in-share").what


def test_names_of_any_bytes_are_shown_as_text(source: Path, host: HostProbe) -> None:
    name = os.fsdecode(b"pro\xffgram\n")
    (source / name).touch()
    (source / name).chmod(0o4755)
    what = only(subject(share_of(source), host), "set-id").what
    assert "pro\\\\xffgram\\n" in what
    assert what.isprintable()


def test_a_long_tree_is_cut_short_and_says_so(source: Path, host: HostProbe) -> None:
    for number in range(30):
        (source / f"f{number:02}").touch()
    cut = only(subject(share_of(source), host, entries=10), "cut-short")
    assert "after 10 entries" in cut.what
    none(subject(share_of(source), host), "cut-short")
    assert "s, at" in only(subject(share_of(source), host, seconds=0.0), "cut-short").what


def test_more_files_than_descriptors_are_noted(source: Path, host: HostProbe) -> None:
    for number in range(30):
        (source / f"f{number:02}").touch()
    few = planned(subject(share_of(source), host), lambda plan: dataclasses.replace(plan, nofile=(20, 20)))
    assert "32 entries, and 20 open files" in only(few, "more-files-than-descriptors").what
    none(subject(share_of(source), host), "more-files-than-descriptors")


def test_a_host_below_the_minimum_is_an_error_in_the_launcher_s_own_words(source: Path, host: HostProbe) -> None:
    weak = dataclasses.replace(host, userns_errno=1, mounts_errno=1, mounts_call="unshare", identity_errno=1)
    made = subject(share_of(source), weak)
    found = only(made, "cannot-confine")
    assert (found.severity, found.key) == (Severity.ERROR, "sandbox.minimum")
    assert found.what == made.refusal
    none(subject(share_of(source, sandbox=Sandbox(minimum=Tier.BARE)), weak), "cannot-confine")
    none(subject(share_of(source), host), "cannot-confine")


def test_warnings_of_the_plan_are_findings(source: Path, host: HostProbe) -> None:
    made = planned(subject(share_of(source), host), lambda plan: dataclasses.replace(plan, warnings=("no Landlock",)))
    assert only(made, "layer-missing").what == "no Landlock"
    none(planned(subject(share_of(source), host), lambda plan: dataclasses.replace(plan, warnings=())), "layer-missing")


def test_a_read_only_promise_that_is_kept_fewer_ways_says_which_i4(source: Path, host: HostProbe) -> None:
    share = share_of(source, access=Access.READ_ONLY)
    full = subject(share, host)
    if host.landlock_abi:
        none(full, "read-only-fewer-ways")
    without = planned(full, lambda plan: dataclasses.replace(plan, landlock=None))
    found = only(without, "read-only-fewer-ways")
    assert "2 of 3 ways" in found.what
    assert "Landlock" not in found.what
    bare = planned(without, lambda plan: dataclasses.replace(plan, tier=Tier.BARE))
    assert "1 of 3 ways" in only(bare, "read-only-fewer-ways").what


def test_a_look_that_hangs_or_fails_is_a_finding_and_the_others_are_made(
    source: Path, host: HostProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(_: Subject) -> Iterator[Finding]:
        time.sleep(60)
        yield from ()

    def breaks(_: Subject) -> Iterator[Finding]:
        yield Finding(Severity.NOTE, "before", "found before it broke", "nothing")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(
        "virtiofs_sandbox.confine.preflight._LOOKS", {"the disk": breaks, "the server": hangs, "all": lambda _: ()}
    )
    monkeypatch.setattr("virtiofs_sandbox.confine.preflight._GRACE_SECONDS", 0.2)
    start = time.monotonic()
    every = check(subject(share_of(source), host, seconds=0.1))
    found = of_kind(every, "look-failed")
    assert time.monotonic() - start < 30
    assert [("the disk" in finding.what, "Input/output error" in finding.what) for finding in found[:1]] == [
        (True, True)
    ]
    assert "the server" in found[1].what
    assert "no answer within" in found[1].what
    assert len(of_kind(every, "before")) == 1


def test_the_worst_comes_first(source: Path, host: HostProbe) -> None:
    (source / "program").touch()
    (source / "program").chmod(0o4755)
    made = subject(ruled(source, hide=("later",)), host, Socket(source.parent / "gone/s"))
    ranks = [finding.severity.rank for finding in check(made)]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


def test_every_documented_kind_is_planted_by_a_test() -> None:
    """Here, or where other users and mounts are needed."""
    files = (*(ROOT / "tests/unit").glob("test_check*.py"), ROOT / "tests/integration/test_reports.py")
    tests = "".join(file.read_text() for file in files)
    assert {kind for kind in documented() if f'"{kind}"' not in tests} == set()
