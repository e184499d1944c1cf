"""Mounts of a running jail under a policy that changes: in which order with the worker, and what if it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from virtiofs_sandbox.confine.plan import ChildMount, HeldRule, MountAction, MountChange, RuleMount
from virtiofs_sandbox.launcher import LaunchError
from virtiofs_sandbox.policies.share import Access, Child, PathRules, Share
from virtiofs_sandbox.supervisor.events import (
    LayersHold,
    MountChanged,
    MountNotChanged,
    SettingsApplied,
    TakesEffectLater,
    WorkerEnded,
    WorkerKilled,
    ZygoteDied,
)
from virtiofs_sandbox.supervisor.worker import Terms
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

from tests.fakes.launching import PLAN, FakeLauncher, Script, well_behaved
from tests.fakes.worker import Behaviour
from tests.integration.served import Monitor, Served, doing, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
OPEN = PathRules()


@dataclasses.dataclass
class Mounting:
    """The launcher's part: keeps what was asked of it, and what the worker had been told by then."""

    share: Served | None = None
    asked: list[tuple[MountAction, str]] = dataclasses.field(default_factory=list)
    told: list[int] = dataclasses.field(default_factory=list)
    failing: frozenset[MountAction] = frozenset()

    def adjust(self, change: MountChange) -> None:
        self.asked.append((change.action, os.fsdecode(change.path)))
        self.told.append(len(self.share.of(SettingsApplied)) if self.share else 0)
        if change.action in self.failing:
            raise LaunchError("changing mounts", "mount_setattr", errno.EBUSY, "close what is open there")


def tree(*children: Child, paths: PathRules = OPEN) -> Terms:
    """A tree share as the planning would have it."""
    share = Share(name="data", source=None, tag="data", children=children, paths=paths)
    mounts = tuple(
        ChildMount(
            child.name.encode(),
            os.fsencode(child.source),
            MOUNT_ATTR_RDONLY if child.access is Access.READ_ONLY else 0,
        )
        for child in children
    )
    exact = [(path, False) for path in paths.readonly] + [(path, True) for path in paths.hide]
    rules = tuple(RuleMount(path.encode(), hide) for path, hide in exact)
    held = tuple(HeldRule(path, True, "a mount holds it") for path, _ in exact)
    return Terms(share, dataclasses.replace(PLAN, children=mounts, rule_mounts=rules, rules=held))


A, B = Child("a", Path("/srv/a")), Child("b", Path("/srv/b"))


def in_tree(
    tmp_path: Path,
    scene: Callable[[Served, Monitor, Mounting], Awaitable[None]],
    terms: Terms,
    mounting: Mounting | None = None,
    script: Script = well_behaved,
) -> None:
    async def play() -> None:
        launcher = mounting or Mounting()
        async with served(tmp_path, script, terms=terms, adjust=launcher.adjust) as harness:
            launcher.share = harness
            monitor = await harness.connect()
            await monitor.welcome()
            await scene(harness, monitor, launcher)

    asyncio.run(play())


def test_a_child_that_goes_is_hidden_by_the_worker_before_its_mount_is_detached(tmp_path: Path) -> None:
    async def scene(share: Served, monitor: Monitor, mounting: Mounting) -> None:
        share.service.take_over(tree(A))
        await share.seen(MountChanged)
        assert (mounting.asked, mounting.told) == ([(MountAction.DETACH, "b")], [1])
        # Nothing is left to hide then.
        await share.seen(SettingsApplied, 2)
        assert (await monitor.rules()).hide == ()
        assert share.of(TakesEffectLater) == []

    in_tree(tmp_path, scene, tree(A, B))


def test_a_child_that_comes_is_attached_when_the_worker_knows_the_rules_inside_it(tmp_path: Path) -> None:
    async def scene(share: Served, monitor: Monitor, mounting: Mounting) -> None:
        share.service.take_over(tree(A, B, paths=PathRules(hide=("b/secret",))))
        await share.seen(MountChanged, 2)
        assert mounting.asked == [(MountAction.ATTACH, "b"), (MountAction.MASK, "b/secret")]
        assert mounting.told[0] == 1
        assert (await monitor.rules()).hide == ("b/secret",)

    in_tree(tmp_path, scene, tree(A))


def test_a_child_that_moves_is_hidden_until_the_other_directory_is_in_its_place(tmp_path: Path) -> None:
    async def scene(share: Served, monitor: Monitor, mounting: Mounting) -> None:
        share.service.take_over(tree(Child("a", Path("/srv/other"))))
        await share.seen(SettingsApplied, 2)
        assert mounting.asked == [(MountAction.DETACH, "a"), (MountAction.ATTACH, "a")]
        assert mounting.told == [1, 1]
        assert (await monitor.rules()).hide == ()

    in_tree(tmp_path, scene, tree(A))


def test_what_is_frozen_is_refused_by_the_worker_first_and_what_is_thawed_last(tmp_path: Path) -> None:
    async def scene(share: Served, _: Monitor, mounting: Mounting) -> None:
        share.service.take_over(tree(dataclasses.replace(A, access=Access.READ_ONLY), B))
        await share.seen(MountChanged)
        share.service.take_over(tree(A, B))
        await share.seen(SettingsApplied, 2)
        assert mounting.asked == [(MountAction.FREEZE, "a"), (MountAction.THAW, "a")]
        assert mounting.told == [1, 1]

    in_tree(tmp_path, scene, tree(A, B))


def test_a_mount_that_is_busy_is_reported_and_the_worker_holds_alone(tmp_path: Path) -> None:
    """Rule 24."""

    async def scene(share: Served, monitor: Monitor, _: Mounting) -> None:
        share.service.take_over(tree(A, B, paths=PathRules(readonly=("a/kept",))))
        told = await share.seen(MountNotChanged)
        assert "Device or resource busy" in str(told)
        assert "the worker alone holds it until the client leaves" in str(told)
        held = await share.seen(LayersHold)
        assert not held.rules[0].held
        (slot,) = share.service.slots
        assert slot.layers == held.rules
        assert (await monitor.rules()).readonly == ("a/kept",)
        assert share.of(WorkerKilled) == []

    in_tree(tmp_path, scene, tree(A, B), Mounting(failing=frozenset({MountAction.FREEZE})))


def test_what_could_not_be_mounted_is_tried_again_with_the_next_reload(tmp_path: Path) -> None:
    async def scene(share: Served, _: Monitor, mounting: Mounting) -> None:
        wanted = tree(A, B, paths=PathRules(readonly=("a/kept",)))
        share.service.take_over(wanted)
        await share.seen(MountNotChanged)
        mounting.failing = frozenset()
        share.service.take_over(dataclasses.replace(wanted))
        await share.seen(MountChanged)
        (slot,) = share.service.slots
        assert slot.layers[0].held

    in_tree(tmp_path, scene, tree(A, B), Mounting(failing=frozenset({MountAction.FREEZE})))


def test_what_was_not_there_to_be_mounted_over_at_launch_is_mounted_over_with_the_next_reload(tmp_path: Path) -> None:
    terms = tree(A, paths=PathRules(hide=("a/secret", "a/other")))

    async def scene(share: Served, _: Monitor, mounting: Mounting) -> None:
        share.service.take_over(dataclasses.replace(terms))
        await share.seen(MountChanged)
        assert mounting.asked == [(MountAction.MASK, "a/secret")]

    in_tree(tmp_path, scene, terms, script=lambda _: Behaviour(unheld=(b"a/secret",)))


def test_a_child_that_cannot_be_detached_stays_hidden(tmp_path: Path) -> None:
    async def scene(share: Served, monitor: Monitor, _: Mounting) -> None:
        share.service.take_over(tree(A))
        await share.seen(MountNotChanged)
        assert (await monitor.rules()).hide == ("b",)

    in_tree(tmp_path, scene, tree(A, B), Mounting(failing=frozenset({MountAction.DETACH})))


def test_no_mount_is_taken_from_under_a_worker_that_did_not_hide_it(tmp_path: Path) -> None:
    async def scene(share: Served, _: Monitor, mounting: Mounting) -> None:
        share.service.take_over(tree(A))
        await share.seen(WorkerKilled)
        await share.seen(WorkerEnded)
        assert mounting.asked == []

    in_tree(tmp_path, scene, tree(A, B), script=doing("silent"))


def test_of_many_trees_in_a_row_the_newest_is_mounted(tmp_path: Path) -> None:
    async def scene(share: Served, monitor: Monitor, mounting: Mounting) -> None:
        for number in range(30):
            share.service.take_over(tree(A, Child(f"c{number}", Path("/srv/c"))))
            await asyncio.sleep(0.003 * (number % 4))
        await share.until(lambda: all(slot.settled for slot in share.service.slots))
        attached: set[str] = set()
        for action, name in mounting.asked:
            (attached.add if action is MountAction.ATTACH else attached.discard)(name)
        assert attached == {"c29"}
        assert "c29" not in (await monitor.rules()).hide

    in_tree(tmp_path, scene, tree(A))


def test_a_client_that_leaves_while_mounts_change_takes_no_zygote_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(*_: object) -> None:
        await asyncio.sleep(1000)

    monkeypatch.setattr(FakeLauncher, "adjust", for_ever)

    async def scene(share: Served, monitor: Monitor, _: Mounting) -> None:
        share.service.take_over(tree(A))
        await share.seen(SettingsApplied)
        monitor.leave()
        await share.seen(WorkerEnded)
        second = await share.connect()
        assert await second.greeting() == 2
        assert share.of(ZygoteDied) == []

    in_tree(tmp_path, scene, tree(A, B))


def test_a_warm_worker_with_other_mounts_is_replaced(tmp_path: Path) -> None:
    async def scene() -> None:
        mounting = Mounting()
        async with served(tmp_path, terms=tree(A), adjust=mounting.adjust) as share:
            share.service.take_over(tree(A, B))
            monitor = await share.connect()
            assert await monitor.greeting() == 2
            assert mounting.asked == []

    asyncio.run(scene())
