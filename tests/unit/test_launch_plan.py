"""What a host allows and a share needs decides the plan, and what is missing is said."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import CannotConfineError, HostProbe, LaunchPlan, Tier, ids, landlock, prepare
from virtiofs_sandbox.policies.share import Access, Share
from virtiofs_sandbox.syscalls import mounts

ROOT = HostProbe(
    kernel="6.12.0",
    uid=0,
    gid=0,
    capabilities=(1 << 41) - 1,
    last_capability=40,
    uid_map=b"         0          0 4294967295\n",
    gid_map=b"         0          0 4294967295\n",
    userns_errno=0,
    identity_errno=0,
    landlock_abi=7,
    nofile_hard=1 << 20,
    nr_open=1 << 20,
)
USER = dataclasses.replace(ROOT, uid=1000, gid=100, capabilities=0, identity_errno=errno.EPERM)
SHARE = Share("data", Path("/srv/data"), "data")
READ_ONLY = dataclasses.replace(SHARE, access=Access.READ_ONLY)


def plan(host: HostProbe = ROOT, share: Share = SHARE) -> LaunchPlan:
    return prepare(share, host, worker=Path("/usr/bin/virtiofs-worker"))


def test_root_gets_every_layer_without_a_warning() -> None:
    made = plan()
    assert (made.tier, made.ids, made.warnings) == (Tier.FULL, "caller", ())
    assert (made.uid_map, made.deny_setgroups) == (b"0 0 4294967295\n", False)


def test_a_user_gets_its_own_id_and_nothing_more() -> None:
    made = plan(USER)
    assert (made.tier, made.ids, made.warnings) == (Tier.USERNS, "self", ())
    assert (made.uid_map, made.gid_map, made.deny_setgroups) == (b"1000 1000 1\n", b"100 100 1\n", True)


def test_root_that_may_not_map_ids_is_told_what_that_means() -> None:
    made = plan(dataclasses.replace(ROOT, identity_errno=errno.EPERM))
    assert made.tier is Tier.USERNS
    assert "CAP_SETUID" in made.warnings[0] and "belong to uid 0" in made.warnings[0]


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "user.max_user_namespaces"), (errno.EPERM, "chroot")])
def test_without_user_namespaces_there_is_no_jail_and_one_sentence(number: int, hint: str) -> None:
    with pytest.raises(CannotConfineError, match=hint) as refused:
        plan(dataclasses.replace(USER, userns_errno=number))
    assert "\n" not in str(refused.value)


def test_a_container_s_ranges_are_mapped_to_themselves() -> None:
    """In a container, outside ids are not ours to name: the inside column is what our parent namespace knows."""
    assert ids.identity(b"  0  100000  65536\n  70000  1000  1\n") == b"0 0 65536\n70000 70000 1\n"


def test_the_share_is_never_a_place_to_run_open_devices_or_follow_links_in() -> None:
    attributes = plan().share_attributes
    for attribute in ("NOSUID", "NODEV", "NOEXEC", "NOSYMFOLLOW"):
        assert attributes & getattr(mounts, f"MOUNT_ATTR_{attribute}")
    assert not attributes & mounts.MOUNT_ATTR_RDONLY
    assert plan(share=READ_ONLY).share_attributes & mounts.MOUNT_ATTR_RDONLY


def test_a_read_only_share_keeps_one_capability_and_no_right_to_write() -> None:
    made = plan(share=READ_ONLY)
    assert made.capabilities == 0b10
    assert made.landlock is not None
    assert made.landlock.share_rights == int(landlock.READ)


def test_file_capabilities_are_set_only_for_shares_with_extended_attributes() -> None:
    assert not plan().capabilities >> 31 & 1
    assert plan(share=dataclasses.replace(SHARE, xattr=True)).capabilities >> 31 & 1


def test_a_plan_never_keeps_the_capability_that_opens_any_inode() -> None:
    shares = [SHARE, READ_ONLY, dataclasses.replace(SHARE, xattr=True)]
    assert [made for host in (ROOT, USER) for share in shares if (made := plan(host, share)).capabilities & 0b100] == []


def test_few_descriptors_are_a_warning_and_no_failure() -> None:
    made = plan(dataclasses.replace(USER, nofile_hard=1024))
    assert made.nofile == (1024, 1024)
    assert "limited to 1024" in made.warnings[0]


def test_with_the_right_to_raise_limits_they_are_raised() -> None:
    assert plan(dataclasses.replace(ROOT, nofile_hard=1024)).nofile == (1_000_000, 1_000_000)


def test_a_kernel_without_landlock_is_a_warning_that_names_what_holds() -> None:
    made = plan(dataclasses.replace(ROOT, landlock_abi=0))
    assert made.landlock is None
    assert "Landlock is not available" in made.warnings[0]


def test_an_older_landlock_is_a_warning_that_names_what_it_lacks() -> None:
    (warning,) = plan(dataclasses.replace(ROOT, landlock_abi=4)).warnings
    assert "device ioctls, abstract sockets and signals, denial records" in warning
