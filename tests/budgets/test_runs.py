"""Three real shares of one group under load: within the budget, by weight, and what one leaves the others get."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.budgets.members import MIB, Load, members, rates

BUDGET = 8 * MIB
LINES = 'write = "8MiB/s"'
WEIGHTS = (100, 100, 200)


def test_three_shares_under_load_stay_within_the_budget_have_their_weights_and_take_over_what_one_leaves() -> None:
    with members(WEIGHTS, LINES) as there, contextlib.ExitStack() as running:
        loads = [running.enter_context(Load(member)) for member in there]
        began = time.monotonic()
        # The burst of each is a second's worth of its part.
        time.sleep(3)
        together = rates(loads, 6)
        total, took = sum(load.written for load in loads), time.monotonic() - began
        print("under load, MiB/s:", [round(rate / MIB, 2) for rate in together])
        assert total <= BUDGET * (took + 1) + len(loads) * MIB
        assert sum(together) <= BUDGET * 1.03
        assert sum(together) >= BUDGET * 0.8
        for rate, weight in zip(together, WEIGHTS, strict=True):
            assert rate == pytest.approx(BUDGET * weight / sum(WEIGHTS), rel=0.15)
        loads[2].stop()
        time.sleep(3)
        left = rates(loads[:2], 3)
        print("one has stopped, MiB/s:", [round(rate / MIB, 2) for rate in left])
        assert sum(left) <= BUDGET * 1.03
        assert sum(left) >= BUDGET * 0.8
        assert "works by the new settings" not in there[0].log, "a part that changes is no news"


def test_what_a_killed_member_held_is_the_others_and_its_file_goes() -> None:
    with members((100, 100), LINES) as (stays, dies), Load(stays) as load:
        time.sleep(2)
        with Load(dies) as other:
            time.sleep(3)
            assert other.written > 0
            os.kill(dies.supervisor, signal.SIGKILL)
            other.stop()
        time.sleep(3)
        (rate,) = rates([load], 3)
        print(f"alone: {rate / MIB:.2f} MiB/s")
        assert BUDGET * 0.8 <= rate <= BUDGET * 1.03
        dies.process.wait(10)


def test_a_reload_changes_a_weight_or_leaves_the_group_under_load() -> None:
    with members((100, 100), LINES) as (one, two), Load(one) as load, Load(two) as other:
        two.wait(lambda: two.limit()["limits"]["write"]["now"] == BUDGET // 2, "come to its part", 15)
        assert "limits.group.weight 100 -> 300" in two.reload(two.weighing(300))
        time.sleep(3)
        less, more = rates([load, other], 3)
        print(f"1 to 3: {less / MIB:.2f} and {more / MIB:.2f} MiB/s")
        assert less == pytest.approx(BUDGET / 4, rel=0.15)
        assert more == pytest.approx(BUDGET * 3 / 4, rel=0.15)
        two.reload("")
        assert two.limit()["limits"]["write"]["now"] is None
        time.sleep(3)
        alone, free = rates([load, other], 2)
        assert alone == pytest.approx(BUDGET, rel=0.15)
        assert free > 2 * BUDGET
        assert two.reload(two.weighing(100)).count("reload refused") == 0
        time.sleep(4)
        assert sum(rates([load, other], 3)) <= BUDGET * 1.05


def test_members_that_do_nothing_cost_next_to_nothing() -> None:
    with members((100, 100), LINES) as there:
        time.sleep(3)
        before = [processor_seconds(member.supervisor) for member in there]
        time.sleep(10)
        used = [processor_seconds(member.supervisor) - old for member, old in zip(there, before, strict=True)]
        print("seconds of processor time in ten, idle:", used)
        assert max(used) <= 0.05


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
