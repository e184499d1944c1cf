"""The shares of one supervisor inside the test's own loop: slow starts, retries, and everything at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from virtiofs_sandbox.confine import LaunchPlan
from virtiofs_sandbox.ipc.requests import RequestError
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.share import Share, ShareError
from virtiofs_sandbox.supervisor.active import Common
from virtiofs_sandbox.supervisor.backoff import BackoffLimits
from virtiofs_sandbox.supervisor.berth import Ground
from virtiofs_sandbox.supervisor.clients import Peer
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import ClientWaits, Event, ShareFailed, Withdrawn
from virtiofs_sandbox.supervisor.fleet import ALL, Fleet
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.zygotes import Zygotes

from tests.fakes.launching import PLAN, Script, fake_launching, well_behaved
from tests.fakes.worker import Behaviour
from tests.integration.served import QUICK, Monitor
from tests.integration.serving import Policies

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
TIMING = dataclasses.replace(QUICK, retry=BackoffLimits(first=0.05, longest=0.2))
ME = Peer(os.getpid(), os.geteuid())


@dataclass
class Scene:
    fleet: Fleet
    policies: Policies
    failing: set[str]
    events: list[Event]
    monitors: list[Monitor] = field(default_factory=list)

    async def connect(self, name: str) -> Monitor:
        monitor = Monitor(*await asyncio.open_unix_connection(self.policies.place / f"{name}.sock"))
        self.monitors.append(monitor)
        return monitor

    def states(self) -> dict[str, str]:
        return {name: standing.state for name, standing in self.fleet.standings().items()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


def play(
    tmp_path: Path, names: str, scene: Callable[[Scene], Awaitable[None]], script: Script = well_behaved
) -> list[Event]:
    """A fleet of these shares, not started yet, and stopped afterwards. *failing* shares have no plan."""
    policies = Policies(tmp_path)
    for name in names:
        policies.put(name)
    events: list[Event] = []
    failing: set[str] = set()

    def plan(share: Share) -> LaunchPlan:
        if share.name in failing:
            raise ShareError("not now")
        return PLAN

    def listen(policy: Policy, before: Listener | None) -> Listener:
        return Listener.bind(SocketFile(policy.socket.path), instead_of=before)

    async def run() -> None:
        zygotes = Zygotes(ALL, fake_launching(script), events.append)
        with Denials(events.append) as denials:
            common = Common(
                zygotes, denials, events.append, TIMING, tmp_path / "groups", (ShareError,), Spares(32),
                Tallies(events.append),
            )  # fmt: skip
            fleet = Fleet(policies.directory, common, Ground(plan, listen), look_anew=lambda: None, stop=lambda _: None)
            found = Scene(fleet, policies, failing, events)
            try:
                await scene(found)
            finally:
                assert await fleet.stop(TIMING.stop_grace)
                for monitor in found.monitors:
                    monitor.leave()
                zygotes.close()
        assert list(tmp_path.glob("*.sock")) == []

    asyncio.run(run())
    return events


def test_a_worker_that_does_not_get_ready_holds_up_no_other_share(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        start = asyncio.ensure_future(found.fleet.start())
        await found.until(lambda: list(found.states().values()).count("warm") == 5)
        assert not start.done()
        assert sorted(found.states().values()) == ["starting", *(["warm"] * 5)]
        await start
        assert sorted(found.states().values()) == ["failed", *(["warm"] * 5)]
        # The next one is as all the others.
        await found.until(lambda: list(found.states().values()).count("warm") == 6)

    play(tmp_path, "abcdef", scene, lambda number: Behaviour(ready=number != 1))


def test_a_stop_in_the_middle_of_a_start_does_not_wait_for_it(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        start = asyncio.ensure_future(found.fleet.start())
        await found.until(lambda: "warm" in found.states().values())
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        async with asyncio.timeout(TIMING.stop_margin + 1):
            assert await found.fleet.stop(0.1)

    play(tmp_path, "abcdef", scene, lambda number: Behaviour(ready=number == 1))


def test_tries_grow_rarer_up_to_a_cap_are_told_once_and_end_with_success(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        found.failing.add("a")
        await found.fleet.start()
        assert found.states() == {"a": "failed", "b": "warm"}
        await found.until(lambda: sum(isinstance(event, ShareFailed) for event in found.events) >= 6)
        found.failing.clear()
        await found.until(lambda: found.states()["a"] == "warm")

    failures = [event for event in play(tmp_path, "ab", scene) if isinstance(event, ShareFailed)]
    assert [event.repeated for event in failures] == [False, *[True] * (len(failures) - 1)]
    waits = [event.retry for event in failures]
    assert waits[0] >= TIMING.retry.first
    assert max(waits) <= TIMING.retry.longest
    assert waits[-1] > TIMING.retry.first


def test_a_stopped_share_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        found.failing.add("a")
        await found.fleet.start()
        await found.fleet.stop_share("a", now=False, by=ME)
        found.failing.clear()
        await asyncio.sleep(3 * TIMING.retry.longest)
        assert found.states() == {"a": "stopped"}

    play(tmp_path, "a", scene)


def test_who_waits_for_a_share_that_goes_out_of_service_is_let_go(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        await found.fleet.start()
        first = await found.connect("a")
        assert await first.greeting() == 1
        second = await found.connect("a")
        await found.until(lambda: sum(isinstance(event, ClientWaits) for event in found.events) == 2)
        await found.fleet.stop_share("a", now=False, by=ME)
        async with asyncio.timeout(TIMING.patience / 2):
            assert await second.greeting() == 0
        first.leave()
        await found.until(lambda: found.states() == {"a": "stopped"})

    play(tmp_path, "a", scene)


def test_a_restart_that_waits_for_a_share_on_its_way_out_starts_nothing(tmp_path: Path) -> None:
    async def scene(found: Scene) -> None:
        await found.fleet.start()
        monitor = await found.connect("a")
        await monitor.greeting()
        monitor.say("linger 0.3")
        await asyncio.sleep(0.05)
        found.policies.remove("a")
        removal = asyncio.ensure_future(found.fleet.reload(now=True))
        await found.until(lambda: any(isinstance(event, Withdrawn) for event in found.events))
        with pytest.raises(RequestError):
            await found.fleet.restart("a", now=False)
        await removal
        assert found.states() == {"b": "warm"}
        assert not (found.policies.place / "a.sock").exists()

    play(tmp_path, "ab", scene)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_asked_at_the_same_time_it_ends_as_the_policies_say(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - for variety, not for secrets
    names = "abcd"

    async def anything(found: Scene) -> None:
        name, now = chance.choice(names), chance.random() < 0.5
        match chance.randrange(9):
            case 0:
                found.policies.put(name, chance.choice(["", '[paths]\nhide = ["x"]', '[cache]\nmode = "never"']))
            case 1:
                with contextlib.suppress(FileNotFoundError):
                    found.policies.remove(name)
            case 2:
                found.policies.put(name, socket=f'"{found.policies.place}/{chance.choice(names)}2.sock"')
            case 3:
                found.failing ^= {name}
            case 4:
                await found.fleet.reload(now=now)
            case 5:
                await found.fleet.reload(name, now=now)
            case 6:
                await found.fleet.stop_share(name, now=now, by=ME)
            case 7:
                await found.fleet.restart(name, now=now)
            case 8:
                (await found.connect(name)).say("hello")

    async def scene(found: Scene) -> None:
        await found.fleet.start()
        work = []
        for _ in range(60):
            work.append(asyncio.ensure_future(anything(found)))
            await asyncio.sleep(chance.random() * 0.02)
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            # Refused, or nobody listens there just now.
            assert outcome is None or isinstance(outcome, RequestError | OSError), outcome
        found.failing.clear()
        for name in names:
            found.policies.put(name)
        await found.fleet.reload(now=True)
        for monitor in found.monitors:
            monitor.leave()
        await found.until(lambda: found.states() == dict.fromkeys(names, "warm"))
        for name in names:
            assert await (await found.connect(name)).greeting() > 0

    events = play(tmp_path, names, scene)
    assert not [event for event in events if "fault in the supervisor" in str(event)]
