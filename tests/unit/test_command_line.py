"""The command line refuses what it does not understand, with status 2, and what cannot be served, with status 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from virtiofs_sandbox.cli.hints import monitor_lines
from virtiofs_sandbox.cli.main import main


def status(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "required: COMMAND"),
        (["run", "/srv"], "--tag"),
        (["run", "/srv", "--tag", "t"], "one of the arguments --socket --fd is required"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--fd", "3"], "not allowed with"),
        (["run", "/srv", "--tag", "t" * 37, "--socket", "s"], "37 bytes: 1 to 36"),
        (["run", "/srv", "--tag", "", "--socket", "s"], "0 bytes: 1 to 36"),
        (["run", "/srv", "--tag", "a\nb", "--socket", "s"], "printable"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--socket-mode", "0999"], "no octal mode"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--socket-mode", "4755"], "no octal mode"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--socket-group", "no such group"], "there is no group"),
        (["run", "/srv", "--tag", "t", "--fd", "-1"], "--fd"),
        (["run", "/srv", "--tag", "t", "--fd", "3", "--socket-mode", "0600"], "do not go with --fd"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--cache", "sometimes"], "--cache"),
        (["run", "/srv", "--tag", "t", "--socket", "s", "--log-level", "loud"], "--log-level"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments) == 2
    assert complaint in capsys.readouterr().err


def test_what_cannot_be_shared_is_status_1_and_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in [("missing", "No such file or directory"), ("file", "no directory"), ("loop", "circle")]:
        assert status("run", os.fspath(tmp_path / name), "--tag", "t", "--socket", "s") == 1
        error = capfd.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_a_missing_worker_is_status_1_and_says_where_it_was_looked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", os.fspath(tmp_path), "--tag", "t", "--socket", "s", "--worker", os.fspath(tmp_path / "none")]
    assert status(*arguments) == 1
    assert f"no worker binary at {tmp_path / 'none'}" in capfd.readouterr().err


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom virtiofs_sandbox.cli.main import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n"
        "    heavy = {'asyncio', 'msgspec', 'pyseccomp', 'prctl', 'landlock'} & set(sys.modules)\n"
        "    sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "virtiofs_sandbox.cli.main", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert result.stdout.startswith("virtiofs-sandbox 0.")


def test_hints_survive_shells_qemu_and_xml() -> None:
    text = monitor_lines("/run/a,b c/it's <1>", "t&t")
    assert """-chardev 'socket,id=virtiofs0,path=/run/a,,b c/it'"'"'s <1>'""" in text
    assert "<source socket='/run/a,b c/it&apos;s &lt;1&gt;'/><target dir='t&amp;t'/>" in text
    assert "mount -t virtiofs 't&t' /mnt" in text
