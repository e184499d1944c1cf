"""A worker under an attacker's full control gets nowhere (I2), and each layer is shown to hold something by itself."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from tests.escape.conftest import Scenario

# Zeroing shared pages is within a worker's rights and harms nobody: the supervisor reads them with pread and believes
# nothing in them.
HARMLESS = {"statistics_punch", "arena_punch"}
# Of a share's work, what a read-only one still does.
READING = {"share_list_works", "share_read_works", "share_mount_below_works"}
# Through a map of one id nobody can be given a file.
NEEDS_ALL_IDS = {"share_chown_works"}

# What the filter alone stops. With it gone these get through on a usual kernel; all stay inside the jail.
ONLY_SECCOMP_STOPS = {
    "unshare_user",
    "clone_user",
    "clone_plain",
    "ptrace_keeper",
    "process_vm_readv",
    "socket_inet",
    "socket_unix",
    "socket_netlink",
    "keyctl",
    "add_key",
    "personality",
    "foreign_architecture",
    "exec_own_binary_again",
    "exec_new_memory",
    "map_executable",
    "parent_death_signal_off",
}
# As above, where the kernel has the feature and has not switched it off.
SECCOMP_STOPS_WHERE_PRESENT = {
    "clone3",
    "socket_inet_datagram",
    "socket_inet6",
    "socket_vsock",
    "socket_pair",
    "send_to_address",
    "io_uring_setup",
    "userfaultfd",
    "perf_event_open",
    "bpf",
    "kernel_log",
    "seccomp_listener",
    "x32_call",
    "map_then_make_executable",
    "dumpable",
    "subreaper",
    "setuid",
    "setgroups",
    "limit_of_the_keeper",
}
ONLY_LANDLOCK_STOPS = {"proc_own_environ", "proc_list_mount", "root_list"}
# With filter and Landlock gone, the mounts and the user namespace still hold these when every capability is kept.
NAMESPACES_AND_MOUNTS_STOP = {
    "share_dotdot",
    "share_dotdot_as_path",
    "share_absolute",
    "share_symlink_out",
    "proc_dotdot",
    "proc_dotdot_from_fd",
    "proc_root_link",
    "proc_cwd_link",
    "proc_sysctl",
    "proc_sysctl_from_fd",
    "proc_sysctl_read",
    "proc_cmdline",
    "proc_kcore",
    "proc_supervisor",
    "root_secret",
    "root_dotdot",
    "handle_outside",
    "binary_chmod",
    "binary_chown",
    "null_chmod",
    "null_chown",
    "null_times",
    "signal_supervisor",
    "pidfd_supervisor",
    "connect_abstract",
    "connect_pathname",
    "connect_tcp",
    "device_make",
    "device_make_block",
}


def succeeded(result: dict[str, Any]) -> set[str]:
    assert result["done"], "the prober died on the way"
    for name, attempt in sorted(result["attempts"].items()):
        number = attempt.get("errno")
        print(f"{name:40} {attempt['outcome']:8} {errno.errorcode.get(number, number) if number else ''}")
    unprepared = {name for name, attempt in result["attempts"].items() if attempt.get("errno") == 250}
    assert not unprepared, "attempts that could not even be made prove nothing"
    return {name for name, attempt in result["attempts"].items() if attempt["outcome"] == "allowed"}


def works(result: dict[str, Any]) -> set[str]:
    return {name for name in result["attempts"] if name.endswith("_works")}


def test_with_every_layer_on_the_share_works_and_nothing_else_does(scenario: Scenario) -> None:
    result = scenario("probe")
    assert succeeded(result) == works(result) | HARMLESS
    assert result["untouched"]


def test_an_unprivileged_jail_is_as_tight(scenario: Scenario) -> None:
    result = scenario("probe", user="unprivileged")
    assert result["tier"] == "userns"
    assert succeeded(result) == works(result) - NEEDS_ALL_IDS | HARMLESS
    assert result["untouched"]


def test_a_read_only_share_is_only_read(scenario: Scenario) -> None:
    """I4: by the mount, by Landlock and by a filter without the calls that change, whatever the worker believes."""
    assert succeeded(scenario("probe", access="read-only")) == READING


def test_a_read_only_share_stays_so_without_landlock_and_seccomp(scenario: Scenario) -> None:
    got = succeeded(scenario("probe", access="read-only", without="landlock+seccomp"))
    assert {name for name in got if name.endswith("_works")} == READING


def test_seccomp_alone_stops_what_only_it_can(scenario: Scenario) -> None:
    result = scenario("probe", without="seccomp")
    got = succeeded(result) - works(result) - HARMLESS
    assert got >= ONLY_SECCOMP_STOPS
    assert got <= ONLY_SECCOMP_STOPS | SECCOMP_STOPS_WHERE_PRESENT
    assert result["untouched"]


def test_landlock_alone_stops_what_only_it_can(scenario: Scenario) -> None:
    result = scenario("probe", without="landlock")
    assert succeeded(result) - works(result) - HARMLESS == ONLY_LANDLOCK_STOPS


@pytest.mark.parametrize("without", ["seccomp+landlock", "seccomp+landlock+capabilities"])
def test_mounts_and_namespaces_keep_the_host_out_of_reach_by_themselves(scenario: Scenario, without: str) -> None:
    result = scenario("probe", without=without)
    assert not succeeded(result) & NAMESPACES_AND_MOUNTS_STOP
    assert result["untouched"]


def test_dropped_capabilities_alone_keep_the_mounts_as_they_are(scenario: Scenario) -> None:
    of_mounts = {"mount", "umount", "share_make_writable", "unshare_mount", "chroot"}
    assert not succeeded(scenario("probe", without="seccomp+landlock")) & of_mounts
    assert succeeded(scenario("probe", without="seccomp+landlock+capabilities")) >= of_mounts


def test_shared_memory_stays_whole_for_the_supervisor(scenario: Scenario) -> None:
    """The prober truncated, grew and punched it; a page is still a page."""
    result = scenario("probe")
    outcomes = {name: attempt["outcome"] for name, attempt in result["attempts"].items()}
    resized = ("config_truncate", "statistics_truncate", "statistics_grow", "arena_truncate")
    assert {outcomes[name] for name in (*resized, "config_write", "config_punch")} == {"denied"}
    assert result["statistics_bytes"] == 4096
