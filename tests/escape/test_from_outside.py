"""What the kernel says about a live jail, read from outside: not what we asked for, but what is."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.escape.conftest import Scenario

CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, SETFCAP = 0, 1, 3, 4, 6, 7, 31


@pytest.fixture(scope="module", params=["root", "unprivileged"])
def seen(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def jail(seen: str, scenario: Scenario) -> dict[str, Any]:
    return scenario("inspect", user=seen)


def mask(*capabilities: int) -> int:
    return sum(1 << capability for capability in capabilities)


def sets(jail: dict[str, Any]) -> dict[str, int]:
    return {name: int(jail["status"][name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_a_jail_holds_the_share_s_capabilities_and_an_empty_bounding_set(seen: str, jail: dict[str, Any]) -> None:
    all_ids = (CHOWN, SETGID, SETUID, SETFCAP) if seen == "root" else ()
    kept = mask(DAC_OVERRIDE, FOWNER, FSETID, *all_ids)
    assert sets(jail) == {"CapInh": kept, "CapPrm": kept, "CapEff": kept, "CapBnd": 0, "CapAmb": kept}


def test_a_read_only_share_needs_one_capability(scenario: Scenario) -> None:
    assert sets(scenario("inspect", access="read-only"))["CapEff"] == mask(DAC_OVERRIDE)


def test_filter_and_no_new_privs_are_on(jail: dict[str, Any]) -> None:
    assert (jail["status"]["Seccomp"], jail["status"]["NoNewPrivs"]) == ("2", "1")


def test_every_namespace_is_its_own(jail: dict[str, Any]) -> None:
    same = {name for name, link in jail["namespaces"].items() if link == jail["our_namespaces"][name]}
    assert same == set()


def test_it_is_the_first_process_of_its_pid_namespace_and_leads_its_session(jail: dict[str, Any]) -> None:
    assert jail["status"]["NSpid"].split()[1] == "1"
    assert jail["session"]


def test_root_maps_every_id_and_others_only_their_own(seen: str, jail: dict[str, Any]) -> None:
    assert jail["uid_map"] == (["0", "0", "4294967295"] if seen == "root" else ["65534", "65534", "1"])


def test_descriptors_are_exactly_the_documented_ones(jail: dict[str, Any]) -> None:
    kinds = {number: link.split(":")[0].split(" ")[0] for number, link in jail["descriptors"].items()}
    memfds = {"4": "/memfd", "5": "/memfd", "6": "/memfd"}
    assert kinds == {"0": "/", "1": "/", "2": "pipe", "3": "socket", "7": "/", "8": "/", **memfds}
    access = {number: flags & os.O_ACCMODE for number, flags in jail["flags"].items() if int(number) < 3}
    assert access == {"0": os.O_RDONLY, "1": os.O_WRONLY, "2": os.O_WRONLY}
    assert all(jail["flags"][number] & os.O_PATH for number in ("7", "8"))
    assert jail["flags"]["2"] & os.O_NONBLOCK


def test_no_descriptor_but_the_documented_ones_survived_exec(jail: dict[str, Any]) -> None:
    close_on_exec = {number for number, flags in jail["flags"].items() if flags & os.O_CLOEXEC}
    assert close_on_exec == set()


def test_no_signal_stays_blocked_or_ignored_but_the_runtime_s_broken_pipe(jail: dict[str, Any]) -> None:
    assert int(jail["status"]["SigBlk"], 16) == 0
    assert int(jail["status"]["SigIgn"], 16) & ~(1 << signal.SIGPIPE - 1) == 0


def test_its_root_is_empty_and_read_only_and_the_only_mount(jail: dict[str, Any]) -> None:
    assert (jail["root_entries"], jail["root_read_only"], jail["cwd"]) == ([], True, True)
    assert len(jail["mounts"]) == 1


def test_environment_is_empty_and_arguments_are_documented(jail: dict[str, Any]) -> None:
    assert jail["environment"] == ""
    assert jail["command_line"] == ["virtiofs-worker", "probe", ""]


def test_limits_are_set(jail: dict[str, Any]) -> None:
    assert jail["core_limit"] == [0, 0]
    assert jail["nofile_limit"][0] == jail["nofile_limit"][1]
    assert jail["oom_score_adj"] == 1000


def test_supplementary_groups_of_the_supervisor_are_gone(scenario: Scenario) -> None:
    assert scenario("inspect", groups="4,5")["status"]["Groups"].split() == []
