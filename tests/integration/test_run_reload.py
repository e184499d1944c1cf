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
from virtiofs_sandbox.policies.share import CacheMode, LogLevel, PathRules, Program, Share, ShareError
from virtiofs_sandbox.supervisor.events import (
    Event,
    LaunchFailed,
    Listening,
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
)
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile
from virtiofs_sandbox.supervisor.resident import run_share
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.worker import Terms

from tests.fakes.launching import PLAN, Script, fake_launching, well_behaved
from tests.fakes.worker import Behaviour
from tests.integration.running import Running
from tests.integration.served import QUICK, Served, doing, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
HIDDEN = PathRules(hide=("secret",))
OPEN = PathRules()


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
