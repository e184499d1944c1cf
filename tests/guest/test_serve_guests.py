"""Real guests of both kinds on shares of one `serve`: they reboot, quit and come back, and none notices the other."""

from __future__ import annotations

from pathlib import Path

from virtiofs_sandbox.ipc.requests import Reload, Reloaded

from tests.guest.conftest import new_machine
from tests.guest.qemu import Qemu
from tests.guest.service import TAG
from tests.soak.groups import Groups
from tests.soak.site import Policy, Site


def mounted(tag: str) -> str:
    """QEMU has the tag from its own command line, user-mode-linux from us."""
    return f"mount -t virtiofs {tag} /mnt && cd /mnt"


def test_a_guest_reboots_beside_one_that_comes_and_goes(tmp_path: Path) -> None:
    with Site(tmp_path / "site", Groups()) as site:
        for name in ("steady", "visited"):
            site.add(name)
            site.write(name, Policy())
        site.start()
        socket = {name: site.sockets / f"{name}.{Policy.socket}" for name in ("steady", "visited")}
        with new_machine("qemu", tmp_path / "steady", socket["steady"]) as steady:
            assert isinstance(steady, Qemu)
            steady.boot().check(f"{mounted(TAG)} && echo first >boots")
            serving = [keeper for keeper, _ in site.jails() if site.share_of(keeper) == "steady"]
            for number in range(2):
                with new_machine("uml", tmp_path / f"visitor-{number}", socket["visited"]) as visitor:
                    visitor.boot().check(f"{mounted('visited')} && echo {number} >visitor-{number}")
                    # One goes in good order, one as a crashed monitor does.
                    if number:
                        visitor.power_off()
                site.ask(Reload(), Reloaded)
            steady.reset()
            steady.check(f"{mounted(TAG)} && echo second >>boots && sync")
            # A reset keeps the monitor's connection, and so the jail behind it.
            assert [keeper for keeper, _ in site.jails() if site.share_of(keeper) == "steady"] == serving
            steady.quit()
        with new_machine("qemu", tmp_path / "again", socket["steady"]) as again:
            assert again.boot().check(f"{mounted(TAG)} && cat boots") == "first\nsecond\n"
        assert (site.source("visited") / "visitor-1").read_text() == "1\n"
        site.settled(2)
        site.stop()
