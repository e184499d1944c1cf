"""Several directories of the host under one tag: each with its own access, coming and going while a guest works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.conftest import new_machine
from tests.guest.machine import Machine
from tests.guest.policed import Policed
from tests.guest.service import TAG

READ_ONLY = "Read-only file system"


@dataclass
class Tree:
    """A guest that has a tree share on /mnt; the directories lie beside each other on the host."""

    service: Policed
    guest: Machine

    def directory(self, name: str) -> Path:
        return self.service.work / "host" / name

    def check(self, script: str) -> str:
        return self.guest.check(f"cd /mnt\n{script}")

    def said(self, script: str) -> str:
        """What a script that fails prints."""
        outcome = self.guest.run(f"cd /mnt\n{script}")
        assert outcome.status != 0, script
        return outcome.output

    def now(self, until: str, **children: str) -> str:
        """Reloads with these children, waits until the log says so, and returns it from there on."""
        before = len(self.service.log)
        self.service.reload(policy(self.service.work, **children))
        self.service.wait(lambda: until in self.service.log[before:], f"say {until}")
        return self.service.log[before:]


def policy(work: Path, **children: str) -> str:
    """A tree of directories below work/host, each with its access."""
    entries = (
        f'{name} = {{ source = "{work}/host/{name}", access = "{access}" }}' for name, access in children.items()
    )
    return f"tree = {{ {', '.join(entries)} }}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    for name in ("data", "tools", "later"):
        (tmp_path / "host" / name).mkdir(parents=True)
        (tmp_path / "host" / name / "file").write_text(f"of {name}\n")
    with Policed(tmp_path, policy(tmp_path, data="read-write", tools="read-only")) as service:
        service.start()
        with new_machine("uml", tmp_path / "guest", service.socket) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt")
            yield Tree(service, guest)


def test_each_directory_of_a_tree_has_its_own_access_and_the_root_takes_no_changes(tree: Tree) -> None:
    assert tree.check("ls; cat data/file tools/file").split() == ["data", "tools", "of", "data", "of", "tools"]
    tree.check("echo more >>data/file; mkdir data/new; rmdir data/new")
    assert (tree.directory("data") / "file").read_text() == "of data\nmore\n"
    for script in ("echo x >tools/file", "mkdir tools/new", "rm tools/file", "chmod 700 tools", "touch tools/file"):
        assert READ_ONLY in tree.said(script)
    for script in ("touch new", "mkdir new", "ln -s data new"):
        assert READ_ONLY in tree.said(script)
    for script in ("rmdir data", "mv data other", "rm -r tools"):
        assert tree.said(script)
    assert tree.check("ls").split() == ["data", "tools"]
    assert (tree.directory("tools") / "file").read_text() == "of tools\n"


def test_directories_of_a_tree_are_file_systems_of_their_own_to_the_guest(tree: Tree) -> None:
    """Renames and links between them are refused as between any two (EXDEV); mv(1) copies then."""
    devices = tree.check("stat -c %d . data/. tools/.").split()
    assert len(set(devices)) == 3
    blocks = int(tree.check("stat -f -c %b data/."))
    assert blocks == os.statvfs(tree.directory("data")).f_blocks
    assert "/mnt" in tree.check("df data")
    tree.now("attached 'later'", data="read-write", tools="read-only", later="read-write")
    assert "cross-device" in tree.said("ln data/file later/link").lower()
    tree.check("mv data/file later/moved")
    assert (tree.directory("later") / "moved").read_text() == "of data\n"


def test_directories_come_and_go_while_the_guest_has_files_open_in_them(tree: Tree) -> None:
    log = tree.now("attached 'later'", data="read-write", tools="read-only", later="read-write")
    assert "children gains 'later'" in log
    tree.check("cat later/file; echo written >later/new")
    assert (tree.directory("later") / "new").read_text() == "written\n"
    # A process in the guest holds a file of the directory that goes; the guest and its other directories live on.
    tree.check("sleep 1000 5>>later/new 6<later/file >/dev/null 2>&1 &")
    log = tree.now("detached 'later'", data="read-write", tools="read-only")
    assert "children loses 'later'" in log
    assert log.index("works by the new settings") < log.index("detached 'later'")
    assert "No such file" in tree.said("cat later/file")
    assert tree.check("ls").split() == ["data", "tools"]
    tree.check("echo still here >>data/file; cat tools/file")
    # And it comes back.
    tree.now("attached 'later'", data="read-write", tools="read-only", later="read-only")
    assert tree.check("cat later/new") == "written\n"
    assert READ_ONLY in tree.said("echo x >later/new")
    assert "killing the worker" not in tree.service.log


def test_access_to_a_directory_changes_under_a_guest_at_work(tree: Tree) -> None:
    # An open writer makes a read-only remount impossible (rule 24); what is laid over it does not mind.
    tree.check("sleep 1000 5>>data/file >/dev/null 2>&1 &")
    log = tree.now("attached 'tools'", data="read-only", tools="read-write")
    assert "takes effect when the client leaves" not in log
    tree.service.wait(lambda: tree.service.log.count("works by the new settings") >= 2, "show it again")
    assert READ_ONLY in tree.said("echo x >>data/file")
    assert READ_ONLY in tree.said("mkdir data/new")
    tree.check("echo now >>tools/file")
    assert (tree.directory("tools") / "file").read_text() == "of tools\nnow\n"
    assert (tree.directory("data") / "file").read_text() == "of data\n"
