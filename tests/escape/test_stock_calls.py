"""What a stock virtiofsd under an attacker's control could do beyond our worker, by the wider list of its calls."""

from __future__ import annotations

from tests.escape.conftest import Scenario
from tests.escape.table import LEFT
from tests.escape.test_attempts import escaped, working

# One filter from start to end: threads are made at any time, libraries are mapped, groups switched for a caller.
WIDER = {
    "thread_bomb",
    "map_binary_executable",
    "setgroups",
    # The prober's own: it makes a process for each attempt, which that daemon never does.
    "fork_bomb",
}


def test_below_its_list_of_calls_little_more_gets_through_than_with_our_worker(scenario: Scenario) -> None:
    ours = scenario("probe", xattr="no", rules="yes")
    theirs = scenario("probe", xattr="no", rules="yes", calls="stock")
    assert escaped(theirs) == set(LEFT["full"]) | WIDER
    assert working(theirs) == working(ours)
    assert theirs["untouched"]
    assert theirs["held"]
