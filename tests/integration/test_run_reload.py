"""A policy that changes while its share is in service: what takes it over when, and what becomes of who does not."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.confine.plan import ChildMount, HeldRule, MountAction, MountChange, RuleMount
from virtiofs_sandbox.launcher import LaunchError
from virtiofs_sandbox.policies.share import Access, CacheMode, Child, LogLevel, PathRules, Program, Share, ShareError
from virtiofs_sandbox.supervisor.events import (
    Event,
    LaunchFailed,
    LayersHold,
    Listening,
    MountChanged,
    MountNotChanged,
    Reloaded,
    ReloadRefused,
    SettingsApplied,
    SettingsNotApplied,
    Stopped,
    TakesEffectLater,
    WorkerEnded,
    WorkerKilled,
    WorkerReplaced,
    WorkerSaid,
    WorkerWarm,
    ZygoteDied,
)
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile
from virtiofs_sandbox.supervisor.resident import run_share
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.worker import Terms
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

from tests.fakes.launching import PLAN, FakeLauncher, Script, fake_launching, well_behaved
from tests.fakes.worker import Behaviour
from tests.integration.running import Running
from tests.integration.served import QUICK, Monitor, Served, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
HIDDEN = PathRules(hide=("secret",))
OPEN = PathRules()


def doing(*settings: str) -> Script:
    """The first worker does these on its SETTINGS, all later ones behave."""
    return lambda number: Behaviour(settings=settings) if number == 1 else Behaviour()


def in_service(
    tmp_path: Path, scene: Callable[[Served], Awaitable[None]], script: Script = well_behaved, paths: PathRules = OPEN
) -> None:
    async def play() -> None:
        share = Share(name="data", source=tmp_path, tag="data", paths=paths)
        async with served(tmp_path, script, terms=Terms(share, PLAN)) as harness:
            await scene(harness)

    asyncio.run(play())


# What takes effect at once.


def test_new_path_rules_reach_the_worker_that_serves_and_its_client_stays(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        assert (await monitor.welcome())[1].hide == ()
        share.take_over(paths=HIDDEN)
        applied = await share.seen(SettingsApplied)
        assert (applied.serial, applied.revoked, applied.client is not None) == (1, 1, True)
        assert (await monitor.rules()).hide == ("secret",)
        assert share.of(WorkerEnded) == []

    in_service(tmp_path, scene)


def test_a_worker_goes_on_by_its_rules_where_another_program_serves_the_next_client(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        assert (await monitor.welcome())[1].hide == ("secret",)
        share.take_over(paths=OPEN, program=Program(Path("/virtiofsd")))
        late = await share.seen(TakesEffectLater)
        assert {words.split()[0] for words in late.changes} == {"paths.hide", "worker.program"}
        assert (await monitor.rules()).hide == ("secret",)
        # And is told of rules again once it is its own policy that changes.
        share.take_over(paths=PathRules(hide=("secret", "more")), program=None)
        assert (await share.seen(SettingsApplied)).serial == 1
        assert (await monitor.rules()).hide == ("secret", "more")

    in_service(tmp_path, scene, paths=HIDDEN)


def test_a_warm_worker_gets_them_before_its_client_does(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        share.take_over(paths=HIDDEN)
        monitor = await share.connect()
        generation, rules = await monitor.welcome()
        assert (generation, rules.hide) == (1, ("secret",))

    in_service(tmp_path, scene, doing("apply 0.2"))


def test_a_client_that_waits_is_served_only_by_the_new_rules(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.say("linger 0.3")
        second = await share.connect()
        first.leave()
        await share.seen(WorkerWarm, 2)
        share.take_over(paths=HIDDEN)
        generation, rules = await second.welcome()
        assert (generation, rules.hide) == (2, ("secret",))

    in_service(tmp_path, scene)


def test_a_reload_while_the_next_worker_warms_up_is_not_lost(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.leave()
        await share.until(lambda: any(slot.state is State.WARMING for slot in share.service.slots))
        share.take_over(paths=HIDDEN)
        second = await share.connect()
        generation, rules = await second.welcome()
        assert (generation, rules.hide) == (2, ("secret",))
        # Told by SETTINGS: its configuration was written before.
        await share.seen(SettingsApplied)

    in_service(tmp_path, scene, lambda number: Behaviour(before_ready="sleep 0.2" if number == 2 else ""))


def test_a_reload_while_a_launch_is_put_off_is_in_its_configuration(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.leave()
        await share.until(lambda: any(slot.state is State.BACKOFF for slot in share.service.slots))
        share.take_over(paths=HIDDEN, cache=CacheMode.NEVER)
        second = await share.connect()
        assert (await second.welcome())[1].hide == ("secret",)
        assert share.of(SettingsApplied) == []
        assert share.of(WorkerReplaced) == []

    in_service(tmp_path, scene, lambda number: Behaviour(fail_launch=number in (2, 3)))


def test_of_many_reloads_in_a_row_the_newest_holds_and_none_is_undone(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        for number in range(50):
            share.take_over(paths=PathRules(hide=(f"secret{number}",)))
            if number % 7 == 0:
                await asyncio.sleep(0)
        await share.until(lambda: all(slot.settled for slot in share.service.slots))
        assert (await monitor.rules()).hide == ("secret49",)
        # Those between the one under way and the newest were never worth a message.
        assert len(share.of(SettingsApplied)) < 20
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene)


def test_a_reload_taken_back_while_it_is_under_way_is_taken_back_in_the_worker_too(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=HIDDEN)
        await asyncio.sleep(0.05)
        share.take_over(paths=OPEN)
        await share.seen(SettingsApplied, 2)
        assert (await monitor.rules()).hide == ()

    in_service(tmp_path, scene, doing("apply 0.2"))


# What waits for a new jail.


def test_what_needs_a_new_jail_replaces_the_warm_worker_at_once(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        share.take_over(cache=CacheMode.NEVER)
        monitor = await share.connect()
        assert await monitor.greeting() == 2
        (replaced,) = share.of(WorkerReplaced)
        assert replaced.generation == 1
        ended = await share.seen(WorkerEnded)
        assert ended.expected

    in_service(tmp_path, scene)


def test_what_needs_a_new_jail_waits_for_the_client_to_leave_and_says_so(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(cache=CacheMode.NEVER, paths=HIDDEN)
        later = await share.seen(TakesEffectLater)
        assert str(later) == "takes effect when the client leaves: cache auto -> never"
        # What can be taken over meanwhile is.
        await share.seen(SettingsApplied)
        assert (await monitor.rules()).hide == ("secret",)
        monitor.leave()
        second = await share.connect()
        assert await second.greeting() == 2

    in_service(tmp_path, scene)


def test_a_client_that_comes_while_the_warm_worker_is_replaced_waits_for_the_new_one(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitors = [await share.connect()]
        share.take_over(cache=CacheMode.NEVER)
        share.take_over(cache=CacheMode.ALWAYS)
        assert await monitors[0].greeting() > 1

    in_service(tmp_path, scene)


# Workers that do not follow.


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (f"refuse {errno.EINVAL}", "it refuses new settings: Invalid argument, and it may allow what is forbidden now"),
        ("silent", "no answer to new settings within 1.5 s, and it may allow what is forbidden now"),
        ("claim 7", "APPLIED for settings 7, and 1 are unanswered"),
        ("twice", "APPLIED for settings 1, and none are unanswered"),
        ("refuse 99999", "APPLIED with unknown errno 99999"),
    ],
)
def test_a_worker_that_does_not_take_over_stricter_rules_is_killed_and_the_next_has_them(
    tmp_path: Path, action: str, reason: str
) -> None:
    """I7: no silent downgrade."""

    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=HIDDEN)
        killed = await share.seen(WorkerKilled)
        assert killed.reason == reason
        assert await monitor.closed()
        second = await share.connect()
        generation, rules = await second.welcome()
        assert (generation, rules.hide) == (2, ("secret",))

    in_service(tmp_path, scene, doing(action))


@pytest.mark.parametrize("action", [f"refuse {errno.ENOMEM}", "silent"])
def test_one_that_does_not_take_over_looser_rules_is_reported_and_stays(tmp_path: Path, action: str) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=OPEN)
        refused = await share.seen(SettingsNotApplied)
        assert "the settings before hold until the client leaves" in str(refused)
        assert (await monitor.rules()).hide == ("secret",)
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene, doing(action), HIDDEN)


def test_a_warm_worker_that_does_not_follow_is_killed_and_no_client_meets_it(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        share.take_over(paths=OPEN)
        monitor = await share.connect()
        generation, rules = await monitor.welcome()
        assert (generation, rules.hide) == (2, ())

    in_service(tmp_path, scene, doing("silent"), HIDDEN)


def test_an_answer_nobody_asked_for_ends_the_jail(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        monitor.say("applied 1")
        killed = await share.seen(WorkerKilled)
        assert killed.reason == "APPLIED for settings 1, and none are unanswered"

    in_service(tmp_path, scene)


def test_an_answer_before_the_worker_is_ready_ends_the_jail(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        first.leave()
        killed = await share.seen(WorkerKilled)
        assert killed.reason == "out of order: message APPLIED while being launched"

    in_service(tmp_path, scene, lambda number: Behaviour(before_ready="applied 1" if number == 2 else ""))


def test_an_answer_after_its_time_counts_like_any_other(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=OPEN)
        await share.seen(SettingsNotApplied)
        await share.seen(SettingsApplied)
        assert (await monitor.rules()).hide == ()
        share.take_over(paths=HIDDEN)
        await share.seen(SettingsApplied, 2)
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene, doing(f"apply {QUICK.settings * 1.5}"), HIDDEN)


def test_a_worker_without_an_answer_is_judged_by_all_it_may_hold(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=OPEN)
        await share.seen(SettingsNotApplied)
        # It may have opened up without saying so: going back to the rules before is stricter than that.
        share.take_over(paths=HIDDEN)
        killed = await share.seen(WorkerKilled)
        assert "it may allow what is forbidden now" in killed.reason

    in_service(tmp_path, scene, doing("silent", "silent"), HIDDEN)


def test_reloads_without_end_do_not_save_a_deaf_worker(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()

        async def reload_for_ever() -> None:
            for number in range(1000):
                share.take_over(paths=PathRules(hide=(f"secret{number}",)))
                await asyncio.sleep(0.05)

        storm = asyncio.ensure_future(reload_for_ever())
        await share.seen(WorkerKilled)
        storm.cancel()
        assert len(share.of(SettingsApplied)) == 0

    in_service(tmp_path, scene, doing("silent", "silent", "silent"))


def test_a_worker_that_leaves_instead_of_answering_is_no_failure(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=HIDDEN)
        ended = await share.seen(WorkerEnded)
        assert ended.expected
        second = await share.connect()
        assert (await second.welcome())[1].hide == ("secret",)

    in_service(tmp_path, scene, doing("leave"))


def test_a_stop_does_not_wait_for_an_answer_to_settings(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(paths=HIDDEN)
        await share.until(lambda: any("settings 1" in str(event) for event in share.of(WorkerSaid)))
        assert await share.service.stop(QUICK.stop_grace)
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene, doing("silent"))


def test_a_reload_in_the_middle_of_a_stop_changes_nothing(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        monitor.say("linger 0.2")
        stopping = asyncio.ensure_future(share.service.stop(QUICK.stop_grace))
        await asyncio.sleep(0.05)
        share.take_over(paths=HIDDEN, cache=CacheMode.NEVER)
        assert await stopping
        assert len(share.pids) == 1

    in_service(tmp_path, scene)


def test_the_log_level_is_taken_over_and_never_worth_a_kill(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitor = await share.connect()
        await monitor.welcome()
        share.take_over(log_level=LogLevel.DEBUG)
        await share.seen(SettingsNotApplied)
        share.take_over(log_level=LogLevel.WARNING)
        await share.seen(SettingsApplied)
        assert share.of(WorkerKilled) == []

    in_service(tmp_path, scene, doing(f"refuse {errno.EIO}"))


# SIGHUP.


async def hang_up_signals(tmp_path: Path, answers: list[Share | Exception]) -> list[Event]:
    """A share under `run_share` that is reloaded once for each of *answers*; returns what was told."""
    share = Share(name="data", source=tmp_path, tag="data")
    events: list[Event] = []
    left = list(answers)

    def reload() -> tuple[Share, LaunchPlan]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, dataclasses.replace(PLAN, warnings=("no such layer here",))

    async def until(kind: tuple[type[Event], ...], count: int) -> None:
        async with asyncio.timeout(10):
            while sum(isinstance(event, kind) for event in events) < count:
                await asyncio.sleep(0.005)

    running = asyncio.ensure_future(
        run_share(
            share,
            PLAN,
            fake_launching(),
            listen=lambda: Listener.bind(SocketFile(tmp_path / "s")),
            sink=events.append,
            timing=QUICK,
            reload=reload,
        )
    )
    await until((Listening,), 1)
    for number in range(1, len(answers) + 1):
        os.kill(os.getpid(), signal.SIGHUP)
        await until((Reloaded, ReloadRefused), number)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running
    return events


def test_sighup_reads_the_policy_again_and_the_log_says_what_changed(tmp_path: Path) -> None:
    new = Share(name="data", source=tmp_path, tag="data", paths=HIDDEN, cache=CacheMode.NEVER)
    events = asyncio.run(hang_up_signals(tmp_path, [new, new]))
    sentences = [str(event) for event in events]
    assert "policy reloaded: paths.hide gains 'secret'; cache auto -> never" in sentences
    assert "policy reloaded: nothing changed" in sentences
    # Told once, not with every reload.
    assert sentences.count("no such layer here") == 1
    assert isinstance(events[-1], Stopped)


def test_a_policy_with_a_mistake_changes_nothing_and_the_next_is_read_again(tmp_path: Path) -> None:
    good = Share(name="data", source=tmp_path, tag="data", log_level=LogLevel.DEBUG)
    answers: list[Share | Exception] = [
        ShareError("line 3: no such key"),
        dataclasses.replace(good, name="other"),
        ValueError("a bug"),
        good,
    ]
    events = asyncio.run(hang_up_signals(tmp_path, answers))
    refusals = [str(event) for event in events if isinstance(event, ReloadRefused)]
    assert refusals == [
        "reload refused: line 3: no such key; everything stays as it was",
        "reload refused: name 'data' -> 'other': a running share keeps its name; stop it and start it anew; "
        "everything stays as it was",
        "reload refused: fault in the supervisor: ValueError('a bug'); everything stays as it was",
    ]
    (reloaded,) = [event for event in events if isinstance(event, Reloaded)]
    assert str(reloaded) == "policy reloaded: log_level info -> debug"
    assert not [event for event in events if isinstance(event, LaunchFailed)]


# Mounts of the running jail.


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


# The command itself.


def test_a_running_command_refuses_another_socket_and_a_policy_that_is_gone_and_goes_on(tmp_path: Path) -> None:
    directory, socket = tmp_path / "shares.d", tmp_path / "s"
    directory.mkdir()
    file = directory / "mine.toml"

    def say(path: Path, rest: str = "") -> None:
        file.write_text(f'[share]\nsource = "{tmp_path}/share"\ntag = "data"\nsocket = "{path}"\n{rest}')

    say(socket)
    with Running("real", tmp_path, "--policy-dir", os.fspath(directory)) as run:
        run.ready()
        caller = run.connect(socket)
        assert caller.served()
        say(tmp_path / "other")
        run.process.send_signal(signal.SIGHUP)
        run.logged("reload refused: share.socket: a running share keeps its socket")
        file.unlink()
        run.process.send_signal(signal.SIGHUP)
        run.logged("reload refused: no policy speaks of this")
        say(socket, '[paths]\nhide = ["/x"]\ncolour = 1\n')
        run.process.send_signal(signal.SIGHUP)
        run.logged("reload refused: ", 3)
        assert "mine.toml:6: paths.hide" in run.log.read_text()
        say(socket, '[paths]\nhide = ["x"]\n')
        run.process.send_signal(signal.SIGHUP)
        run.logged("works by the new settings")
        assert caller.served()
        assert run.stop() == 0
        run.nobody_left()
        caller.close()
