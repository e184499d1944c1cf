"""A worker under an attacker's full control gets nowhere (I2), and each layer is shown to hold something by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.environments import ENVIRONMENTS, unavailable
from tests.escape import table
from tests.escape.conftest import Scenario
from tests.escape.layers import Layer
from tests.escape.table import LEFT, PAGE, SURROUNDINGS, Table

# Of a share's work, what a read-only one still does.
READING = {"share_list_works", "share_read_works", "share_mount_below_works"}
# Where one id is all there is, nobody can be given a file.
NEEDS_ALL_IDS = {"share_chown_works"}

# Stopped though no layer is there: by the seals of shared memory, which no plan takes off, by how the worker is
# started, or by the kernel for everybody.
NEVER = {
    "config_write",
    "config_truncate",
    "config_punch",
    "config_reopen_and_write",
    "statistics_truncate",
    "statistics_grow",
    "arena_truncate",
    "exec_arena",
    "link_of_procfs",
    "binary_descriptor_left",
    # Without mounts /dev/null is handed over for naming alone.
    "null_chmod",
    "ioctl_on_null",
}


@pytest.fixture(scope="module")
def tables(prober: Path) -> dict[str, Table]:
    """One for each tier that can be had here."""
    possible = [where for where in SURROUNDINGS if unavailable(where.environment) is None]
    return {where.tier: table.measure(where, prober) for where in possible}


@pytest.fixture(params=SURROUNDINGS, ids=lambda where: where.tier)
def measured(request: pytest.FixtureRequest, tables: dict[str, Table]) -> Table:
    if request.param.tier not in tables:
        pytest.skip(str(unavailable(request.param.environment)))
    return tables[request.param.tier]


def test_with_every_layer_on_the_share_works_and_nothing_else_does(measured: Table) -> None:
    tier = measured.surroundings.tier
    every = {name for names in measured.works.values() for name in names}
    assert measured.works["all"] == every - (set() if tier == "full" else NEEDS_ALL_IDS)
    assert measured.through("all") == set(LEFT[tier])
    assert measured.untouched["all"]
    assert measured.held["all"] == (Layer.NAMESPACES in measured.surroundings.layers)


def test_every_attempt_gets_through_where_no_layer_is(tables: dict[str, Table]) -> None:
    """Else what stops it would be a mistake of its own. Root's table: who is less is refused more by the kernel."""
    full = tables["full"]
    assert {one.name for one in full.attempts if not one.varies} - full.through("none") == NEVER


def test_every_layer_stops_something_alone(measured: Table) -> None:
    for layer in measured.surroundings.layers:
        without = measured.surroundings.without(layer)
        stops = measured.through(without, varying=False) - measured.through(layer.value)
        print(f"{layer.value}: {len(stops)}")
        assert stops, layer


def test_without_any_one_layer_more_gets_through_than_with_all(measured: Table) -> None:
    for layer in measured.surroundings.layers:
        more = measured.through(f"all but {layer.value}", varying=False) - measured.through("all")
        print(f"without {layer.value}: {sorted(more)}")
        assert more, layer


def test_the_page_is_what_comes_of_running_it(tables: dict[str, Table]) -> None:
    """After a change: make escape-table."""
    for where in SURROUNDINGS:
        if where.tier not in tables:
            pytest.skip(str(unavailable(where.environment)))
    fresh = table.page(tuple(tables[where.tier] for where in SURROUNDINGS))
    assert table.comparable(fresh) == table.comparable(PAGE.read_text())


@pytest.mark.parametrize("where", SURROUNDINGS, ids=lambda where: where.tier)
def test_the_keeper_gets_nowhere_at_all(scenario: Scenario, where: table.Surroundings) -> None:
    if reason := unavailable(where.environment):
        pytest.skip(reason)
    result = scenario("probe", environment=where.environment, roles="keeper", xattr="no", rules="yes")
    assert escaped(result) | working(result) == set()


@pytest.mark.parametrize(
    "environment", [name for name in ENVIRONMENTS if name not in {where.environment for where in SURROUNDINGS}]
)
def test_other_surroundings_are_as_tight_as_their_tier(scenario: Scenario, environment: str) -> None:
    if reason := unavailable(environment):
        pytest.skip(reason)
    result = scenario("probe", environment=environment, xattr="no", rules="yes")
    assert escaped(result) == set(LEFT[result["tier"]])
    assert result["untouched"]


def test_a_read_only_share_is_only_read(scenario: Scenario) -> None:
    """I4: by the mount and by Landlock, whatever the worker believes."""
    assert working(scenario("probe", access="read-only")) == READING


@pytest.mark.parametrize("missing", [{Layer.LANDLOCK, Layer.SECCOMP}, {Layer.NAMESPACES, Layer.SECCOMP}])
def test_a_read_only_share_stays_so_by_its_mount_or_by_landlock_alone(scenario: Scenario, missing: set[Layer]) -> None:
    on = "+".join(layer.value for layer in Layer if layer not in missing)
    assert "share_reopen_works" not in working(scenario("probe", access="read-only", layers=on))


def test_shared_memory_stays_whole_for_the_supervisor(scenario: Scenario) -> None:
    """The prober truncated, grew and punched it; a page is still a page."""
    result = scenario("probe")
    outcomes = {name: attempt["outcome"] for name, attempt in result["attempts"].items()}
    resized = ("config_truncate", "statistics_truncate", "statistics_grow", "arena_truncate")
    assert {outcomes[name] for name in (*resized, "config_write", "config_punch")} == {"denied"}
    assert result["statistics_bytes"] == 4096


def escaped(result: table.Result) -> set[str]:
    assert result["done"], "the prober died on the way"
    allowed = {name for name, one in result["attempts"].items() if one["outcome"] == "allowed"}
    return {name for name in allowed if not name.endswith(table.OWN_WORK)}


def working(result: table.Result) -> set[str]:
    allowed = {name for name, one in result["attempts"].items() if one["outcome"] == "allowed"}
    return {name for name in allowed if name.endswith(table.OWN_WORK)}
