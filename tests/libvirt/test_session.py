"""libvirt's session mode, from 10.0 on: an ordinary user's daemon starts that user's virtiofs-sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.host import FIRST_SUBORDINATE, SHARER, Host

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session(newer_host: Host) -> Iterator[Libvirtd]:
    project = newer_host.path("/home/sharer/project")
    project.mkdir()
    (project / "hello").write_text("hello from the host\n")
    os.chown(project, SHARER, SHARER)
    daemon = Libvirtd(newer_host, user=SHARER)
    daemon.start()
    yield daemon
    daemon.stop()


def test_guests_files_are_the_users_and_of_the_users_range(session: Libvirtd, newer_host: Host) -> None:
    before = newer_host.processes()
    with session.machine("mine", example("session")) as machine:
        assert machine.check("mount -t virtiofs project /mnt; cat /mnt/hello") == "hello from the host\n"
        assert machine.check("stat -c %u:%g /mnt/hello") == "65534:65534\n", "root's, whom the user cannot map"
        assert "(jail: userns" in _log(newer_host)
        machine.check("echo root >/mnt/root; echo five >/mnt/five; chown 5:6 /mnt/five; ls -ln /mnt")
        owners = {name: os.stat(newer_host.path(f"/home/sharer/project/{name}")) for name in ("root", "five")}
        assert (owners["root"].st_uid, owners["root"].st_gid) == (SHARER, SHARER)
        assert (owners["five"].st_uid, owners["five"].st_gid) == (FIRST_SUBORDINATE + 4, FIRST_SUBORDINATE + 5)
    newer_host.until(lambda: newer_host.processes() == before, "only the session's daemon is there")


def _log(host: Host) -> str:
    return host.path("/home/sharer/.cache/libvirt/qemu/log/mine-fs0-virtiofsd.log").read_text()
