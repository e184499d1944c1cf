"""Several clients on one share, each with a worker of its own: places, limits that are divided, reloads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from virtiofs_sandbox.policies.share import Access, PathRules, RequestLimits, Share
from virtiofs_sandbox.supervisor.events import (
    ClientRefused,
    ClientWaits,
    SettingsApplied,
    TakesEffectLater,
    WorkerEnded,
    WorkerKilled,
    WorkerWarm,
)
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.worker import Terms

from tests.fakes.launching import PLAN, Script, well_behaved
from tests.fakes.worker import Behaviour
from tests.integration.served import QUICK, Monitor, Served, served

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
RATE = 600_000


def with_places(
    tmp_path: Path,
    places: int,
    scene: Callable[[Served], Awaitable[None]],
    script: Script = well_behaved,
    *,
    limits: RequestLimits | None = None,
    spares: Spares | None = None,
) -> None:
    async def play() -> None:
        share = Share(name="data", source=tmp_path, tag="data", max_clients=places, limits=limits)
        async with served(tmp_path, script, terms=Terms(share, PLAN), spares=spares) as harness:
            await scene(harness)

    asyncio.run(play())


async def greeted(share: Served, number: int) -> list[Monitor]:
    monitors = [await share.connect() for _ in range(number)]
    assert [await monitor.greeting() for monitor in monitors] == list(range(1, number + 1))
    return monitors


@pytest.mark.parametrize("spares", [0, 1])
def test_each_client_has_a_worker_of_its_own_and_one_more_stays_warm_while_there_is_a_place(
    tmp_path: Path, spares: int
) -> None:
    async def scene(share: Served) -> None:
        first, second = await greeted(share, 2)
        assert len({slot.pid for slot in share.service.holders}) == 2
        await share.until(lambda: len(share.service.slots) == 2 + spares)
        third = await share.connect()
        assert await third.greeting() == 3
        assert len(share.service.slots) == 3
        # One that goes, or dies, is no matter of the others.
        second.say("crash 11")
        assert await second.closed()
        fourth = await share.connect()
        assert await fourth.greeting() == 4
        first.say("client 2")
        third.leave()
        await share.seen(WorkerEnded, 2)
        assert [slot.generation for slot in share.service.holders] == [1, 4]

    with_places(tmp_path, 3, scene, spares=Spares(spares))


def test_one_more_than_there_are_places_waits_and_is_turned_away_only_while_all_stay(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        first, _ = await greeted(share, 2)
        third = await share.connect()
        waits = await share.seen(ClientWaits, 3)
        assert "waits for one of 2 to go" in str(waits)
        first.leave()
        assert await third.greeting() == 3
        fourth = await share.connect()
        assert await fourth.closed()
        refused = await share.seen(ClientRefused)
        assert "2 are connected, as many as share.max_clients says" in str(refused)

    with_places(tmp_path, 2, scene)


def test_clients_divide_the_limit_and_a_newcomer_waits_until_the_others_have_given_up_its_part(tmp_path: Path) -> None:
    def slow_to_follow(number: int) -> Behaviour:
        return Behaviour(settings=("apply 0.3",)) if number == 1 else Behaviour()

    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        assert await first.read_limit() == RATE
        second = await share.connect()
        await second.greeting()
        (applied, *_) = [event for event in share.of(SettingsApplied) if event.generation == 1]
        assert applied.quietly
        assert [await monitor.read_limit() for monitor in (first, second)] == [RATE // 2] * 2
        third = await share.connect()
        await third.greeting()
        assert [await monitor.read_limit() for monitor in (first, second, third)] == [RATE // 3] * 3
        third.leave()
        second.leave()
        await share.until(lambda: len(share.service.holders) == 1 and share.service.settled)
        assert await first.read_limit() == RATE
        assert share.of(WorkerKilled) == []

    with_places(tmp_path, 3, scene, slow_to_follow, limits=RequestLimits(read=RATE))


def test_who_does_not_give_up_its_part_is_killed_and_the_newcomer_served(tmp_path: Path) -> None:
    def deaf_to_settings(number: int) -> Behaviour:
        return Behaviour(settings=("ignore",)) if number == 1 else Behaviour()

    async def scene(share: Served) -> None:
        first = await share.connect()
        await first.greeting()
        second = await share.connect()
        assert await second.greeting() == 2
        killed = await share.seen(WorkerKilled)
        assert killed.generation == 1
        assert await second.read_limit() in (RATE, RATE // 2)

    with_places(tmp_path, 2, scene, deaf_to_settings, limits=RequestLimits(read=RATE))


def test_a_reload_reaches_all_that_serve_and_tells_of_each_that_must_wait(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        monitors = await greeted(share, 2)
        await share.seen(WorkerWarm, 3)
        for monitor in monitors:
            await monitor.rules()
        words = share.take_over_words(paths=PathRules(hide=("secret",)), access=Access.READ_ONLY)
        assert words == ("access read-write -> read-only",)
        assert [event.generation for event in share.of(TakesEffectLater)] == [1, 2]
        await share.seen(SettingsApplied, 2)
        assert [(await monitor.rules()).hide for monitor in monitors] == [("secret",)] * 2

    with_places(tmp_path, 3, scene)


def test_more_places_are_there_at_once_and_fewer_send_nobody_away(tmp_path: Path) -> None:
    async def scene(share: Served) -> None:
        (first,) = await greeted(share, 1)
        second = await share.connect()
        await share.seen(ClientWaits, 2)
        assert share.take_over_words(max_clients=2) == ()
        assert await second.greeting() == 2
        assert share.take_over_words(max_clients=1) == ("share.max_clients 2 -> 1",)
        await asyncio.sleep(QUICK.patience)
        assert [slot.state for slot in share.service.holders] == [State.SERVING] * 2
        third = await share.connect()
        assert await third.closed()
        first.leave()
        await share.seen(WorkerEnded)
        assert [slot.generation for slot in share.service.slots] == [2]

    with_places(tmp_path, 1, scene)
