"""make install and make uninstall: what is put where, that it runs from there alone, and that it goes away again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import NOBODY
from tests.guest.frontend import FrontEnd
from tests.guest.images import ROOT
from tests.guest.service import Service
from tests.libvirt.conftest import NEWER, install

COMMAND = "bin/virtiofs-sandbox"
DESCRIPTOR = "40-virtiofs-sandbox.json"


def run(*words: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=cwd, timeout=60, env={**os.environ, **environment}
    )


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Path]:
    """A directory in which it is installed for /opt/vs, and from which it is uninstalled."""
    install(tmp_path, "/opt/vs")
    yield tmp_path
    if (tmp_path / "opt/vs/lib/virtiofs-sandbox/manifest").exists():
        install(tmp_path, "/opt/vs", "uninstall")


def test_the_installed_command_loads_nothing_from_where_it_is_called(installed: Path, tmp_path: Path) -> None:
    for name in ("msgspec", "argparse", "virtiofs_sandbox", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('loaded what lay about')\n")
    command = installed / "usr" / COMMAND
    told = run(command, "--version", cwd=tmp_path, PYTHONPATH=str(tmp_path), PYTHONSTARTUP="/x", PYTHONHOME="/x")
    assert (told.returncode, told.stdout.split()[0]) == (0, "virtiofs-sandbox"), told.stderr


def test_the_installed_command_needs_neither_the_virtual_environment_nor_the_sources(installed: Path) -> None:
    package = installed / "usr/lib/virtiofs-sandbox/python"
    code = f"import sys; sys.path.insert(0, {str(package)!r}); import virtiofs_sandbox.cli.foreground; "
    code += "print(*(getattr(m, '__file__', None) or '' for m in sys.modules.values()), sep='\\n')"
    interpreter = (installed / "usr" / COMMAND).read_text().split()[0].removeprefix("#!")
    loaded = run(interpreter, "-IS", "-c", code)
    assert loaded.returncode == 0, loaded.stderr
    ours = [line for line in loaded.stdout.splitlines() if line and not line.startswith("/usr/lib/python3")]
    assert ours and all(line.startswith(str(package)) for line in ours), ours


def test_the_installed_copy_serves_a_share_with_the_worker_that_lies_beside_it(installed: Path, tmp_path: Path) -> None:
    command = installed / "usr" / COMMAND
    with Service(tmp_path, program=command).start() as service, FrontEnd.connect(service.socket) as client:
        (service.share / "hello").write_text("hello")
        client.start()
        client.init()
        assert b"hello" in client.list()
        jailed = service.wait_worker().workers[0]
        binary = installed / "usr/lib/virtiofs-sandbox/virtiofs-worker"
        assert os.stat(f"/proc/{jailed}/exe").st_ino == binary.stat().st_ino


def test_a_link_called_virtiofsd_speaks_as_virtiofsd(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "virtiofsd"
    link.symlink_to(installed / "usr" / COMMAND)
    assert run(link, "--help").stdout.startswith("usage: virtiofsd ")
    assert json.loads(run(link, "--print-capabilities").stdout)["type"] == "fs"


def test_what_is_installed_names_its_own_place_and_is_the_owners_to_change(destination: Path) -> None:
    descriptor = destination / "etc/qemu/vhost-user" / DESCRIPTOR
    assert json.loads(descriptor.read_text())["binary"] == f"/opt/vs/{COMMAND}"
    assert f"/opt/vs/{COMMAND} PUx," in (destination / "opt/vs/share/virtiofs-sandbox/apparmor/libvirtd").read_text()
    for unit in (destination / "opt/vs/lib/systemd/system").glob("*.service"):
        assert f"ExecStart=/opt/vs/{COMMAND} " in unit.read_text()
    policies = destination / "etc/virtiofs-sandbox/shares.d"
    assert policies.stat().st_mode & 0o7777 == 0o755
    writable = [path for path in destination.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert writable == []


def test_below_usr_the_descriptor_is_where_the_distribution_has_its_own(installed: Path) -> None:
    """Files are taken in the order of their names: stock virtiofsd's begins with 50."""
    assert (installed / "usr/share/qemu/vhost-user" / DESCRIPTOR).exists()
    assert not (installed / "etc/qemu").exists()


def test_uninstalling_leaves_nothing(destination: Path) -> None:
    assert files(destination)
    install(destination, "/opt/vs", "uninstall")
    assert files(destination) == set()


def test_uninstalling_keeps_what_the_operator_wrote_and_changed(destination: Path) -> None:
    policy = destination / "etc/virtiofs-sandbox/shares.d/data.toml"
    policy.write_text('[share]\nsource = "/srv/data"\ntag = "data"\n')
    descriptor = destination / "etc/qemu/vhost-user" / DESCRIPTOR
    descriptor.write_text("")  # masked
    said = install(destination, "/opt/vs", "uninstall").stderr
    assert {path for path in destination.rglob("*") if path.is_file()} == {policy, descriptor}
    assert f"kept {descriptor}" in said
    assert f"kept {policy.parent}" in said


def test_installing_again_takes_away_what_is_no_longer_part_of_it(destination: Path) -> None:
    former = destination / "opt/vs/share/virtiofs-sandbox/examples/former.toml"
    shutil.copy(former.with_name("minimal.toml"), former)
    manifest = destination / "opt/vs/lib/virtiofs-sandbox/manifest"
    lines = manifest.read_text().splitlines()
    manifest.write_text(
        "\n".join([*lines, *(line.replace("minimal", "former") for line in lines if "minimal" in line)]) + "\n"
    )
    module = destination / "opt/vs/lib/virtiofs-sandbox/python/virtiofs_sandbox/former.py"
    module.touch()
    install(destination, "/opt/vs")
    assert not former.exists()
    assert not module.exists()
    install(destination, "/opt/vs", "uninstall")
    assert files(destination) == set()


def test_an_ordinary_user_can_install_below_a_directory_of_his(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("that is how this test runs anyway")
    os.chown(tmp_path, NOBODY, NOBODY)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    words = [*user, "env", f"DESTDIR={tmp_path}", "PREFIX=/usr", "packaging/install"]
    # He cannot come to the directory of this test by its path, which root's directories lie on.
    reach = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" /mnt && shift && exec "$@"', "sh", str(tmp_path)]
    words[words.index(f"DESTDIR={tmp_path}")] = "DESTDIR=/mnt"
    if run(*user, "test", "-r", "build/stage/interpreter").returncode:
        pytest.skip(f"uid {NOBODY} cannot read {ROOT}")
    done = run(*reach, *words, "put")
    assert done.returncode == 0, done.stderr
    command = tmp_path / "usr" / COMMAND
    assert command.stat().st_uid == NOBODY
    assert run(command, "--version").returncode == 0
    assert run(*reach, *words, "remove").returncode == 0
    assert files(tmp_path) == set()


def test_uninstalling_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run("make", "--no-print-directory", "uninstall", f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert done.returncode != 0
    assert "nothing is installed" in done.stderr


@pytest.mark.parametrize("prefix", ["relative", "/with blank", "/with|bar"])
def test_a_prefix_that_cannot_be_written_into_files_is_refused(tmp_path: Path, prefix: str) -> None:
    done = run("make", "--no-print-directory", "install", f"DESTDIR={tmp_path}", f"PREFIX={prefix}")
    assert done.returncode != 0
    assert files(tmp_path) == set()


def parse(profile: Path, *folders: Path) -> subprocess.CompletedProcess[str]:
    """AppArmor's compiler on *profile*, without loading anything."""
    parser = shutil.which("apparmor_parser", path=f"/usr/sbin:{os.environ['PATH']}")
    if parser is None:
        pytest.skip("apparmor_parser is not installed (Debian package apparmor)")
    bases = [word for folder in folders for word in ("--Include", str(folder))]
    return run(parser, "--skip-kernel-load", "--skip-cache", *bases, profile)


@pytest.mark.parametrize("snippet", ["libvirtd", "libvirt-qemu"])
def test_apparmor_understands_the_snippet(
    destination: Path, tmp_path_factory: pytest.TempPathFactory, snippet: str
) -> None:
    place = destination / "opt/vs/share/virtiofs-sandbox/apparmor" / snippet
    profile = tmp_path_factory.mktemp("apparmor") / "profile"
    profile.write_text(f"include <tunables/global>\nprofile tried /usr/bin/tried {{\n{place.read_text()}}}\n")
    done = parse(profile)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_libvirts_own_profile_takes_the_snippet_where_the_documents_put_it(
    destination: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not (NEWER / "etc/apparmor.d/usr.sbin.libvirtd").exists():
        pytest.skip(f"no profile of libvirt below {NEWER}: run packaging/setup/newer-libvirt")
    below = tmp_path_factory.mktemp("apparmor.d")
    (below / "local").mkdir()
    snippet = destination / "opt/vs/share/virtiofs-sandbox/apparmor/libvirtd"
    shutil.copy(snippet, below / "local" / "usr.sbin.libvirtd")
    profile = NEWER / "etc/apparmor.d/usr.sbin.libvirtd"
    assert parse(profile, below).returncode == 0
    (below / "local" / "usr.sbin.libvirtd").write_text("no rule at all\n")
    assert parse(profile, below).returncode != 0, "the local file is not part of the profile"
