"""What a host allows and a share needs decides the plan, and what is missing is said."""

from __future__ import annotations

import dataclasses
import errno
import resource
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import CannotConfineError, HostProbe, LaunchPlan, Tier, ids, landlock, prepare
from virtiofs_sandbox.policies.share import Access, Sandbox, Share
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
    mounts_errno=0,
    mounts_call="",
    idmapped_errno=0,
    subuid=(),
    subgid=(),
    newuidmap=True,
    landlock_abi=7,
    nofile_hard=1 << 20,
    nr_open=1 << 20,
)
USER = dataclasses.replace(ROOT, uid=1000, gid=100, capabilities=0, identity_errno=errno.EPERM)
SHARE = Share("data", Path("/srv/data"), "data")
READ_ONLY = dataclasses.replace(SHARE, access=Access.READ_ONLY)


NO_NAMESPACES = dataclasses.replace(USER, userns_errno=errno.EPERM, mounts_errno=errno.EPERM, mounts_call="unshare")
NO_MOUNTS = dataclasses.replace(USER, mounts_errno=errno.EPERM, mounts_call="open_tree")
ADMIT_ALL = dataclasses.replace(SHARE, sandbox=Sandbox(minimum=Tier.BARE))
FULL_ONLY = dataclasses.replace(SHARE, sandbox=Sandbox(minimum=Tier.FULL))


def plan(host: HostProbe = ROOT, share: Share = SHARE) -> LaunchPlan:
    return prepare(share, host, worker=Path("/usr/bin/virtiofs-worker"))


def refusal(host: HostProbe, share: Share) -> str:
    with pytest.raises(CannotConfineError) as refused:
        plan(host, share)
    return str(refused.value)


def test_root_gets_every_layer_without_a_warning() -> None:
    made = plan()
    assert (made.tier, made.ids, made.warnings) == (Tier.FULL, "caller", ())
    assert (made.uid_map, made.deny_setgroups) == (b"0 0 4294967295\n", False)
    assert (made.become, made.early_mounts, made.attached) == (None, False, False)


def test_a_user_gets_its_own_id_and_nothing_more_and_is_told() -> None:
    made = plan(USER)
    assert (made.tier, made.ids) == (Tier.USERNS, "self")
    assert (made.uid_map, made.gid_map, made.deny_setgroups) == (b"1000 1000 1\n", b"100 100 1\n", True)
    assert made.warnings == (
        "files that guests create all belong to uid 1000; to keep the guests' ids, run as root, "
        'or set identity.map = "range" for a user with ids in /etc/subuid and /etc/subgid',
    )


def test_root_that_may_not_map_ids_is_told_what_that_means() -> None:
    made = plan(dataclasses.replace(ROOT, identity_errno=errno.EPERM))
    assert made.tier is Tier.USERNS
    assert "CAP_SETUID" in made.warnings[0] and "belong to uid 0" in made.warnings[0]


def test_a_host_without_landlock_is_no_more_than_userns() -> None:
    assert plan(dataclasses.replace(ROOT, landlock_abi=0)).tier is Tier.USERNS


# In full: each is all that somebody reads whose share does not start.
@pytest.mark.parametrize(
    ("host", "share", "sentence"),
    [
        (
            NO_NAMESPACES,
            SHARE,
            'this host allows the tier "bare", and sandbox.minimum is "userns": no user namespace can be made '
            "(Operation not permitted); leave the chroot, allow unshare in the container's seccomp profile, or allow "
            "it by kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns; or admit it by "
            'sandbox.minimum = "bare"',
        ),
        (
            dataclasses.replace(NO_NAMESPACES, userns_errno=errno.ENOSPC),
            SHARE,
            'this host allows the tier "bare", and sandbox.minimum is "userns": no user namespace can be made (No '
            "space left on device); raise user.max_user_namespaces, which is exhausted or 0; or admit it by "
            'sandbox.minimum = "bare"',
        ),
        (
            NO_MOUNTS,
            SHARE,
            'this host allows the tier "bare", and sandbox.minimum is "userns": a user namespace can be made, but has '
            "no right to mounts in it (open_tree: Operation not permitted); allow mount, fsopen, open_tree, "
            "move_mount, mount_setattr and pivot_root in the container's seccomp profile, or lift "
            'kernel.apparmor_restrict_unprivileged_userns; or admit it by sandbox.minimum = "bare"',
        ),
        (
            dataclasses.replace(NO_MOUNTS, mounts_call="fsmount(procfs)"),
            SHARE,
            'this host allows the tier "bare", and sandbox.minimum is "userns": a user namespace can be made, but has '
            "no right to mounts in it (fsmount(procfs): Operation not permitted); unmask /proc, of which a container "
            'covers parts; or admit it by sandbox.minimum = "bare"',
        ),
        (
            dataclasses.replace(NO_MOUNTS, mounts_errno=errno.EINVAL, mounts_call="pivot_root"),
            SHARE,
            'this host allows the tier "bare", and sandbox.minimum is "userns": a user namespace can be made, but has '
            "no right to mounts in it (pivot_root: Invalid argument); leave the chroot, or make the root directory a "
            'mount of its own; or admit it by sandbox.minimum = "bare"',
        ),
        (
            USER,
            FULL_ONLY,
            'this host allows the tier "userns", and sandbox.minimum is "full": uid 1000 may not map all ids into a '
            "user namespace (Operation not permitted); run as root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP; or "
            'admit it by sandbox.minimum = "userns"',
        ),
        (
            dataclasses.replace(ROOT, landlock_abi=0),
            FULL_ONLY,
            'this host allows the tier "userns", and sandbox.minimum is "full": Landlock is not available; start the '
            'kernel with landlock in its lsm= list; or admit it by sandbox.minimum = "userns"',
        ),
        (
            dataclasses.replace(NO_NAMESPACES, landlock_abi=0),
            ADMIT_ALL,
            "no jail can be built here: no user namespace can be made (Operation not permitted); leave the chroot, "
            "allow unshare in the container's seccomp profile, or allow it by kernel.unprivileged_userns_clone or "
            "kernel.apparmor_restrict_unprivileged_userns; and Landlock, which would then have to hold alone, is not "
            "available: start the kernel with landlock in its lsm= list",
        ),
    ],
)
def test_below_the_minimum_there_is_no_jail_and_one_sentence(host: HostProbe, share: Share, sentence: str) -> None:
    assert refusal(host, share) == sentence


@pytest.mark.parametrize("host", [NO_NAMESPACES, NO_MOUNTS])
def test_a_policy_that_admits_it_gets_the_jail_without_namespaces(host: HostProbe) -> None:
    made = plan(host, ADMIT_ALL)
    assert (made.tier, made.ids, made.attributes) == (Tier.BARE, "self", "open")
    assert (made.capabilities, made.lock_capabilities, made.process_limit) == (0, False, None)
    assert (made.uid_map, made.gid_map, made.become) == (b"", b"", None)
    lost, owner = made.warnings
    assert lost.startswith("no namespaces and no mounts of its own: Landlock and seccomp alone keep the worker in the")
    assert owner == ("files that guests create all belong to uid 1000: keeping the guests' ids takes a user namespace")


def test_a_container_s_root_locks_its_capabilities_away_where_it_may() -> None:
    made = plan(dataclasses.replace(ROOT, userns_errno=errno.EPERM), ADMIT_ALL)
    assert (made.tier, made.capabilities, made.lock_capabilities) == (Tier.BARE, 0, True)
    assert not made.deny_setgroups


def test_read_only_without_a_mount_says_what_holds_it() -> None:
    made = plan(NO_NAMESPACES, dataclasses.replace(ADMIT_ALL, access=Access.READ_ONLY))
    assert made.warnings[1] == (
        "read-only is held by Landlock and by the worker, not by a mount: nothing can be written, but reading moves "
        "the access times of files that belong to somebody else"
    )


def test_every_tier_bounds_memory_locks_none_of_it_and_dumps_none() -> None:
    for made in (plan(), plan(USER), plan(NO_NAMESPACES, ADMIT_ALL)):
        assert dict(made.limits) == {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_DATA: 1 << 30,
            resource.RLIMIT_MEMLOCK: 0,
        }


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
    made = plan(dataclasses.replace(ROOT, capabilities=0, nofile_hard=1024))
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
