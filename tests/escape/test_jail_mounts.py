"""Mounts that hold path rules and make trees (rules 22 to 25), seen through the jail's own root."""

from __future__ import annotations

from typing import Any

import pytest

from tests.escape.conftest import Scenario

RANGE = {"map": "range", "first": "200000", "count": "65536"}
CALLERS: list[tuple[str, dict[str, str]]] = [
    ("root", {}),
    ("root", {"map": "squash", "uid": "1234", "gid": "1235"}),
    ("root", RANGE),
    ("root", RANGE | {"idmapped": "yes"}),
    ("user", {}),
    ("user-with-range", {"map": "range"}),
]
ROOT = ["hidden-directory", "hidden-file", "share"]
ADJUSTING = "changing mounts of a running jail"


@pytest.fixture(params=CALLERS, ids=lambda caller: "-".join((caller[0], *caller[1])))
def caller(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    made: tuple[str, dict[str, str]] = request.param
    return made


def test_exact_rules_are_held_by_mounts_apart_from_the_worker(
    launch: Scenario, caller: tuple[str, dict[str, str]]
) -> None:
    result = launch("held_rules", caller[0], **caller[1])
    assert result["written"] == {
        "file": "",
        "frozen/file": "EROFS",
        "frozen/deep/file": "EROFS",
        "frozen/new": "EROFS",
        "open/file": "",
        "open/frozen-file": "EROFS",
    }
    assert result["hidden"]["mode"] == 0
    assert result["hidden"]["entries"] in ([], "EACCES")
    assert result["read"] == ["of the share", "of the share"], "Landlock grants what lies below the share's mount"


def test_dotdot_of_a_share_in_the_jail_s_root_ends_in_that_root(launch: Scenario) -> None:
    result = launch("held_rules")
    assert result["root"] == result["up"] == ROOT
    assert result["written_in_root"] == "EROFS"


def test_a_plan_says_which_rules_a_mount_holds_and_a_launch_which_it_could_not(launch: Scenario) -> None:
    result = launch("held_rules")
    assert result["rules"] == {
        "frozen": [True, "a read-only mount holds it"],
        "open/frozen-file": [True, "a read-only mount holds it"],
        "through-link/file": [False, "a symbolic link is on the way"],
        "not-there": [False, "it does not exist now"],
        "hidden": [True, "an empty mount hides it"],
        "*.key": [False, "it has wildcards"],
    }
    assert result["unheld"] == ["not-there", "through-link/file"]


def test_rules_come_and_go_below_a_running_jail(launch: Scenario, caller: tuple[str, dict[str, str]]) -> None:
    result = launch("live_rules", caller[0], **caller[1])
    assert result["written"] == ["", "EROFS", ""]
    assert result["masked"] in ([], "EACCES")
    assert result["unmasked"] == ["file"]


def test_a_change_that_cannot_be_made_says_why(launch: Scenario) -> None:
    beneath = "a path below the share's root is wanted, without empty components, '.' and '..'"
    assert launch("live_rules")["refused"] == [
        f"{ADJUSTING}, freeze 'through-link/file': openat2: Too many levels of symbolic links; a symbolic link is on "
        "the way",
        f"{ADJUSTING}, freeze 'not-there': openat2: No such file or directory; there is nothing at that path",
        f"{ADJUSTING}: adjust; '../secret': {beneath}",
        f"{ADJUSTING}: adjust; '/etc': {beneath}",
        f"{ADJUSTING}, thaw 'open': umount2: Invalid argument; nothing is mounted there, or it came with the share",
        f"{ADJUSTING}: adjust; 'name': only a tree share has children that come and go",
    ]


def test_a_tree_holds_each_child_as_its_access_says(launch: Scenario, caller: tuple[str, dict[str, str]]) -> None:
    result = launch("tree", caller[0], **caller[1])
    assert result["written"] == {"one/file": "", "two/file": "EROFS", "new": "EROFS"}
    assert (result["listed"], result["read"]) == (["one", "two"], ["of one", "of two"])
    assert result["up"] == ROOT


@pytest.fixture
def grown(launch: Scenario, caller: tuple[str, dict[str, str]]) -> dict[str, Any]:
    return launch("tree", caller[0], **caller[1])


def test_a_child_comes_and_goes_while_the_worker_serves(grown: dict[str, Any]) -> None:
    assert grown["listed_with_third"] == ["one", "three", "two"]
    assert (grown["read_third"], grown["written_third"]) == ("of three", "")
    assert grown["listed_without"] == ["one", "two"]
    assert grown["held_still_reads"] == "of three", "what is open stays usable until it is closed"
    assert grown["opened_after"] != 0, "Landlock grants nothing outside of the share's root"


def test_a_child_comes_once_and_goes_once(grown: dict[str, Any]) -> None:
    assert grown["again"] == f"{ADJUSTING}, attach 'three': mkdir: File exists; a child of that name is there already"
    assert grown["detached_again"].startswith(f"{ADJUSTING}, detach 'three': umount2: No such file or directory")


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ("root", "the share was launched without exact path rules or children, so it is no place to mount on"),
        ("container", "this tier has no mounts of its own"),
    ],
)
def test_where_mounts_cannot_change_a_new_jail_is_asked_for(launch: Scenario, environment: str, why: str) -> None:
    sentence = launch("detached", environment)["sentence"]
    assert sentence == f"{ADJUSTING}: adjust; {why}: launch a new jail with the changed share"


def test_nothing_is_changed_in_namespaces_that_are_not_the_jail_s(launch: Scenario) -> None:
    sentence = launch("foreign_namespace")["sentence"]
    assert sentence.startswith(f"{ADJUSTING}, freeze 'file': compare(namespace);")
