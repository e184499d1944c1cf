"""check as a command: its status, its data and its text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.unit.checking import (
    DOCUMENT,
    OURS,
    source,
)
from virtiofs_sandbox.cli.main import main
from virtiofs_sandbox.cli.page import COLUMNS

__all__ = ["source"]


FIELDS = ["shape", "policy", "tier", "errors", "warnings", "notes", "findings"]
FINDING = ["severity", "kind", "what", "todo", "key", "file", "line", "path"]


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    """Stands for the binary, which a check does not run."""
    binary = tmp_path / "worker"
    binary.touch(mode=0o755)
    return binary


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    directory = tmp_path / "shares.d"
    directory.mkdir(mode=0o755)
    return directory


def write(directory: Path, name: str, source: Path, more: str = "", tag: str | None = None) -> None:
    text = (
        f'[share]\nsource = "{source}"\ntag = "{tag or name}"\nsocket.path = "{directory.parent / name}.sock"\n{more}'
    )
    (directory / f"{name}.toml").write_text(text)


def checked(
    capfd: pytest.CaptureFixture[str], policies: Path, worker: Path, *arguments: str
) -> tuple[int, dict[str, Any]]:
    status = main(["check", *arguments, "--policy-dir", f"{policies}", "--worker", f"{worker}", "--as", "json"])
    return status, json.loads(capfd.readouterr().out)


def test_the_command_s_status_is_1_exactly_where_there_is_an_error(
    source: Path, policies: Path, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(policies, "good", source)
    write(policies, "bad", source / "gone")
    status, data = checked(capfd, policies, worker, "good", "--guest-id", f"{OURS}")
    assert (status, data["errors"]) == (0, 0)
    status, data = checked(capfd, policies, worker, "bad")
    assert (status, data["errors"]) == (1, 1)
    assert list(data) == FIELDS
    (found,) = [finding for finding in data["findings"] if finding["severity"] == "error"]
    assert list(found) == FINDING
    assert (found["kind"], found["key"], found["line"]) == ("source-missing", "share.source", 2)
    assert found["file"] == os.fspath(policies / "bad.toml")
    assert [field for field in (*FIELDS, *FINDING) if f"{field}`" not in DOCUMENT.read_text()] == []


def test_the_text_has_what_the_data_have_within_the_columns(
    source: Path, policies: Path, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(policies, "data", source, '[paths]\nhide = ["*.key"]\n')
    assert main(["check", "data", "--policy-dir", f"{policies}", "--worker", f"{worker}"]) in (0, 1)
    text = capfd.readouterr().out
    assert "hide '*.key' matches nothing [paths.hide, line 6]" in " ".join(text.split())
    assert [line for line in text.splitlines() if len(line) > COLUMNS and str(policies) not in line] == []


def test_a_policy_that_does_not_load_is_reported_with_its_lines(
    source: Path, policies: Path, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(policies, "data", source, "colour = 1\n")
    status, data = checked(capfd, policies, worker, "data")
    assert (status, data["tier"]) == (1, None)
    (found,) = data["findings"]
    assert (found["kind"], found["key"], found["line"]) == ("policy", "share.colour", 5)


def test_contradictions_with_other_policies_are_found(
    source: Path, policies: Path, worker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(policies, "data", source)
    _, data = checked(capfd, policies, worker, "data")
    assert "policies-contradict" not in {finding["kind"] for finding in data["findings"]}
    write(policies, "twin", source.parent, 'access = "read-only"\n', tag="data")
    (policies / "broken.toml").write_text("[share]\n")
    status, data = checked(capfd, policies, worker, "data")
    assert status == 1
    contradictions = {finding["key"] for finding in data["findings"] if finding["kind"] == "policies-contradict"}
    assert contradictions == {"share.tag", "share.source"}
    assert "policy-not-loaded" in {finding["kind"] for finding in data["findings"]}


@pytest.mark.parametrize("arguments", [["--entries", "0"], ["--seconds", "-1"], ["--guest-id", "x"]])
def test_bounds_that_make_no_sense_are_wrong_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["check", "data", *arguments])
    assert end.value.code == 2
