"""A budget divided: never more than there is, by weight, nobody starved, and alike for whoever reckons."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.budgets.demand import Meter, Usage
from virtiofs_sandbox.budgets.division import FLOOR, Claim, divide
from virtiofs_sandbox.budgets.records import RATES

BUDGETS = st.integers(0, 1 << 40)
CLAIMS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.builds(Claim, st.integers(1, 10_000), st.none() | st.just(0) | st.integers(0, 1 << 41)),
    min_size=1,
    max_size=12,
)
MIB = 1 << 20


@given(BUDGETS, CLAIMS)
def test_parts_are_never_more_than_the_budget_together_and_leave_no_more_than_is_lost_in_rounding(
    budget: int, claims: dict[str, Claim]
) -> None:
    parts = divide(budget, claims)
    assert parts.keys() == claims.keys()
    assert all(part >= 0 for part in parts.values())
    assert budget - len(claims) <= sum(parts.values()) <= budget


@given(BUDGETS, CLAIMS, st.randoms(use_true_random=False))
def test_everybody_finds_the_same_parts_in_whatever_order_the_claims_come(
    budget: int, claims: dict[str, Claim], random: st.DrawFn
) -> None:
    names = list(claims)
    random.shuffle(names)  # type: ignore[attr-defined]  # it is a Random
    assert divide(budget, {name: claims[name] for name in names}) == divide(budget, claims)


@given(BUDGETS, CLAIMS)
def test_nobody_has_less_than_it_wants_or_its_weight_gives_and_nobody_starves(
    budget: int, claims: dict[str, Claim]
) -> None:
    total = sum(claim.weight for claim in claims.values())
    for name, part in divide(budget, claims).items():
        claim = claims[name]
        fair = budget * claim.weight // total
        wants = budget if claim.demand is None else claim.demand
        # Each part that is taken before may lose one in rounding, and the rest with it.
        assert part >= min(wants, fair) - len(claims)
        assert part >= fair // FLOOR - len(claims)


@given(BUDGETS, CLAIMS)
def test_those_who_want_all_they_get_have_it_by_weight(budget: int, claims: dict[str, Claim]) -> None:
    parts = divide(budget, claims)
    hungry = [name for name, claim in claims.items() if claim.demand is None]
    for one in hungry:
        for other in hungry:
            fair = Fraction(parts[other] * claims[one].weight, claims[other].weight)
            slack = len(claims) * (1 + Fraction(claims[one].weight, claims[other].weight))
            assert abs(parts[one] - fair) <= slack


def test_what_one_leaves_the_others_have_by_weight() -> None:
    claims = {"a": Claim(100, None), "b": Claim(300, None), "idle": Claim(400, 0), "little": Claim(200, 10)}
    parts = divide(1000, claims)
    # The floor of the two is a twentieth of 400 and of 200.
    assert parts == {"idle": 20, "little": 10, "a": 243, "b": 727}


# What is wanted, from what was used.


def after(*seconds: int, allowed: int = MIB) -> int | None:
    """The demand after seconds with so much written in each."""
    meter, total, demand = Meter(), 0, None
    meter.demands(Usage({1: {"requests.write": 0}}), 1.0, {"requests.write": allowed})
    for used in seconds:
        total += used
        found = meter.demands(Usage({1: {"requests.write": total}}), 1.0, {"requests.write": allowed})
        demand = found[RATES.index("requests.write")]
    return demand


def test_who_uses_its_part_wants_all_it_gets_and_who_uses_less_wants_a_little_more_than_that() -> None:
    assert after(MIB) is None
    assert after(MIB * 95 // 100) is None
    assert after(MIB // 2) == MIB * 5 // 8
    assert after(0) == 0


def test_who_waits_for_what_it_owes_is_not_taken_for_idle() -> None:
    assert after(MIB, 0, 0, allowed=MIB // 4) is None
    assert after(MIB, 0, 0, 0, 0, allowed=MIB // 4) == 0


def test_a_worker_that_lies_moves_its_own_demand_alone() -> None:
    meter = Meter()
    for claimed in (2**64 - 1, 0, 2**64 - 1, 5):
        found = meter.demands(Usage({1: {"requests.write": claimed}}), 1.0, {"requests.write": MIB})
        assert all(demand == 0 for rate, demand in zip(RATES, found, strict=True) if rate != "requests.write")
