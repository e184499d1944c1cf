"""The units as systemd reads them, and as its own tool judges them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.guest.images import ROOT

UNITS = ROOT / "packaging" / "systemd"
PAGE = ROOT / "docs" / "systemd.md"
# Tenths of what `systemd-analyze security` prints; docs/systemd.md says what each of them is for.
EXPOSURE = 45
SERVICE, TEMPLATE = "virtiofs-sandbox.service", "virtiofs-sandbox@.service"


def analyze(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    environ = {**os.environ, "SYSTEMD_LOG_LEVEL": "warning", **more}
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with the command's place in them, and a command there."""
    command = tmp_path / "virtiofs-sandbox"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for unit in sorted(UNITS.rglob("virtiofs-sandbox*.*")):
        place = tmp_path / unit.relative_to(UNITS)
        place.parent.mkdir(exist_ok=True)
        place.write_text(unit.read_text().replace("@BINDIR@", str(tmp_path)))
    return tmp_path


def settings(unit: Path, section: str = "Service") -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    inside = ""
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            inside = match[1]
        elif inside == section and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("names", [[SERVICE], ["virtiofs-sandbox@data.service", "virtiofs-sandbox@data.socket"]])
def test_systemd_has_nothing_to_say_against_the_units(installed: Path, names: Sequence[str]) -> None:
    for name in names:
        template = installed / re.sub("@data", "@", name)
        if template.name != name:
            shutil.copy(template, installed / name)
    done = analyze("verify", "--man=no", *(str(installed / name) for name in names))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_has_nothing_to_say_against_a_users_unit(installed: Path) -> None:
    unit = str(installed / "user" / SERVICE)
    done = analyze("verify", "--man=no", "--user", unit, XDG_RUNTIME_DIR=str(installed))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_mistake_in_a_unit_would_be_seen(installed: Path) -> None:
    unit = installed / SERVICE
    unit.write_text(unit.read_text().replace("KillMode=mixed", "KillMode=gently"))
    assert "kill mode" in analyze("verify", "--man=no", str(unit)).stderr


def security(installed: Path, name: str) -> list[dict[str, Any]]:
    done = analyze("security", "--offline=true", "--json=short", str(installed / name))
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", [SERVICE, TEMPLATE])
def test_the_exposure_is_what_the_page_says_at_most(installed: Path, name: str) -> None:
    if name == TEMPLATE:
        name = "virtiofs-sandbox@data.service"
        shutil.copy(installed / TEMPLATE, installed / name)
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(installed / name))
    assert done.returncode == 0, done.stdout
    assert f"{EXPOSURE / 10}" in PAGE.read_text()


def test_each_relaxed_setting_has_its_reason_on_the_page(installed: Path) -> None:
    """What systemd-analyze finds open, by its own names: rows of the table in docs/systemd.md."""
    relaxed = {row["json_field"] for row in security(installed, SERVICE) if row["exposure"] not in (None, "0.0", "")}
    table = PAGE.read_text().partition("## What is relaxed")[2]
    explained = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    assert relaxed - explained == set(), "docs/systemd.md does not say why"
    assert explained - relaxed == set(), "docs/systemd.md explains what is not relaxed"


def test_the_unit_of_one_share_is_as_hard_as_that_of_all() -> None:
    one, every = settings(UNITS / TEMPLATE), settings(UNITS / SERVICE)
    for name in ("ExecStart", "ExecReload", "TasksMax"):
        one.pop(name, None)
        every.pop(name, None)
    assert one == every


def test_a_users_unit_has_nothing_that_needs_no_new_privileges_to_be_set() -> None:
    """systemd.exec(5): seccomp, and mounts of its own, take it in a user's manager; newuidmap then changes nothing."""
    names = set(settings(UNITS / "user" / SERVICE))
    hardening = {name for name in settings(UNITS / SERVICE) if name.startswith(("Protect", "Private", "Restrict"))}
    hardening |= {"NoNewPrivileges", "SystemCallFilter", "SystemCallArchitectures", "LockPersonality"}
    hardening |= {"MemoryDenyWriteExecute", "CapabilityBoundingSet", "IPAddressDeny"}
    assert names & hardening - {"RestartPreventExitStatus"} == set()


def test_no_unit_takes_set_user_id_files_or_namespaces_from_a_guests_jail() -> None:
    for name in (SERVICE, TEMPLATE):
        assert not {"RestrictSUIDSGID", "RestrictNamespaces", "PrivateUsers"} & set(settings(UNITS / name))


def test_the_socket_tells_the_name_of_its_share() -> None:
    socket = settings(UNITS / "virtiofs-sandbox@.socket", "Socket")
    assert socket["FileDescriptorName"] == ["%i"]
    assert socket["ListenStream"] == ["/run/virtiofs-sandbox/%i.sock"]
