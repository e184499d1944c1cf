"""What can be said only in newer libvirt's XML."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.host import Host

# As the documented element has them.
FIRST_OF_IDMAP = 100_000
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def daemon(newer_host: Host) -> Iterator[Libvirtd]:
    daemon = Libvirtd(newer_host)
    daemon.start()
    yield daemon
    daemon.stop()


def test_readonly_openfiles_and_idmap_are_carried_out(daemon: Libvirtd, newer_host: Host) -> None:
    share = newer_host.path("/srv/shifted")
    share.mkdir()
    (share / "hello").write_text("hello from the host\n")
    (share / "hello").chmod(0o644)
    os.chown(share / "hello", FIRST_OF_IDMAP + 5, FIRST_OF_IDMAP + 6)
    with daemon.machine("newer", example("newer")) as machine:
        machine.check("mount -t virtiofs shifted /mnt")
        assert machine.check("stat -c %u:%g /mnt/hello") == "5:6\n"
        assert machine.run("touch /mnt/new").status != 0
        for pid in newer_host.named("virtiofs-worker "):
            assert re.search(r"Max open files +2000 +2000 ", Path(f"/proc/{pid}/limits").read_text())
