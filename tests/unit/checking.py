"""What `check` is given in its tests: real directories, real plans of this host, and plans changed from them."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import CannotConfineError, HostProbe, LaunchPlan, Tier, prepare, probe_host
from virtiofs_sandbox.confine.preflight import Bounds, Finding, Subject, check
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.share import (
    PathRules,
    Share,
)

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/reports.md"
OURS = os.geteuid()
FOREIGN = 4321
needs_root = pytest.mark.skipif(OURS != 0, reason="only root gives files to others, or makes devices")


@pytest.fixture(scope="module")
def host() -> HostProbe:
    return probe_host()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory that others may enter, with one file."""
    directory = tmp_path / "share"
    directory.mkdir(mode=0o755)
    (directory / "file").write_text("text")
    return directory


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that everybody may pass through, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def share_of(source: Path, **settings: object) -> Share:
    return dataclasses.replace(Share("data", source, "data"), **settings)  # type: ignore[arg-type]


def subject(share: Share, host: HostProbe, where: Socket | None = None, **bounds: object) -> Subject:
    """What `check` would look at here."""
    plan, refusal = None, None
    try:
        plan = prepare(share, host, worker=Path("/usr/bin/virtiofs-worker"))
    except CannotConfineError as error:
        refusal = str(error)
    limits = dataclasses.replace(Bounds(), **bounds)  # type: ignore[arg-type]
    return Subject(share, host, plan, refusal, where, frozenset(os.getgroups()), limits)


def planned(made: Subject, change: Callable[[LaunchPlan], LaunchPlan]) -> Subject:
    assert made.plan is not None
    return dataclasses.replace(made, plan=change(made.plan))


def single(made: Subject, identity: int = OURS) -> Subject:
    """As an ordinary user's jail: one id is mapped, and everything belongs to it."""
    one = b"%d %d 1\n" % (identity, identity)
    return planned(
        made,
        lambda plan: dataclasses.replace(plan, tier=Tier.USERNS, ids="self", uid_map=one, gid_map=one, become=None),
    )


def of_kind(findings: Iterable[Finding], kind: str) -> list[Finding]:
    return [finding for finding in findings if finding.kind == kind]


def documented() -> set[str]:
    """The kinds that docs/reports.md lists."""
    table = DOCUMENT.read_text().partition("| about | kinds |")[2].partition("\n\n")[0]
    return set(re.findall(r"`([\w-]+)`", table))


def only(made: Subject, kind: str) -> Finding:
    """The one finding of *kind*."""
    every = check(made)
    assert {finding.kind for finding in every} <= documented()
    (found,) = of_kind(every, kind)
    return found


def none(made: Subject, kind: str) -> None:
    assert kind in documented()
    assert of_kind(check(made), kind) == []


def ruled(source: Path, **rules: object) -> Share:
    return share_of(source, paths=dataclasses.replace(PathRules(), **rules))  # type: ignore[arg-type]
