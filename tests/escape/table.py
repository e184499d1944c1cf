"""The escape table: attempts of a compromised worker against each combination of layers, in each tier.

    python -m tests.escape.table

runs them all and writes docs/escape-table.md. Needs root.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.escape import layers
from tests.escape.guarded import REPOSITORY, build_prober, run_guarded
from tests.escape.layers import Layer

PAGE = REPOSITORY / "docs" / "escape-table.md"
THROUGH, STOPPED, NOT_THERE = "✗", "✓", "\u2013"
VARIES = "°"
OWN_WORK = "_works"
# Answers of a kernel that was built without what was asked for.
LACKING = {errno.ENOSYS, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
UNPREPARED = 250
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Surroundings:
    """One tier, who runs it (a name of tests/environments.py), and which of the layers there are to be had."""

    tier: str
    environment: str
    text: str
    layers: tuple[Layer, ...]

    @property
    def columns(self) -> dict[str, frozenset[Layer]]:
        return layers.columns(self.layers)


@dataclass(frozen=True)
class Attempt:
    """One row: *cells* by the name of the column."""

    name: str
    group: str
    about: str
    varies: bool
    cells: Mapping[str, str]

    def through(self, column: str) -> bool:
        return self.cells[column] == THROUGH


@dataclass(frozen=True)
class Table:
    surroundings: Surroundings
    attempts: tuple[Attempt, ...]
    works: Mapping[str, frozenset[str]]
    untouched: Mapping[str, bool]

    def through(self, column: str, *, varying: bool = True) -> set[str]:
        """Names of the attempts that got through in *column*."""
        return {one.name for one in self.attempts if one.through(column) and (varying or not one.varies)}

    def stopped(self, column: str) -> set[str]:
        return {one.name for one in self.attempts if one.cells[column] == STOPPED}


SURROUNDINGS = (
    Surroundings("full", "root", "root's jail, every layer", tuple(Layer)),
    Surroundings("userns", "user", "an ordinary user's jail: one id, which is the caller's own", tuple(Layer)),
    Surroundings(
        "bare",
        "container",
        "in a container without capabilities, namespaces or mounts to be had: what is left holds alone",
        (Layer.LANDLOCK, Layer.SECCOMP, Layer.LIMITS),
    ),
)
LETTERS = {
    Layer.NAMESPACES: "N",
    Layer.CAPABILITIES: "C",
    Layer.LANDLOCK: "L",
    Layer.SECCOMP: "S",
    Layer.LIMITS: "R",
}

# Got through with every layer on, and why that is all right.
PUNCHED = (
    "zeroes shared pages, which is within a worker's rights: the supervisor reads them with pread and believes nothing"
)
SEEN = (
    "without mounts of its own the worker's root is the container's: that a file exists, its attributes and where "
    "a link points can be seen; neither Landlock nor seccomp stops that. No content, and nothing is changed"
)
NODES = (
    "without a mount there is no nodev: a device node that lies in the share, and that the worker's user may open, is "
    "opened, as far as the container's device list allows. Making nodes and ioctls on them are stopped"
)
LEFT: dict[str, dict[str, str]] = {
    "full": {"statistics_punch": PUNCHED, "arena_punch": PUNCHED},
    "userns": {"statistics_punch": PUNCHED, "arena_punch": PUNCHED},
    "bare": {
        "statistics_punch": PUNCHED,
        "arena_punch": PUNCHED,
        **dict.fromkeys(("share_dotdot_as_path", "root_secret", "root_dotdot", "proc_supervisor"), SEEN),
        **dict.fromkeys(("stat_outside", "stat_outside_held", "readlink_outside", "handle_of_outside"), SEEN),
        "share_symlink_within": "it ends in the share; links that lead out of it are stopped, as their targets are",
        **dict.fromkeys(("device_open", "device_open_in_mount_below", "device_reopen"), NODES),
    },
}
# The same for what the two other roles get through besides.
LEFT_TO_ROLES: dict[str, dict[str, str]] = {"keeper": {}, "control": {}}


def measure(surroundings: Surroundings, work: Path, prober: Path) -> Table:
    """Runs every column; *work* is an empty directory."""
    results = {}
    for number, (name, on) in enumerate(surroundings.columns.items()):
        directory = work / f"{surroundings.tier}-{number}"
        directory.mkdir()
        options = {"environment": surroundings.environment, "layers": "+".join(layer.value for layer in on)}
        results[name] = run_guarded("probe", directory, prober, options | {"xattr": "no"})
    return tabulate(surroundings, results)


def tabulate(surroundings: Surroundings, results: Mapping[str, Result]) -> Table:
    """The table of what `probe` answered, by column."""
    for name, result in results.items():
        assert result["done"], f"{surroundings.tier}, {name}: the prober died on the way"
        unprepared = [key for key, one in result["attempts"].items() if one.get("errno") == UNPREPARED]
        assert not unprepared, f"{surroundings.tier}, {name}: could not even be made: {unprepared}"
    first = next(iter(results.values()))["attempts"]
    attempts = tuple(
        Attempt(
            name,
            one["group"],
            one["about"],
            one["varies"],
            {
                column: _cell(result["attempts"][name], surroundings.columns[column])
                for column, result in results.items()
            },
        )
        for name, one in first.items()
        if not name.endswith(OWN_WORK)
    )
    works = {
        column: frozenset(
            name for name, one in result["attempts"].items() if name.endswith(OWN_WORK) and one["outcome"] == "allowed"
        )
        for column, result in results.items()
    }
    return Table(surroundings, attempts, works, {column: result["untouched"] for column, result in results.items()})


def _cell(answer: Mapping[str, Any], on: frozenset[Layer]) -> str:
    if answer["outcome"] == "allowed":
        return THROUGH
    lacking = answer["outcome"] == "absent" or answer.get("errno") in LACKING
    return NOT_THERE if lacking and Layer.SECCOMP not in on else STOPPED


def page(tables: tuple[Table, ...]) -> str:
    """docs/escape-table.md."""
    return INTRODUCTION.format(count=len(tables[0].attempts), not_there=NOT_THERE) + "".join(
        _section(table) for table in tables
    )


def _section(table: Table) -> str:
    where = table.surroundings
    groups = dict.fromkeys(one.group for one in table.attempts)
    lines = [f"\n## {where.tier}: {where.text}\n"]
    for group in groups:
        rows = [one for one in table.attempts if one.group == group]
        lines += [f"\n### {group}\n", *_header(where), *(_row(one) for one in rows)]
    left = LEFT[where.tier]
    lines += [f"\n### What is left in {where.tier}\n"]
    lines += [f"* `{name}`: {why}" for name, why in left.items()]
    return "\n".join(lines) + "\n"


def _header(where: Surroundings) -> list[str]:
    names = [_short(on, where) for on in where.columns.values()]
    return ["| attempt | " + " | ".join(names) + " |", "| --- |" + " :-: |" * len(names)]


def _short(on: frozenset[Layer], where: Surroundings) -> str:
    missing = [layer for layer in where.layers if layer not in on]
    if not on:
        return "none"
    if not missing:
        return "all"
    return LETTERS[next(iter(on))] if len(on) == 1 else f"-{LETTERS[missing[0]]}"


def _row(one: Attempt) -> str:
    mark = VARIES if one.varies else ""
    return f"| `{one.name}`{mark} {one.about} | " + " | ".join(one.cells.values()) + " |"


def comparable(text: str) -> list[str]:
    """The lines of a page as far as they are the same on every kernel."""
    return [line.partition(" | ")[0] if f"`{VARIES} " in line else line for line in text.splitlines()]


INTRODUCTION = """\
# Escape table

What a worker tries that is under an attacker's full control, and what stops it. Generated by `make escape-table`, which
runs all of it; a test holds this page to a fresh run.

The stand-in for the worker starts as the worker does, on the same descriptors, and has loaded the second filter that a
queue thread has after start-up. It makes {count} attempts, each in a process of its own, against jails with some of
these layers only:

| | layer |
| --- | --- |
| N | namespaces and mounts: the share as a mount of its own, an empty root; no other process, network, IPC or name |
| C | capabilities dropped and locked |
| L | Landlock |
| S | seccomp, both stages |
| R | resource limits |

*none* has none of them, a letter is that layer alone, -X is all but X. no_new_privs is always on:
without it an ordinary user gets neither Landlock nor seccomp. Nor can the seals of shared memory be taken off.

✓ stopped, ✗ got through, {not_there} this kernel does not have it. ° marks what depends on how the kernel was built
or set up, or on what root may do here; the rest is the same everywhere. Attempts on the machine as a whole are made
with arguments that have no effect, and all are made in namespaces to throw away, on decoys.
"""


def main() -> None:
    prober = build_prober()
    with tempfile.TemporaryDirectory(prefix="escape-table-") as name:
        work = Path(name, "work")
        work.mkdir()
        tables = tuple(measure(surroundings, work, prober) for surroundings in SURROUNDINGS)
    PAGE.write_text(page(tables))
    for table in tables:
        print(f"{table.surroundings.tier}: left {sorted(table.through('all'))}")


if __name__ == "__main__":
    main()
