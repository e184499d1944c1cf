"""Whether the socket can be made and reached is found without connecting to anybody."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
from tests.unit.checking import (
    FOREIGN,
    host,
    needs_root,
    none,
    only,
    reachable,
    share_of,
    source,
    subject,
)
from virtiofs_sandbox.confine import HostProbe
from virtiofs_sandbox.confine.preflight import Severity, check
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.syscalls import labels

__all__ = ["host", "reachable", "source"]


def test_a_socket_directory_that_is_missing_or_open_to_everybody_is_found(source: Path, host: HostProbe) -> None:
    place = source.parent
    missing = only(subject(share_of(source), host, Socket(place / "gone/s")), "socket-directory-missing")
    assert (missing.severity, missing.key) == (Severity.ERROR, "share.socket")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    only(subject(share_of(source), host, Socket(place / "open/s")), "socket-directory-open")
    (place / "open").chmod(0o1777)
    none(subject(share_of(source), host, Socket(place / "open/s")), "socket-directory-open")


def test_a_path_too_long_for_qemu_is_warned_of(source: Path, host: HostProbe) -> None:
    fits = source.parent / ("s" * (107 - len(os.fspath(source.parent)) - 1))
    none(subject(share_of(source), host, Socket(fits)), "socket-path-long")
    found = only(subject(share_of(source), host, Socket(fits.with_name(fits.name + "s"))), "socket-path-long")
    assert "108 bytes" in found.what


def test_a_socket_in_use_a_stale_one_and_a_file_in_its_place_are_told_apart(source: Path, host: HostProbe) -> None:
    place = source.parent
    made = subject(share_of(source), host, Socket(place / "s"))
    kinds = ("socket-in-use", "socket-stale", "socket-no-socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(place / "s"))
        listening.listen()
        listening.setblocking(False)
        assert only(made, "socket-in-use").severity is Severity.ERROR
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert [finding.kind for finding in check(made) if finding.kind in kinds] == ["socket-stale"]
    (place / "s").unlink()
    (place / "s").touch()
    assert [finding.kind for finding in check(made) if finding.kind in kinds] == ["socket-no-socket"]
    (place / "s").unlink()
    assert [finding.kind for finding in check(made) if finding.kind in kinds] == []


def test_a_socket_of_which_the_kernel_says_nothing_is_noted(
    source: Path, host: HostProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container's profile refuses netlink sockets."""

    def refused(_: str) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("virtiofs_sandbox.confine.preflight.sockets.listened_on", refused)
    made = subject(share_of(source), host, Socket(source.parent / "s"))
    none(made, "socket-uncertain")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(source.parent / "s"))
    assert only(made, "socket-uncertain").severity is Severity.NOTE


@needs_root
def test_a_group_that_cannot_reach_the_socket_is_told_where_it_stops(
    source: Path, host: HostProbe, reachable: Path
) -> None:
    closed = reachable / "closed"
    closed.mkdir(mode=0o700)
    found = only(subject(share_of(source), host, Socket(closed / "s", 0o660, FOREIGN)), "socket-unreachable")
    assert f"members of group {FOREIGN} cannot pass through {closed}" in found.what
    os.chown(closed, -1, FOREIGN)
    closed.chmod(0o710)
    none(subject(share_of(source), host, Socket(closed / "s", 0o660, FOREIGN)), "socket-unreachable")


def test_an_owner_and_a_label_that_cannot_be_given_are_found(source: Path, host: HostProbe) -> None:
    wanted = Socket(source.parent / "s", owner=FOREIGN, label="system_u:object_r:svirt_image_t:s0")
    powerless = dataclasses.replace(host, capabilities=0)
    assert only(subject(share_of(source), powerless, wanted), "socket-owner").severity is Severity.ERROR
    none(subject(share_of(source), powerless, dataclasses.replace(wanted, owner=os.geteuid())), "socket-owner")
    if not labels.is_enabled():
        found = only(subject(share_of(source), host, wanted), "socket-label")
        assert (found.severity, found.key) == (Severity.ERROR, "share.socket.label")
    none(subject(share_of(source), host, dataclasses.replace(wanted, label=None)), "socket-label")
