"""The budget of warm workers: never more than there are, and who was used last comes first."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.supervisor.spares import Claim, Spares

STEPS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["want", "use", "close"])), max_size=40)


class Shares:
    """Six shares of one supervisor; *told* has the numbers of those whose claim others changed."""

    def __init__(self, most: int) -> None:
        self.told: list[int] = []
        spares = Spares(most)
        self.claims = [spares.claim(partial(self.told.append, number)) for number in range(6)]

    def granted(self) -> list[int]:
        return [number for number, claim in enumerate(self.claims) if claim.want(wanted=claim.wanted)]


def test_of_those_never_used_the_first_come_first() -> None:
    shares = Shares(2)
    for claim in shares.claims:
        claim.want(wanted=True)
    assert shares.granted() == [0, 1]


def test_a_share_whose_client_leaves_takes_the_spare_of_the_one_used_longest_ago() -> None:
    shares = Shares(2)
    for number in (3, 4, 5):
        use(shares.claims[number])
    assert shares.granted() == [4, 5]
    use(shares.claims[3])
    assert shares.granted() == [3, 5]
    assert shares.told[-1] == 4


def test_a_share_that_is_served_leaves_its_spare_to_the_next() -> None:
    shares = Shares(1)
    for claim in shares.claims:
        claim.want(wanted=True)
    shares.claims[0].want(wanted=False)
    assert shares.told == [1]
    assert shares.granted() == [1]


def test_a_share_that_ends_leaves_its_spare_to_the_next_and_gets_none_again() -> None:
    shares = Shares(1)
    for claim in shares.claims:
        claim.want(wanted=True)
    shares.claims[0].close()
    assert not shares.claims[0].want(wanted=True)
    assert shares.granted() == [1]


@given(most=st.integers(0, 7), steps=STEPS)
def test_no_more_are_granted_than_there_are_and_none_lies_idle_while_somebody_wants_it(
    most: int, steps: list[tuple[int, str]]
) -> None:
    shares = Shares(most)
    wanting: list[int] = []
    closed: set[int] = set()
    for number, step in steps:
        if step == "close":
            shares.claims[number].close()
            closed.add(number)
        elif step == "use":
            use(shares.claims[number])
        else:
            shares.claims[number].want(wanted=True)
        if number in wanting and step != "want":
            wanting.remove(number)
        if number not in wanting and number not in closed:
            wanting.append(number)
        granted = shares.granted()
        assert len(granted) == min(most, len(wanting))
        assert set(granted) <= set(wanting)


def use(claim: Claim) -> None:
    """A client comes and goes."""
    claim.want(wanted=True)
    claim.want(wanted=False)
    claim.want(wanted=True)
