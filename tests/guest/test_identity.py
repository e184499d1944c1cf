"""Whom files belong to, on the host and in the guest, for every map of ids; and a guest at work for everybody who may
run the command.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import probe_host

from tests import environments
from tests.guest import images
from tests.guest.images import MissingProgramError
from tests.guest.machine import Machine
from tests.guest.policed import Policed
from tests.guest.service import TAG
from tests.guest.uml import UserModeLinux

FIRST, COUNT = 500_000, 65_536
GUEST_USER, GUEST_GROUP = 1234, 5678
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root maps ids that are not its own")


class Shared:
    """A guest that has a share on /mnt and can act as others of its users."""

    def __init__(self, service: Policed, guest: Machine) -> None:
        self.share = service.share
        self.service = service
        self.guest = guest

    def check(self, script: str, uid: int = 0, gid: int = 0) -> str:
        return self.guest.check(self._as(script, uid, gid))

    def said(self, script: str, uid: int = 0, gid: int = 0) -> str:
        """What a script that fails prints."""
        outcome = self.guest.run(self._as(script, uid, gid))
        assert outcome.status != 0, script
        return outcome.output

    def seen(self, name: str) -> str:
        """Owner and group in the guest."""
        return self.check(f"stat -c %u:%g {name}").strip()

    def stored(self, name: str) -> str:
        """Owner and group on the host."""
        status = (self.share / name).lstat()
        return f"{status.st_uid}:{status.st_gid}"

    @staticmethod
    def _as(script: str, uid: int, gid: int) -> str:
        return f"cd /mnt\n/bin/setpriv --reuid={uid} --regid={gid} --clear-groups sh -c '{script}'"


@contextlib.contextmanager
def shared(
    work: Path, policy: str, owner: int = 0, mode: int = 0o777, prefix: tuple[str, ...] = ()
) -> Iterator[Shared]:
    """*owner* and *mode* are those of the shared directory."""
    try:
        image = images.user_mode_linux().with_programs(setpriv="util-linux")
    except MissingProgramError as error:
        pytest.skip(str(error))
    with Policed(work, policy, guarded=not prefix, prefix=prefix) as service:
        service.share.mkdir()
        os.chown(service.share, owner, owner)
        service.share.chmod(mode)
        service.start()
        with UserModeLinux(work / "guest", service.socket, image) as guest:
            guest.boot().check(f"mount -t virtiofs {TAG} /mnt")
            yield Shared(service, guest)
            guest.power_off()


@needs_root
def test_identity_keeps_the_ids_of_the_guest_on_the_host(tmp_path: Path) -> None:
    with shared(tmp_path, '[identity]\nmap = "identity"\n') as place:
        place.check("touch ours; mkdir sub; chmod 777 sub")
        place.check("touch sub/theirs; mkdir sub/dir; ln -s x sub/link; mkfifo sub/pipe", GUEST_USER, GUEST_GROUP)
        assert (place.seen("ours"), place.stored("ours")) == ("0:0", "0:0")
        for name in ("sub/theirs", "sub/dir", "sub/link", "sub/pipe"):
            assert (place.seen(name), place.stored(name)) == (f"{GUEST_USER}:{GUEST_GROUP}",) * 2
        place.check("chown 42:43 sub/theirs")
        assert place.stored("sub/theirs") == "42:43"
        assert "not permitted" in place.said("chown 0:0 sub/dir", GUEST_USER, GUEST_GROUP)
        place.check("echo secret >private; chmod 600 private")
        assert "Permission denied" in place.said("cat private", GUEST_USER, GUEST_GROUP)


@needs_root
def test_squash_gives_everything_to_one_owner_of_the_host(tmp_path: Path) -> None:
    policy = f'[identity]\nmap = "squash"\nowner = "{GUEST_USER}:{GUEST_GROUP}"\nunmapped = "squash"\n'
    with shared(tmp_path, policy) as place:
        place.check("touch roots; mkdir dir")
        place.check("touch users", 77, 77)
        for name in ("roots", "dir", "users"):
            assert (place.stored(name), place.seen(name)) == (f"{GUEST_USER}:{GUEST_GROUP}",) * 2
        # An id without a mapping cannot be given.
        assert place.said("chown 77:77 roots")
        assert place.stored("roots") == f"{GUEST_USER}:{GUEST_GROUP}"


@needs_root
def test_a_range_holds_all_ids_of_the_guest_and_those_beyond_it_create_nothing(tmp_path: Path) -> None:
    policy = f'[identity]\nmap = "range"\nrange = {{ first = {FIRST}, count = {COUNT} }}\n'
    with shared(tmp_path, policy, owner=FIRST) as place:
        place.check("touch roots; chmod 644 roots")
        place.check("touch users", GUEST_USER, GUEST_GROUP)
        assert (place.seen("roots"), place.stored("roots")) == ("0:0", f"{FIRST}:{FIRST}")
        assert (place.seen("users"), place.stored("users")) == (
            f"{GUEST_USER}:{GUEST_GROUP}",
            f"{FIRST + GUEST_USER}:{FIRST + GUEST_GROUP}",
        )
        place.check("chown 10:11 roots")
        assert place.stored("roots") == f"{FIRST + 10}:{FIRST + 11}"
        assert "not permitted" in place.said(f"chown {COUNT + 1} users")
        assert "not permitted" in place.said("touch beyond", COUNT + 1, COUNT + 1)
        assert not (place.share / "beyond").exists()
        # What somebody outside of the range owns belongs to nobody in the guest.
        (place.share / "foreign").touch()
        assert place.seen("foreign") == "65534:65534"


@needs_root
def test_callers_beyond_a_range_create_as_its_root_where_the_policy_squashes_them(tmp_path: Path) -> None:
    policy = f'[identity]\nmap = "range"\nrange = {{ first = {FIRST}, count = {COUNT} }}\nunmapped = "squash"\n'
    with shared(tmp_path, policy, owner=FIRST) as place:
        place.check("touch beyond", COUNT + 1, COUNT + 1)
        assert (place.stored("beyond"), place.seen("beyond")) == (f"{FIRST}:{FIRST}", "0:0")


@needs_root
def test_an_id_mapped_share_stores_the_ids_of_the_guest_while_nobody_has_them_on_the_host(tmp_path: Path) -> None:
    if probe_host().idmapped_errno:
        pytest.skip(f"no id-mapped mounts here: {os.strerror(probe_host().idmapped_errno)}")
    policy = f'[identity]\nmap = "range"\nrange = {{ first = {FIRST}, count = {COUNT} }}\nidmapped = true\n'
    with shared(tmp_path, policy) as place:
        place.check("touch roots")
        place.check("touch users", GUEST_USER, GUEST_GROUP)
        assert (place.stored("roots"), place.seen("roots")) == ("0:0", "0:0")
        assert (place.stored("users"), place.seen("users")) == (f"{GUEST_USER}:{GUEST_GROUP}",) * 2
        workers = place.service.processes().workers
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in workers} == {FIRST}


@pytest.mark.parametrize("name", environments.ENVIRONMENTS)
def test_a_guest_works_on_a_share_of_everybody_who_may_run_the_command(name: str, reachable: Path) -> None:
    """As root, as an ordinary user, without mount rights, in a container: one boot each."""
    if reason := environments.unavailable(name):
        pytest.skip(reason)
    environment = environments.ENVIRONMENTS[name]
    policy = f'[sandbox]\nminimum = "{environment.tier}"\n[paths]\nhide = ["**/.env"]\nreadonly = ["kept"]\n'
    prefix = tuple(environment.command(reachable))
    with shared(reachable, policy, owner=environment.uid, mode=0o755, prefix=prefix) as place:
        (place.share / ".env").write_text("secret")
        place.check(
            "mkdir d; echo text >d/a; mv d/a d/b; cp d/b c; ln c e; chmod 640 c; truncate -s 2 e; touch -d @5 c"
        )
        assert place.check("cat c; echo; ls").split() == ["te", "c", "d", "e"]
        assert (place.share / "c").read_text() == "te"
        assert (place.share / "c").stat().st_mode & 0o777 == 0o640
        assert place.stored("d/b") == f"{environment.uid}:{environment.uid}"
        assert "No such file" in place.said("cat .env")
        assert "Permission denied" in place.said("touch .env")
        assert "Read-only" in place.said("mkdir kept")
        place.service.change(f'[sandbox]\nminimum = "{environment.tier}"\n[paths]\nreadonly = ["d"]\n')
        assert "Read-only" in place.said("rm d/b")
        assert place.check("cat .env") == "secret"
        assert f"jail: {environment.tier}" in place.service.log
