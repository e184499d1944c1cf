"""Whom a worker is on the host, and whose the files are, for each identity a policy may choose: read from outside."""

from __future__ import annotations

import pytest

from tests.escape.conftest import Scenario

CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP = (1 << bit for bit in (0, 1, 3, 4, 6, 7, 31))
FOR_ONE_ID = DAC_OVERRIDE | FOWNER | FSETID
FOR_ALL_IDS = FOR_ONE_ID | CHOWN | SETGID | SETUID | SETFCAP
RANGE = {"map": "range", "first": "200000", "count": "65536"}
SQUASH = {"map": "squash", "uid": "1234", "gid": "1235"}


def test_identity_stores_the_guest_s_ids_as_they_are(launch: Scenario) -> None:
    seen = launch("serve", caller="5")
    assert (seen["uid"], seen["uid_map"]) == (["0"], ["0", "0", "4294967295"])
    assert seen["owner"] == [5, 5]


def test_squash_acts_as_the_one_id_it_maps_wherever_the_share_lies(launch: Scenario) -> None:
    """The directories above belong to root alone: the mounts are taken before the worker's ids are."""
    seen = launch("serve", **SQUASH, owner="1234", closed="yes", groups="4,5")
    assert (seen["uid"], seen["gid"], seen["groups"]) == (["1234"], ["1235"], [])
    assert (seen["uid_map"], seen["gid_map"]) == (["1234", "1234", "1"], ["1235", "1235", "1"])
    assert (seen["owner"], seen["read"]) == ([1234, 1235], "of the share")
    assert seen["capabilities"] == {"CapPrm": FOR_ONE_ID, "CapEff": FOR_ONE_ID, "CapBnd": 0, "CapAmb": FOR_ONE_ID}


def test_a_range_keeps_the_guest_s_ids_apart_and_away_from_the_host_s(launch: Scenario) -> None:
    seen = launch("serve", **RANGE, owner="200000", closed="yes", groups="4,5", caller="5")
    assert (seen["uid"], seen["gid"], seen["groups"]) == (["200000"], ["200000"], [])
    assert (seen["uid_map"], seen["gid_map"]) == (["0", "200000", "65536"], ["0", "200000", "65536"])
    assert (seen["owner"], seen["read"]) == ([200005, 200005], "of the share")
    assert seen["capabilities"]["CapEff"] == FOR_ALL_IDS


def test_id_mapped_the_worker_is_of_the_range_and_the_files_are_the_guest_s(launch: Scenario) -> None:
    seen = launch("serve", **RANGE, idmapped="yes", closed="yes", caller="5")
    assert (seen["uid"], seen["uid_map"]) == (["200000"], ["0", "200000", "65536"])
    assert (seen["owner"], seen["read"]) == ([5, 5], "of the share")


def test_a_user_s_range_begins_with_the_user_s_own_id(launch: Scenario) -> None:
    seen = launch("serve", "user-with-range", map="range", caller="5")
    assert (seen["uid"], seen["tier"]) == (["61234"], "userns")
    assert seen["uid_map"] == seen["gid_map"] == ["0", "61234", "1", "1", "300000", "65536"]
    assert seen["owner"] == [300004, 300004]
    assert seen["capabilities"]["CapEff"] == FOR_ALL_IDS


def test_a_user_without_a_range_owns_what_guests_create_and_is_told(launch: Scenario) -> None:
    seen = launch("serve", "user", caller="5")
    assert (seen["uid_map"], seen["owner"]) == (["65534", "65534", "1"], [65534, 65534])
    assert "all belong to uid 65534" in seen["warnings"][0]


def test_root_that_can_make_no_namespace_can_still_become_somebody_else(launch: Scenario) -> None:
    seen = launch("serve", "root-without-namespaces", **SQUASH, owner="1234", groups="4,5")
    assert (seen["tier"], seen["uid"], seen["gid"], seen["groups"]) == ("bare", ["1234"], ["1235"], [])
    assert (seen["owner"], seen["read"]) == ([1234, 1235], "of the share")
    assert (seen["capabilities"]["CapPrm"], seen["capabilities"]["CapEff"]) == (0, 0)


@pytest.mark.parametrize("options", [{}, SQUASH, RANGE, RANGE | {"idmapped": "yes"}])
def test_limits_bind_every_identity(launch: Scenario, options: dict[str, str]) -> None:
    limits = launch("serve", **options)["limits"]
    assert limits["RLIMIT_DATA"] == [1 << 30, 1 << 30]
    assert (limits["RLIMIT_NPROC"], limits["RLIMIT_MEMLOCK"], limits["RLIMIT_CORE"]) == ([64, 64], [0, 0], [0, 0])


@pytest.mark.parametrize("options", [SQUASH, RANGE, RANGE | {"idmapped": "yes"}])
def test_launches_by_other_ids_leave_nothing_in_the_zygote(launch: Scenario, options: dict[str, str]) -> None:
    assert launch("repeated", launches="30", rules="yes", **options)["left"] == {}


@pytest.mark.parametrize(
    ("environment", "broken", "options", "sentence"),
    [
        ("root", "become", SQUASH, "taking on the worker's ids: setresgid: Invalid argument; the ids are not mapped"),
        (
            "root",
            "source",
            RANGE,
            "taking the mounts: open_tree(share): No such file or directory; the shared directory",
        ),
        ("root", "worker", RANGE, "taking the mounts: open_tree(worker): No such file or directory; the worker '"),
        (
            "root",
            "file-system",
            RANGE | {"idmapped": "yes"},
            "taking the mounts: mount_setattr(MOUNT_ATTR_IDMAP): Invalid argument; the share's file system does not",
        ),
        (
            "user-with-range",
            "map",
            {"map": "range"},
            "entering a user namespace: newuidmap; the range must be the user's in /etc/subuid",
        ),
        (
            "user-with-range",
            "helpers",
            {"map": "range"},
            "entering a user namespace: newuidmap: No such file or directory; the range must be",
        ),
    ],
)
def test_an_identity_that_cannot_be_taken_on_says_so_and_leaves_nothing(
    launch: Scenario, environment: str, broken: str, options: dict[str, str], sentence: str
) -> None:
    result = launch("failure", environment, broken=broken, **options)
    assert result["sentence"].startswith(sentence)
    assert result["zygote"] == 4
