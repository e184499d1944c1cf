"""The same launch as root, as a user and in a container: its tier, that it serves, and what it still reaches."""

from __future__ import annotations

import errno

import pytest

from tests.environments import ENVIRONMENTS
from tests.escape.conftest import Scenario

BARE = [name for name, environment in ENVIRONMENTS.items() if environment.tier == "bare"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_request_is_served_wherever_a_jail_can_be_built(launch: Scenario, environment: str) -> None:
    result = launch("every_request", environment)
    assert result["refused"] == {}, result["log"]
    assert result["serves"]
    assert result["tier"] == ENVIRONMENTS[environment].tier


@pytest.mark.parametrize("environment", BARE)
def test_a_jail_without_namespaces_has_no_capability_and_a_session_of_its_own(
    launch: Scenario, environment: str
) -> None:
    seen = launch("serve", environment)
    assert seen["same_namespaces"] == ["mnt", "net", "pid", "user"]
    assert {name: seen["capabilities"][name] for name in ("CapPrm", "CapEff", "CapAmb")} == {
        "CapPrm": 0,
        "CapEff": 0,
        "CapAmb": 0,
    }
    assert (seen["no_new_privs"], seen["session"]) == ("1", True)
    uid = ENVIRONMENTS[environment].uid
    assert seen["owner"] == [uid, uid]


@pytest.mark.parametrize("environment", BARE)
def test_a_jail_without_namespaces_says_what_it_does_without(launch: Scenario, environment: str) -> None:
    warnings = launch("serve", environment)["warnings"]
    assert "no namespaces and no mounts of its own" in warnings[0]
    assert f"all belong to uid {ENVIRONMENTS[environment].uid}" in warnings[1]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nobody_of_a_jail_survives_its_keeper(launch: Scenario, environment: str) -> None:
    result = launch("nothing_survives", environment)
    assert result["group"] == 2, "keeper and worker were there"
    assert result["left"] == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_two_hundred_launches_leave_nothing_in_any_tier(launch: Scenario, environment: str) -> None:
    assert launch("repeated", environment, launches="200")["left"] == {}


@pytest.mark.parametrize(
    ("environment", "broken", "sentence"),
    [
        ("container", "group", "setting limits: open(cgroup.procs): No such file or directory; the control group"),
        ("container", "nofile", "setting limits: setrlimit(RLIMIT_NOFILE): Operation not permitted; the hard limit"),
        (
            "container",
            "become",
            "taking on the worker's ids: setgroups: Operation not permitted; the ids are not mapped",
        ),
        ("container", "source", "taking the mounts: open(share): No such file or directory; the shared directory '"),
        ("container", "worker", "taking the mounts: open(worker): No such file or directory; the worker '"),
        ("container", "capabilities", "dropping capabilities: capset: Operation not permitted;"),
        (
            "container",
            "landlock",
            "entering the Landlock domain: landlock_create_ruleset: Invalid argument; the kernel's",
        ),
        ("container", "seccomp", "loading the seccomp filter: seccomp: Invalid argument;"),
        (
            "user",
            "map",
            "entering a user namespace: write(uid_map): Operation not permitted; the ids may not be mapped",
        ),
    ],
)
def test_each_failing_stage_says_so_in_every_tier(
    launch: Scenario, environment: str, broken: str, sentence: str
) -> None:
    result = launch("failure", environment, broken=broken)
    assert result["sentence"].startswith(sentence)
    assert result["zygote"] == 4


RUNGS = ("userns_errno", "identity_errno", "mounts_errno", "idmapped_errno")


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ("root", {}),
        ("user", {"identity_errno": errno.EPERM, "idmapped_errno": errno.EPERM}),
        ("user-with-range", {"identity_errno": errno.EPERM, "idmapped_errno": errno.EPERM}),
        ("user-without-mounts", dict.fromkeys(("identity_errno", "idmapped_errno", "mounts_errno"), errno.EPERM)),
        ("root-without-namespaces", dict.fromkeys(RUNGS, errno.EPERM)),
        ("container", dict.fromkeys(RUNGS, errno.EPERM)),
    ],
)
def test_each_rung_is_found_as_it_is(launch: Scenario, environment: str, refused: dict[str, int]) -> None:
    found = launch("host", environment)
    assert {name: found[name] for name in RUNGS} == dict.fromkeys(RUNGS, 0) | refused
    failed = {"user-without-mounts": "mount", "root-without-namespaces": "unshare", "container": "unshare"}
    assert found["mounts_call"] == failed.get(environment, "")


def test_a_user_s_subordinate_ids_are_found_by_its_name(launch: Scenario) -> None:
    found = launch("host", "user-with-range")
    assert found["subuid"] == found["subgid"] == [[300_000, 65_536]]
    assert found["newuidmap"]


def test_newuidmap_is_of_no_use_to_who_may_gain_no_rights(launch: Scenario) -> None:
    assert not launch("host", "container")["newuidmap"]
