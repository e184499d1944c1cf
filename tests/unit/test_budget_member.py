"""Members whose steps fall in any order, with workers that are slow to follow: together they never have too much."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from virtiofs_sandbox.budgets import member as members
from virtiofs_sandbox.budgets.member import Member, Part
from virtiofs_sandbox.budgets.registry import Registry
from virtiofs_sandbox.ipc.stats import Statistics
from virtiofs_sandbox.policies.share import Membership, Rates, RequestLimits, Share

BUDGET = 1 << 20


class Guest:
    """Uses *wants* of its part in whatever time there is; works by an older part until it is *settled*."""

    def __init__(self) -> None:
        self.settled = True
        self.used = 0
        self.worked_by = 0
        self.told = 0

    def statistics(self) -> Mapping[int, Statistics]:
        return {}

    def disk_usage(self) -> Mapping[str, int]:
        return {"read": self.used}

    def take(self, part: Part) -> None:
        self.told = part.disk.read or 0
        self.follow()

    def follow(self) -> None:
        if self.settled:
            self.worked_by = self.told


def share(weight: int, limits: RequestLimits | None = None) -> Share:
    group = Membership("disk1", weight, Rates(), Rates(read=BUDGET))
    return Share(name="data", source=Path("/srv"), tag="data", limits=limits, group=group)


def entered(directory: Path, weights: Sequence[int]) -> list[tuple[Member, Guest]]:
    there = []
    for weight in weights:
        one = share(weight)
        assert one.group is not None
        member, guest = Member(one, one.group, Registry(directory / "disk1")), Guest()
        guest.take(member.part)
        there.append((member, guest))
    return there


def together(there: Sequence[tuple[Member, Guest]]) -> int:
    return sum(max(guest.worked_by, guest.told) for _, guest in there)


async def step(what: str, member: Member, guest: Guest, amount: int) -> None:
    match what:
        case "want":
            guest.used += amount
            member.publish(guest)
        case "publish":
            member.publish(guest)
        case "less":
            await member.take_less(guest)
        case "more":
            member.take_more(guest)
        case "lag":
            guest.settled = False
        case _:
            guest.settled = True
            guest.follow()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["want", "publish", "less", "more", "lag", "follow"]),
        st.integers(0, 3),
        st.just(4 * BUDGET) | st.integers(0, 4 * BUDGET),
    ),
    min_size=20,
    max_size=60,
)


@given(st.lists(st.integers(1, 10_000), min_size=4, max_size=4), STEPS)
@settings(deadline=None, max_examples=150)
def test_whatever_the_order_and_whoever_lags_the_parts_in_force_are_never_more_than_the_budget(
    weights: list[int], steps: list[tuple[str, int, int]]
) -> None:
    async def run(directory: Path) -> None:
        there = entered(directory, weights)
        # Who comes when all is held has its least beside it until the others have made room.
        assert together(there) <= BUDGET + len(there) * BUDGET // 20
        for _ in range(2):
            for what in ("publish", "less"):
                for member, guest in there:
                    await step(what, member, guest, 0)
        assert together(there) <= BUDGET + len(there)
        for what, index, amount in steps:
            await step(what, *there[index], amount)
            # A part that rounds to nothing is one.
            assert together(there) <= BUDGET + len(there), what
        for member, _ in there:
            member.leave()

    wait, members._SETTLE_SECONDS = members._SETTLE_SECONDS, 0.0
    try:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(run(Path(directory) / "groups"))
    finally:
        members._SETTLE_SECONDS = wait


def test_a_member_alone_has_the_whole_budget_and_one_that_comes_finds_a_place(tmp_path: Path) -> None:
    async def run() -> None:
        (first, one), (second, two) = entered(tmp_path / "groups", (100, 300))
        assert one.told == BUDGET
        assert two.told == BUDGET * 3 // 4 // 20
        for _ in range(3):
            for member, guest in ((first, one), (second, two)):
                guest.used += 2 * BUDGET
                member.publish(guest)
            for member, guest in ((first, one), (second, two)):
                await member.take_less(guest)
            for member, guest in ((first, one), (second, two)):
                member.take_more(guest)
        assert (one.told, two.told) == (BUDGET // 4, BUDGET * 3 // 4)
        assert not first.idle
        second.leave()
        first.publish(one)
        assert await first.take_less(one)
        first.take_more(one)
        assert one.told == BUDGET
        first.leave()

    asyncio.run(run())
