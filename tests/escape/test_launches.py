"""Launches that fail say why (I7) and leave nothing; jails depend on the right processes and on no other."""

from __future__ import annotations

import pytest

from tests.escape.conftest import Scenario


@pytest.mark.parametrize(
    ("broken", "call", "words"),
    [
        ("cgroup", "open(cgroup.procs)", ("setting limits", "No such file", "control group")),
        ("nofile", "setrlimit(RLIMIT_NOFILE)", ("setting limits", "not permitted", "LimitNOFILE")),
        ("uid_map", "write(uid_map)", ("entering a user namespace", "Invalid argument")),
        ("source", "open_tree(share)", ("taking the mounts", "no-such-directory", "does not exist")),
        ("worker", "open_tree(worker)", ("taking the mounts", "no-such-worker", "does not exist")),
        ("capabilities", "compare(capabilities)", ("dropping capabilities", "kernel")),
        ("securebits", "prctl(PR_SET_SECUREBITS)", ("dropping capabilities", "Invalid argument")),
        ("landlock", "landlock_create_ruleset", ("entering the Landlock domain", "Invalid argument")),
        ("seccomp", "seccomp", ("loading the seccomp filter", "Invalid argument")),
        ("program", "execveat", ("starting the worker", "Exec format error", "static program")),
    ],
)
def test_each_failing_stage_says_what_failed_and_what_to_do(
    scenario: Scenario, broken: str, call: str, words: tuple[str, ...]
) -> None:
    result = scenario("failure", stage=broken)
    print(result["sentence"])
    assert result["call"] == call
    assert [word for word in words if word not in result["sentence"]] == []
    assert "\n" not in result["sentence"]
    assert result["left"] == {}


def test_two_hundred_launches_leave_no_process_descriptor_or_mount(scenario: Scenario) -> None:
    result = scenario("leaks", launches="200")
    print(f"launch: {result['milliseconds']}")
    assert result["left"] == {}


@pytest.mark.parametrize(("by", "outcomes"), [("cancelling", {"CancelledError"}), ("zygote", {"LaunchError"})])
def test_a_launch_cut_off_at_any_moment_leaves_nothing(scenario: Scenario, by: str, outcomes: set[str]) -> None:
    result = scenario("cut_off", by=by, launches="30")
    assert result["left"] == {}
    assert outcomes <= set(result["outcomes"]) <= outcomes | {"NoneType"}


def test_the_zygote_s_death_touches_no_running_jail_and_a_new_one_serves(scenario: Scenario) -> None:
    result = scenario("zygote_dies")
    assert result["first_done"]
    assert "a new one has to be started" in result["refused"]
    assert result["second_done"]


@pytest.mark.parametrize(("ends", "expected"), [("yes", True), ("no", False)])
def test_a_jail_ends_with_its_supervisor_exactly_if_the_plan_says_so(
    scenario: Scenario, ends: str, expected: bool
) -> None:
    assert scenario("supervisor_dies", ends=ends)["jail_ended"] is expected
