"""`policy` and `run POLICY` on the command line: what they print, what they refuse, and with which status."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.cli.main import main
from virtiofs_sandbox.cli.policy import EXAMPLES
from virtiofs_sandbox.cli.run import WORKER
from virtiofs_sandbox.policies.schema import shipped

SHARE = '[share]\nsource = "@/srv"\ntag = "data"\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative names in an argument are below tmp_path, and nothing of this machine's policies is seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("virtiofs_sandbox.policies.places.SYSTEM", tmp_path / "standing/shares.d")
    monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path / "run"))
    yield


def status(*arguments: str) -> int:
    try:
        return main([*arguments, "--policy-dir", "shares.d"])
    except SystemExit as end:
        return int(end.code or 0)


def write(tmp_path: Path, name: str, text: str) -> Path:
    (tmp_path / "shares.d").mkdir(exist_ok=True)
    (tmp_path / "srv").mkdir(exist_ok=True)
    file = tmp_path / "shares.d" / name
    file.write_text(text.replace("@", os.fspath(tmp_path)))
    return file


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_new_policy_is_one_that_loads(example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.umask(0o002)
    try:
        assert status("policy", "new", "--from", example, "mine") == 0
    finally:
        os.umask(before)
    file = tmp_path / "shares.d/mine.toml"
    assert f"run mine --policy-dir {tmp_path / 'shares.d'}" in capsys.readouterr().out
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert status("policy", "show", "mine") == 0
    assert 'tag = "mine"' in capsys.readouterr().out


def test_a_new_policy_takes_no_other_s_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "data.toml", "# precious\n")
    assert status("policy", "new", "data") == 1
    assert "File exists" in capfd.readouterr().err
    assert (tmp_path / "shares.d/data.toml").read_text() == "# precious\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["policy", "new", "--from", "windows", "x"], "did you mean windows-guest?"),
        (["policy", "new", "../x"], "no name for a policy"),
        (["policy", "new", ".x"], "no name for a policy"),
        (["policy", "new", ""], "no name for a policy"),
        (["policy", "show"], "NAME|FILE"),
        (["policy", "show", "x", "--as", "xml"], "--as"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what(
    arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments) == 2
    assert complaint in capfd.readouterr().err


def test_show_says_of_every_value_where_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "data.toml", f'{SHARE}[cache]\nintent = "exclusive"\n')
    assert status("policy", "show", "data") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f'tag = "data"  # {file}:3' in lines
    assert 'access = "read-write"  # default' in lines
    assert f'intent = "exclusive"  # {file}:5' in lines
    assert f"# mode: always, by intent  # {file}:5" in lines
    assert f"writeback = true  # {file}:5" in lines


def test_show_as_toml_and_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, "data.toml", SHARE)
    assert status("policy", "show", os.fspath(file), "--as", "toml") == 0
    assert tomllib.loads(capsys.readouterr().out)["share"]["tag"] == "data"
    assert status("policy", "show", "data", "--as", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["values"]["share.tag"], shown["origins"]["share.tag"]) == ("data", f"{file}:3")
    assert (shown["values"]["cache.timeout"], shown["origins"]["cache.timeout"]) == (None, "default")


def test_show_of_a_broken_policy_is_status_1_with_a_line_for_each_problem(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "data.toml", "[shar]\n[worker]\nqueues = 0\n")
    assert status("policy", "show", "data") == 1
    assert [line.split(": ")[1] for line in capfd.readouterr().err.splitlines()] == [f"{file}:1", f"{file}:3"]


def test_list_has_a_line_for_each_policy_and_the_problems_beside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert status("policy", "list") == 0
    assert "policy new NAME makes one" in capfd.readouterr().out
    write(tmp_path, "data.toml", f'{SHARE}socket = "/run/s"\n')
    write(tmp_path, "broken.toml", "[")
    assert status("policy", "list") == 1
    out, err = capfd.readouterr()
    assert out.splitlines()[1].split() == ["data", "data", "read-write", os.fspath(tmp_path / "srv"), "/run/s"]
    assert "broken.toml:1: this is no TOML" in err


def test_schema_is_the_shipped_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("policy", "schema") == 0
    assert capsys.readouterr().out == shipped()


@pytest.mark.parametrize(
    ("arguments", "number", "complaint"),
    [
        (["data", "--xattr"], 3, "--xattr would widen the policy"),
        (["data", "--minimum", "bare"], 3, "sandbox.minimum"),
        (["./srv", "--cache", "always"], 3, "--cache would widen the policy"),
        (["srv/..", "--tag", "t", "--socket", "s"], 3, "contains"),
        (["./other", "--tag", "t"], 2, "one of the arguments --socket --fd is required"),
        (["./other", "--socket", "s"], 2, "--tag is required"),
        (["dat"], 1, "did you mean data?"),
        (["broken"], 1, "this is no TOML"),
        (["other"], 1, "is a policy"),
        (["./none.toml"], 1, "no such policy file"),
        (["./none"], 1, "No such file or directory"),
    ],
)
def test_what_run_refuses_and_with_which_status(
    arguments: list[str],
    number: int,
    complaint: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    target = arguments[0]
    (tmp_path / "other").mkdir()
    write(tmp_path, "data.toml", SHARE)
    write(tmp_path, "other.toml", SHARE.replace("data", "other").replace("@/srv", "@/other"))
    if target == "broken":
        write(tmp_path, "broken.toml", "[")
    elif target == "./other":
        (tmp_path / "shares.d/other.toml").unlink()
    assert status("run", *arguments, "--worker", "/bin/true") == number
    assert complaint in capfd.readouterr().err


@pytest.mark.skipif(not (Path(sys.executable).parent / WORKER).exists(), reason="installed without a worker")
def test_a_source_that_is_not_there_is_status_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "gone.toml", '[share]\nsource = "@/gone"\ntag = "gone"\n')
    assert status("run", "gone") == 1
    assert f"share directory {tmp_path / 'gone'}: No such file or directory" in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="a bind mount is made: needs root")
def test_a_bind_mount_is_no_way_around_a_policy(tmp_path: Path) -> None:
    write(tmp_path, "data.toml", SHARE)
    (tmp_path / "elsewhere").mkdir()
    run = [sys.executable, "-m", "virtiofs_sandbox.cli.main", "run", "./elsewhere", "--tag", "t", "--socket", "s"]
    script = 'mount --bind srv elsewhere && exec "$@"'
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        *run,
        "--policy-dir",
        "shares.d",
        "--worker",
        "/bin/true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "--worker would widen the policy" in done.stderr


def test_the_zygote_is_forked_before_policies_are_loaded(tmp_path: Path) -> None:
    write(tmp_path, "data.toml", SHARE)
    code = (
        "import sys\n"
        "from virtiofs_sandbox import launcher\n"
        "from virtiofs_sandbox.cli.main import main\n"
        "def start():\n"
        "    heavy = {'asyncio', 'msgspec', 'tomllib', 'virtiofs_sandbox.policies.loader'} & set(sys.modules)\n"
        "    sys.exit(f'loaded: {sorted(heavy)}')\n"
        "launcher.Zygote.start = start\n"
        "sys.exit(main(['run', 'data', '--policy-dir', 'shares.d', '--worker', '/bin/true']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (1, "loaded: []\n")


def test_a_refused_policy_leaves_no_zygote_behind(tmp_path: Path) -> None:
    write(tmp_path, "data.toml", f"{SHARE}x = 1\n")
    code = (
        "import os, sys\n"
        "from virtiofs_sandbox.cli.main import main\n"
        "code = main(['run', 'data', '--policy-dir', 'shares.d', '--worker', '/bin/true'])\n"
        "try:\n    os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError:\n    sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    assert "share.x: unknown key" in done.stderr
