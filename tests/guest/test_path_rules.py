"""Path rules as a guest meets them: what is hidden is not there, what is frozen stays as it is; live changes too."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import images
from tests.guest.conftest import new_machine
from tests.guest.images import MissingProgramError
from tests.guest.machine import Machine
from tests.guest.policed import Policed
from tests.guest.qemu import Qemu
from tests.guest.service import TAG
from tests.guest.uml import UserModeLinux

MOUNT = f"mount -t virtiofs {TAG} /mnt"
# "kept" and "area/inner" are exact, so that mounts hold them as well; the others are the worker's alone.
RULES = """\
xattr = true
[paths]
hide = ["**/.env", "secrets/"]
readonly = ["kept", "area/inner", "lock*/"]
"""
HIDDEN = ("/.env", "/sub/.env", "/secrets", "/secrets/key")
REFUSED = "Read-only file system"


@dataclass
class Place:
    """A share with a guest that has it on /mnt."""

    service: Policed
    guest: Machine

    @property
    def share(self) -> Path:
        return self.service.share

    def check(self, script: str) -> str:
        return self.guest.check(f"cd /mnt\n{script}")

    def refused(self, script: str, *reasons: str) -> None:
        """The script fails, and says one of *reasons*."""
        outcome = self.guest.run(f"cd /mnt\n{script}")
        assert outcome.status != 0, script
        assert any(reason in outcome.output for reason in reasons), f"{script}: {outcome.output}"


def populate(share: Path) -> None:
    for directory in ("sub", "secrets", "kept/deep", "area/inner", "locked/deep", "open"):
        (share / directory).mkdir(parents=True)
    for file in (
        ".env", "sub/.env", "secrets/key", "kept/file", "kept/deep/file", "area/inner/file", "area/file",
        "locked/file", "locked/deep/file", "open/file",
    ):  # fmt: skip
        (share / file).write_text(f"content of {file}\n")


def picture(*roots: Path) -> dict[str, tuple[object, ...]]:
    """Everything at and below *roots* with what a change would show in."""
    found: dict[str, tuple[object, ...]] = {}
    for root in roots:
        for path in [root, *sorted(root.rglob("*"))]:
            status = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            attributes = tuple(os.listxattr(path, follow_symlinks=False))
            kept = (status.st_ino, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime_ns)
            found[str(path)] = (*kept, content, attributes)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    work = tmp_path_factory.mktemp("rules")
    try:
        image = images.user_mode_linux().with_programs(setfattr="attr")
    except MissingProgramError as error:
        pytest.skip(str(error))
    with Policed(work, RULES) as service:
        populate(service.share)
        service.start()
        with UserModeLinux(work / "guest", service.socket, image) as guest:
            guest.boot().check(MOUNT)
            yield Place(service, guest)


def test_what_is_hidden_is_in_no_listing(place: Place) -> None:
    printed = place.check("ls -a . sub; find . ; ls -laR")
    assert "kept" in printed
    assert "secrets" not in printed
    assert ".env" not in printed


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("command", ["stat", "cat", "ls -d", "rm", "rmdir", "chmod 600", "truncate -c -s 0"])
def test_what_is_hidden_cannot_be_found_by_its_name(place: Place, command: str, name: str) -> None:
    outcome = place.guest.run(f"{command} /mnt{name}")
    # truncate(1) is content with a file that is not there.
    assert outcome.status != 0 or command.startswith("truncate")
    assert outcome.output == "" or "No such file or directory" in outcome.output
    assert (place.share / name.lstrip("/")).exists()


# The first directory has such a file, the second has none: the answers must not tell.
@pytest.mark.parametrize("directory", ["sub", "open"])
@pytest.mark.parametrize(
    "script",
    [
        "echo x >{0}/.env",
        "mkdir {0}/.env",
        "ln -s target {0}/.env",
        "mknod {0}/.env p",
        "echo x >open/from-{0}; mv open/from-{0} {0}/.env",
        "ln open/file {0}/.env",
    ],
)
def test_nothing_can_be_given_a_hidden_name_whether_or_not_it_is_taken(
    place: Place, script: str, directory: str
) -> None:
    before = picture(place.share / "sub")
    place.refused(script.format(directory), "Permission denied")
    assert picture(place.share / "sub") == before
    assert not (place.share / "open" / ".env").exists()


@pytest.mark.parametrize(
    "script",
    [
        "echo x >{0}/file",
        "echo x >>{0}/deep/file",
        "dd if=/dev/zero of={0}/file bs=1 count=1 conv=notrunc",
        "truncate -s 0 {0}/file",
        "rm -f {0}/file",
        "rm -r {0}",
        "rmdir {0}/deep",
        "unlink {0}/file",
        "mv {0}/file {0}/other",
        "mv open/file {0}/",
        "mv {0} elsewhere",
        "ln {0}/file open/second",
        "ln open/file {0}/second",
        "ln -s file {0}/link",
        "mkdir {0}/new",
        "touch {0}/new",
        "mknod {0}/pipe p",
        "touch {0}/file",
        "touch {0}",
        "chmod 777 {0}/file",
        "chmod 777 {0}",
        "chown 5:5 {0}/deep/file",
        "setfattr -n user.colour -v green {0}/file",
    ],
)
@pytest.mark.parametrize("directory", ["kept", "locked"])
def test_a_frozen_subtree_is_changed_by_no_command(place: Place, directory: str, script: str) -> None:
    before = picture(place.share / directory, place.share / "open")
    place.refused(script.format(directory), REFUSED)
    assert picture(place.share / directory, place.share / "open") == before


def test_what_is_frozen_can_be_read_and_copied(place: Place) -> None:
    assert place.check("cat kept/deep/file locked/file; cp -r kept open/copy; cat open/copy/file; rm -r open/copy") == (
        "content of kept/deep/file\ncontent of locked/file\ncontent of kept/file\n"
    )


def test_a_directory_that_holds_a_frozen_subtree_stays_where_it_is(place: Place) -> None:
    before = picture(place.share / "area" / "inner")
    outcome = place.guest.run("cd /mnt; mv area moved")
    assert outcome.status != 0
    assert picture(place.share / "area" / "inner") == before
    # What mv(1) copied when it could not rename.
    place.guest.run("rm -r /mnt/moved")


def test_beside_what_is_ruled_everything_works_as_ever(place: Place) -> None:
    place.check("cd sub; mkdir a; echo x >a/f; mv a b; ln b/f g; chmod 600 g; truncate -s 5 g; rm -r b g")
    assert [path.name for path in (place.share / "sub").iterdir()] == [".env"]


# Live.


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Place]:
    with Policed(tmp_path, "") as service:
        populate(service.share)
        service.start()
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(MOUNT)
            yield Place(service, guest)


def test_rules_reach_a_guest_at_work_and_go_again(live: Place) -> None:
    """One guest, mounted all the time: it freezes, hides and opens up under files that are in use."""
    # A process that holds one file for writing and one for reading, and does what it is told.
    live.check(
        "mkfifo /run/say; sh -c 'exec 5>>open/file 6<sub/.env 7</run/say;"
        ' while read -r line <&7; do eval "$line"; done\' >/run/said 2>&1 &\n'
        "exec 8>/run/say; sleep 1000 >&8 & sleep 0.3; cat sub/.env"
    )
    log = live.service.change('[paths]\nreadonly = ["open"]\n')
    assert "paths.readonly gains 'open'" in log
    live.refused("echo x >>open/file", REFUSED)
    live.refused("mkdir open/new", REFUSED)
    live.check('echo "echo held >&5; echo wrote \\$?" >/run/say; sleep 0.5')
    assert "Read-only file system" in live.check("cat /run/said")
    assert live.check("cat open/file") == "content of open/file\n"

    log = live.service.change('[paths]\nhide = ["**/.env"]\n')
    assert "open handle(s) closed" in log
    live.refused("cat sub/.env", "No such file")
    assert ".env" not in live.check("find .")
    live.check("echo free again >>open/file; mkdir open/new")
    assert (live.share / "open" / "file").read_text() == "content of open/file\nfree again\n"

    live.service.change("")
    assert live.check("cat sub/.env") == "content of sub/.env\n"
    assert live.service.processes().workers
    assert "killing the worker" not in live.service.log


def test_rules_reach_every_request_queue_while_all_of_them_work(tmp_path: Path) -> None:
    """A guest kernel with two queues writes on both while its files are frozen: from then on not one byte arrives."""
    with Policed(tmp_path, "") as service:
        (service.share / "log").mkdir(parents=True)
        service.start()
        try:
            machine = Qemu(tmp_path / "guest", service.socket, processors=2)
        except MissingProgramError as error:
            pytest.skip(str(error))
        with machine as guest:
            guest.boot(240).check(MOUNT)
            loop = "exec 5>>/mnt/log/{0}; while echo line >&5; do echo line >>/mnt/log/more-{0}; done"
            guest.check("".join(f"taskset {1 << n} sh -c '{loop.format(n)}' >/dev/null 2>&1 &\n" for n in range(2)))
            service.wait(lambda: all((service.share / "log" / f"more-{n}").exists() for n in range(2)), "be written to")
            service.change('[paths]\nreadonly = ["*"]\n')
            sizes = {path.name: path.stat().st_size for path in (service.share / "log").iterdir()}
            guest.check(
                "i=0; while pidof taskset || pgrep -f more-; do sleep 0.1; i=$((i+1)); [ $i -lt 100 ]; done; true"
            )
            assert "Read-only file system" in guest.run("echo x >/mnt/log/0").output
            assert {path.name: path.stat().st_size for path in (service.share / "log").iterdir()} == sizes
            service.change("")
            guest.check("echo x >/mnt/log/0")


def test_a_reload_with_a_mistake_changes_nothing_for_the_guest(live: Place) -> None:
    live.service.change('[paths]\nhide = ["secrets"]\n')
    for wrong, complaint in (
        ('[paths]\nhide = ["/absolute"]\n', "paths.hide"),
        ("[paths]\nhidden = []\n", "hidden"),
        ("colour = 3\n", "colour"),
    ):
        log = live.service.reload(wrong)
        assert "reload refused: " in log
        assert complaint in log
        assert "everything stays as it was" in log
        live.refused("ls secrets", "No such file")


def test_what_needs_a_new_jail_waits_for_the_guest_to_leave(live: Place) -> None:
    log = live.service.reload('access = "read-only"\n')
    assert "takes effect when the client leaves: access read-write -> read-only" in log
    live.check("echo x >open/new")
    live.guest.power_off()
    with new_machine("uml", live.service.work / "second", live.service.socket) as guest:
        guest.boot().check(MOUNT)
        assert "Read-only file system" in guest.run("echo x >/mnt/open/newer").output
        guest.power_off()


def test_capitals_make_no_difference_where_the_policy_says_so(tmp_path: Path) -> None:
    rules = '[paths]\nhide = ["Secret*"]\nreadonly = ["KEPT"]\ncase = "insensitive"\n'
    with Policed(tmp_path, rules) as service:
        (service.share / "kept").mkdir(parents=True)
        (service.share / "kept" / "file").touch()
        for name in ("SECRET", "secrets.txt", "sEcReT"):
            (service.share / name).touch()
        service.start()
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(MOUNT)
            assert guest.check("ls /mnt").split() == ["kept"]
            for script in ("echo x >/mnt/sECRETs", "mkdir /mnt/secret"):
                assert "Permission denied" in guest.run(script).output
            for script in ("rm /mnt/kept/file", "mkdir /mnt/Kept"):
                assert "Read-only file system" in guest.run(script).output
            guest.power_off()


# An agent's workspace.

AGENT = '[paths]\nhide = ["**/.env", "**/*.pem"]\nreadonly = ["**/.git/hooks", "**/.git/config"]\n'


def test_an_agent_works_in_a_repository_whose_secrets_it_does_not_see_and_whose_hooks_it_cannot_plant(
    tmp_path: Path,
) -> None:
    try:
        image = images.user_mode_linux().with_programs(git="git")
    except MissingProgramError as error:
        pytest.skip(str(error))
    with Policed(tmp_path, AGENT) as service:
        repository = service.share / "project"
        repository.mkdir(parents=True)
        subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
        for key, value in (("user.name", "Agent"), ("user.email", "agent@guest")):
            subprocess.run(["git", "-C", str(repository), "config", key, value], check=True)
        (repository / ".git" / "hooks").mkdir(exist_ok=True)
        (repository / ".env").write_text("TOKEN=secret\n")
        (repository / "server.pem").write_text("key\n")
        (repository / "main.c").write_text("int main(void) { return 0; }\n")
        service.start()
        with UserModeLinux(tmp_path / "guest", service.socket, image) as guest:
            guest.boot().check(MOUNT)
            work = "set -e; export GIT_CONFIG_GLOBAL=/dev/null; cd /mnt/project\n"
            printed = guest.check(
                f"{work}git status --porcelain; git add -A; git commit -q -m first; git checkout -q -b topic;"
                "echo '// more' >>main.c; git commit -q -a -m second; git checkout -q main; git merge -q topic;"
                "git log --format=%s; git ls-files; git fsck"
            )
            assert printed.split() == ["??", "main.c", "second", "first", "main.c"]
            for script in (
                "echo '#!/bin/sh' >.git/hooks/pre-commit",
                "mv main.c .git/hooks/post-checkout",
                "ln main.c .git/hooks/pre-push",
                "mv .git/hooks .git/old",
                "git config core.hooksPath /mnt/project",
            ):
                outcome = guest.run(f"{work}{script}")
                assert outcome.status != 0, script
            outcome = guest.run(f"{work}cat .env server.pem")
            assert outcome.output.count("No such file") == 2
            guest.power_off()
        log = subprocess.run(
            ["git", "-C", str(repository), "log", "--format=%s"], capture_output=True, text=True, check=True
        )
        assert log.stdout.split() == ["second", "first"]
        assert (repository / ".env").read_text() == "TOKEN=secret\n"
        assert "hooksPath" not in (repository / ".git" / "config").read_text()
