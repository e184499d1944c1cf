"""How near ten members of one group come to their parts of a budget, all under load and half of them.

The table it prints goes into docs/limits.md. What is asserted is the promise: together never above.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.budgets.members import MIB, Load, members, rates

pytestmark = pytest.mark.slow

WEIGHTS = (100, 100, 100, 100, 100, 200, 200, 200, 400, 500)
BUDGET = 20 * MIB
MOST = 1.03


def test_ten_members_keep_to_one_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with members(WEIGHTS, 'write = "20MiB/s"') as there, contextlib.ExitStack() as running:
        loads = [running.enter_context(Load(member)) for member in there]
        time.sleep(6)
        all_of_them = rates(loads, 6)
        for load in loads[:5]:
            load.stop()
        time.sleep(4)
        half = rates(loads[5:], 6)
    with capsys.disabled():
        print("\n| under load | weight | part | got | off |\n| --- | --- | --- | --- | --- |")
        for title, weights, got in (("all ten", WEIGHTS, all_of_them), ("the last five", WEIGHTS[5:], half)):
            # Each of those that want nothing is left a twentieth of what its weight alone gives.
            least = 0 if len(got) == len(WEIGHTS) else BUDGET * sum(WEIGHTS[:5]) // sum(WEIGHTS) // 20
            for weight, rate in zip(weights, got, strict=True):
                part = (BUDGET - least) * weight / sum(weights)
                off = 100 * (rate / part - 1)
                print(f"| {title} | {weight} | {part / MIB:.3f}MiB/s | {rate / MIB:.3f}MiB/s | {off:+.2f} % |")
            total, most = sum(got) / MIB, (BUDGET - least) / MIB
            print(f"| {title} | together | {most:.3f}MiB/s | {total:.3f}MiB/s | {100 * (total / most - 1):+.2f} % |")
    assert sum(all_of_them) <= BUDGET * MOST
    assert sum(half) <= BUDGET * MOST
