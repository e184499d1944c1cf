"""The reports as commands: as root, as an ordinary user, and where namespaces cannot be had."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.environments import ENVIRONMENTS, unavailable
from tests.integration.running import ROOT, Running

COMMAND = os.fspath(Path(sys.executable).parent / "virtiofs-sandbox")


def report(*arguments: str, prefix: Sequence[str] = ()) -> tuple[int, Any]:
    """Exit status and data of one report."""
    done = subprocess.run(
        [*prefix, COMMAND, *arguments, "--as", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def states(data: Any) -> dict[str, str]:
    return {feature["key"]: feature["state"] for feature in data["features"]}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def inside(name: str, place: Path) -> list[str]:
    """The start of a command line that runs the rest in environment *name*; *place* is its user's."""
    if reason := unavailable(name):
        pytest.skip(reason)
    return ENVIRONMENTS[name].command(place)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_doctor_reaches_the_tier_of_each_environment(name: str, place: Path) -> None:
    status, data = report("doctor", prefix=inside(name, place))
    tier = ENVIRONMENTS[name].tier
    assert (status, data["tier"]) == (1 if tier == "bare" else 0, tier)
    assert all(
        feature["state"] != "unknown" or "not reached" in feature["said"] or feature["key"] == "lsm-list"
        for feature in data["features"]
    )


def test_doctor_as_an_ordinary_user_names_what_root_would_have(place: Path) -> None:
    found = states(report("doctor", prefix=inside("user", place))[1])
    assert found["user-namespace"] == "there"
    assert {found[key] for key in ("root", "cap-setuid", "cap-audit-read", "subuid")} == {"missing"}
    assert {found[key] for key in ("identity-map", "audit-multicast", "idmapped-mounts")} == {"restricted"}


def test_doctor_with_a_range_of_ids_sees_it(place: Path) -> None:
    _, data = report("doctor", prefix=inside("user-with-range", place))
    (ways,) = [way for way in data["ways"] if way["name"] == 'identity.map = "range"']
    assert (ways["tier"], ways["ids"]) == ("userns", "caller")
    found = states(data)
    assert {found[key] for key in ("subuid", "subgid", "newuidmap", "newgidmap")} == {"there"}


def test_doctor_without_mounts_in_a_user_namespace_names_the_call(place: Path) -> None:
    _, data = report("doctor", prefix=inside("user-without-mounts", place))
    assert states(data)["user-namespace"] == "there"
    (first,) = [feature for feature in data["features"] if feature["key"] == "mount-clone"]
    assert (first["state"], first["errno"]) == ("restricted", 1)
    assert first["said"].startswith("mount: EPERM")


def test_doctor_in_a_container_names_what_its_runtime_took_away(place: Path) -> None:
    _, data = report("doctor", prefix=inside("container", place))
    found = states(data)
    taken = ("user-namespace", "io-uring", "audit-multicast", "seccomp-around", "no-new-privs")
    assert {key: found[key] for key in taken} == dict.fromkeys(taken, "restricted")
    assert {found[key] for key in ("landlock", "seccomp-filter", "openat2")} == {"there"}
    (refusal,) = {way["refusal"] for way in data["ways"] if way["name"] == 'identity.map = "identity"'}
    assert refusal is not None


def test_doctor_where_nothing_is_mapped_names_the_user_namespace() -> None:
    """Ids without a map cannot make a user namespace: as in a chroot, or under a strict container runtime."""
    _, data = report("doctor", prefix=["unshare", "--user"])
    assert data["tier"] in (None, "bare")
    (userns,) = [feature for feature in data["features"] if feature["key"] == "user-namespace"]
    assert (userns["state"], userns["errno"]) == ("restricted", 1)
    assert "bare" in userns["lost"]
    assert states(data)["first-user-namespace"] == "restricted"


def test_doctor_without_room_for_a_namespace_names_the_limit() -> None:
    """In a user namespace whose own limit of user namespaces is 0; the machine's stays as it is."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    status, data = report("doctor", prefix=["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"])
    assert status == (0 if data["tier"] in ("full", "userns") else 1)
    found = states(data)
    assert (found["max-user-namespaces"], found["user-namespace"]) == ("restricted", "restricted")
    assert Path("/proc/sys/user/max_user_namespaces").read_text() != "0\n"


def test_doctor_without_new_privileges_names_what_that_costs() -> None:
    _, data = report("doctor", prefix=["setpriv", "--no-new-privs"])
    assert states(data)["no-new-privs"] == "restricted"
    assert states(report("doctor")[1])["no-new-privs"] == "there"


@pytest.mark.parametrize("limit", [100, 4096])
def test_doctor_with_few_open_files_names_the_limit(limit: int) -> None:
    _, data = report("doctor", prefix=["prlimit", f"--nofile={limit}:{limit}"])
    assert states(data)["open-files"] == "restricted"


def kinds(data: Any) -> set[str]:
    return {finding["kind"] for finding in data["findings"]}


def policy(place: Path, name: str, text: str) -> Path:
    file = place / f"{name}.toml"
    file.write_text(text)
    file.chmod(0o644)
    return file


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_check_in_each_environment_names_what_fails_there(name: str, place: Path) -> None:
    """A share of the user's own is in order; with something of root's in it, only root's is."""
    share, home = place / "share", place / "home"
    share.mkdir()
    home.mkdir()
    (share / "file").touch()
    text = f'[share]\nsource = "{share}"\ntag = "data"\nsocket = "{home}/s"\n[sandbox]\nminimum = "bare"\n'
    file = policy(home, "data", text)
    inside(name, home)
    for own in (share, share / "file"):
        os.chown(own, ENVIRONMENTS[name].uid, ENVIRONMENTS[name].uid)
    status, data = report("check", os.fspath(file), prefix=inside(name, home))
    assert (status, data["errors"], data["tier"]) == (0, 0, ENVIRONMENTS[name].tier)
    (share / "roots").mkdir(mode=0o700)
    status, data = report("check", os.fspath(file), prefix=inside(name, home))
    found = {(finding["kind"], finding["severity"]) for finding in data["findings"]}
    expected = {("unreadable", "error"), ("unlistable", "warning")}
    if ENVIRONMENTS[name].uid == 0:
        assert (status, expected & found) == (0, set())
    else:
        assert (status, expected - found) == (1, set())
        assert (("unmapped-uid", "error") in found) == (ENVIRONMENTS[name].tier == "userns")


def test_check_finds_a_source_and_a_socket_directory_that_the_user_cannot_enter(place: Path) -> None:
    (place / "work").mkdir()
    started = inside("user", place / "work")
    for closed in ("share", "run"):
        (place / closed).mkdir(mode=0o700)
    file = policy(place, "data", f'[share]\nsource = "{place}/share"\ntag = "data"\nsocket = "{place}/run/s"\n')
    os.chown(file, ENVIRONMENTS["user"].uid, -1)
    status, data = report("check", os.fspath(file), prefix=started)
    assert status == 1
    found = {finding["kind"]: finding for finding in data["findings"]}
    assert "Permission denied" in found["source-closed"]["what"]
    assert "socket-directory-closed" in found
    text = file.read_text().replace("socket = ", "socket.group = 0\nsocket.path = ")
    assert "socket-group" in kinds(report("check", os.fspath(policy(place, "grouped", text)), prefix=started)[1])
    for closed in ("share", "run"):
        (place / closed).chmod(0o777)
    again = kinds(report("check", os.fspath(file), prefix=started)[1])
    assert {"source-closed", "socket-directory-closed", "socket-group"} & again == set()


def test_check_finds_a_read_only_mount_before_a_guest_does(place: Path) -> None:
    """In a mount namespace of its own, where the share is mounted read-only over itself."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    share = place / "share"
    share.mkdir()
    file = policy(place, "data", f'[share]\nsource = "{share}"\ntag = "data"\nsocket = "{place}/s"\n')
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    status, data = report("check", os.fspath(file), prefix=["unshare", "-m", "sh", "-c", script, os.fspath(share)])
    assert status == 1
    assert {finding["kind"] for finding in data["findings"] if finding["severity"] == "error"} == {"source-read-only"}
    assert report("check", os.fspath(file))[0] == 0


@pytest.mark.parametrize("name", ["root", "user"])
def test_a_running_jail_is_what_explain_says(name: str, place: Path) -> None:
    """The kernel's account of a keeper, beside the report: namespaces, ids, capabilities, filters, limits."""
    (place / "share").mkdir()
    file = policy(place, "data", f'[share]\nsource = "{place}/share"\ntag = "data"\nsocket = "{place}/s"\n')
    started = inside(name, place)
    status, data = report("explain", os.fspath(file), prefix=started)
    assert status == 0
    said = {
        (section["key"], statement["key"]): statement["facts"]
        for section in data["sections"]
        for statement in section["statements"]
    }
    with Running("real", place, "--socket", os.fspath(place / "s"), prefix=started) as run:
        run.ready()
        (keeper,) = run.of(1, "virtiofs-worker")
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{keeper}/status").read_text().splitlines())
        kept = sum(1 << number for number in said["capabilities", "others"]["kept"])
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb", "CapInh")} == {kept}
        assert int(fields["CapBnd"], 16) == 0
        assert int(fields["NoNewPrivs"]) == said["capabilities", "others"]["no_new_privs"]
        kernel = {"network": "net", "mount": "mnt"}
        for namespace in ("user", "mount", "pid", "network", "ipc", "uts", "cgroup"):
            assert said["namespaces", namespace] == {"own": True}
            kind = kernel.get(namespace, namespace)
            assert os.readlink(f"/proc/{keeper}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        for kind in ("uid", "gid"):
            lines = Path(f"/proc/{keeper}/{kind}_map").read_text().splitlines()
            assert [[int(field) for field in line.split()] for line in lines] == said["identity", f"{kind}s"]["map"]
        limits = Path(f"/proc/{keeper}/limits").read_text()
        assert limit(limits, "Max open files") == said["limits", "files"]["nofile"]
        assert limit(limits, "Max core file size") == [0, 0]
        assert limit(limits, "Max data size") == [said["limits", "RLIMIT_DATA"]["value"]] * 2
        assert limit(limits, "Max processes") == [said["limits", "processes"]["process_limit"]] * 2
        assert int(Path(f"/proc/{keeper}/oom_score_adj").read_text()) == said["limits", "memory"]["oom_score_adj"]
        # First filter, its unlogged companion, and the keeper's own.
        assert int(fields["Seccomp_filters"]) == 3
        assert "role keeper" in {key for section, key in said if section == "seccomp"}
        run.process.send_signal(signal.SIGTERM)
        run.process.wait(20)


def limit(limits: str, name: str) -> list[int]:
    """Soft and hard value of a line of /proc/PID/limits."""
    found = re.search(rf"^{name} +(\d+) +(\d+)", limits, flags=re.MULTILINE)
    assert found, name
    return [int(value) for value in found.groups()]
