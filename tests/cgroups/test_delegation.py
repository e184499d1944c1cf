"""A caller who is not root: groups where somebody gave it one, and a sentence how to get one where nobody did."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.cgroups.site import Site, group_of
from tests.integration.running import Running
from tests.integration.test_run_unprivileged import become, nobody, place

__all__ = ["nobody", "place"]  # fixtures


def policy(place: Path, site: Site, limits: str) -> list[str]:
    """About the directory that Running shares, with groups made at *site*."""
    directory = place / "shares.d"
    directory.mkdir()
    (directory / "mine.toml").write_text(f'[share]\nsource = "{place}/share"\ntag = "mine"\n{limits}')
    (place / "defaults.toml").write_text(f'[limits]\nparent = "{site.parent}"\n')
    return ["--policy-dir", os.fspath(directory), "--socket", os.fspath(place / "s")]


@pytest.fixture
def delegated(site: Site, nobody: pwd.struct_passwd) -> Path:
    """The site's group with the controller pids, as systemd gives one to a user: the directory and the files in it."""
    base = site.base("pids")
    for path in (base, *base.iterdir()):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    return base


def test_in_a_delegated_group_a_user_s_share_is_held(
    site: Site, delegated: Path, nobody: pwd.struct_passwd, place: Path
) -> None:
    options = policy(place, site, "[limits.pids]\nmax = 60\n")
    if site.version("pids") == 2:
        pytest.skip("a process moves only below a group of version 2 that is its user's, and this test is in none")
    with Running("real", place, *options, prefix=become(nobody)) as run:
        run.ready()
        (keeper,) = run.of(1, "virtiofs-worker")
        group = site.group("pids", "share-mine")
        assert group_of(keeper, group)
        assert (group / "pids.max").read_text().strip() == "60"
        assert group.stat().st_uid == nobody.pw_uid
        assert run.stop() == 0
    assert site.left() == []


def test_without_a_group_of_one_s_own_the_limit_is_refused_and_the_way_to_get_one_is_said(
    site: Site, nobody: pwd.struct_passwd, place: Path
) -> None:
    options = policy(place, site, "[limits.pids]\nmax = 60\n")
    with Running("real", place, *options, prefix=become(nobody)) as run:
        assert run.process.wait(20) == 1
        log = run.log.read_text()
    assert "limits.pids.max cannot be held here: the control group" in log
    assert "is not this user's to divide; start it as a systemd service with Delegate=yes" in log


def test_or_the_share_starts_without_it_and_says_so(site: Site, nobody: pwd.struct_passwd, place: Path) -> None:
    options = policy(place, site, '[limits]\nunenforceable = "warn"\n[limits.pids]\nmax = 60\n')
    with Running("real", place, *options, prefix=become(nobody)) as run:
        run.ready()
        run.logged("limits.pids.max is not held: the control group")
        assert run.stop() == 0
    assert site.left() == []
