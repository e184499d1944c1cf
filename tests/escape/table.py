"""The escape table: attempts of a compromised worker against each combination of layers, in each tier.

    python -m tests.escape.table

runs them all and writes docs/escape-table.md. Needs root.
"""

from __future__ import annotations

import errno
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
    inside: frozenset[Layer] = frozenset()

    @property
    def columns(self) -> dict[str, frozenset[Layer]]:
        return layers.columns(self.layers, self.inside)

    def without(self, layer: Layer) -> str:
        """The column to compare with what *layer* stops alone."""
        return Layer.NAMESPACES.value if layer in self.inside else "none"


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
    held: Mapping[str, bool]

    def through(self, column: str, *, varying: bool = True) -> set[str]:
        """Names of the attempts that got through in *column*."""
        return {one.name for one in self.attempts if one.through(column) and (varying or not one.varies)}

    def stopped(self, column: str) -> set[str]:
        return {one.name for one in self.attempts if one.cells[column] == STOPPED}


SURROUNDINGS = (
    Surroundings("full", "root", "root's jail, every layer", tuple(Layer)),
    Surroundings(
        "userns",
        "user",
        "an ordinary user's jail: one id, which is the caller's own",
        tuple(Layer),
        # An ordinary user has capabilities nowhere else.
        frozenset({Layer.CAPABILITIES}),
    ),
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
RULED = (
    "without mounts a path rule is held by the worker alone, which here is the attacker; `explain` says which "
    "rules a mount holds too"
)
FROZEN_AND_HIDDEN = (
    "frozen_write",
    "frozen_write_held",
    "frozen_write_after_rename",
    "frozen_chmod",
    "frozen_times",
    "frozen_create",
    "frozen_link_in",
    "frozen_link_out",
    "frozen_rename_out",
    "frozen_unlink",
    "masked_read",
    "masked_stat",
    "masked_list",
    "masked_create",
    "masked_read_after_rename",
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
        **dict.fromkeys(FROZEN_AND_HIDDEN, RULED),
        **dict.fromkeys(("device_open", "device_open_in_mount_below", "device_reopen"), NODES),
    },
}


def measure(surroundings: Surroundings, prober: Path) -> Table:
    """Runs every column."""
    results = {}
    for name, on in surroundings.columns.items():
        options = {"environment": surroundings.environment, "layers": "+".join(layer.value for layer in on)}
        results[name] = run_guarded("probe", prober, options | {"xattr": "no", "rules": "yes"})
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
    untouched = {column: result["untouched"] for column, result in results.items()}
    held = {column: result["held"] for column, result in results.items()}
    return Table(surroundings, attempts, works, untouched, held)


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
    lines = [f"\n## {where.tier}: {where.text}"]
    for group in groups:
        rows = [one for one in table.attempts if one.group == group]
        lines += [f"\n### {group}\n", *_header(where), *(_row(one) for one in rows)]
    lines += [f"\n### What is left in {where.tier}\n"]
    reasons: dict[str, list[str]] = {}
    for name, why in LEFT[where.tier].items():
        reasons.setdefault(why, []).append(f"`{name}`")
    lines += [f"* {', '.join(names)}: {why}" for why, names in reasons.items()]
    return "\n".join(lines) + "\n"


def _header(where: Surroundings) -> list[str]:
    names = [_short(name, where) for name in where.columns]
    return ["| attempt | " + " | ".join(names) + " |", "| --- |" + " :-: |" * len(names)]


def _short(name: str, where: Surroundings) -> str:
    for layer in where.layers:
        if name == layer.value:
            return f"N{LETTERS[layer]}" if layer in where.inside else LETTERS[layer]
        if name == f"all but {layer.value}":
            return f"-{LETTERS[layer]}"
    return name


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

The stand-in for the worker starts as the worker does, on the same descriptors. It makes {count} attempts, each in a
process of its own that has loaded the second filter of a queue thread, and again with that of the control thread: a
worker's threads share their memory, so one can make the other's calls. The share is read-write, with one directory
frozen and one hidden by exact rules. The jails have some of these layers only:

| | layer |
| --- | --- |
| N | namespaces and mounts: the share as a mount of its own, an empty root; no other process, network, IPC or name |
| C | capabilities dropped and locked |
| L | Landlock |
| S | seccomp, both stages |
| R | resource limits |

*none* has none of them, a letter is that layer alone, -X is all but X. NC is C on top of N, where only N brings the
capabilities that C drops. no_new_privs is always on: without it an ordinary user gets neither Landlock nor seccomp. Nor
can the seals of shared memory be taken off.

✓ stopped, ✗ got through, {not_there} this kernel does not have it. ° marks what depends on how the kernel was built
or set up, or on what root may do here; the rest is the same everywhere. Attempts on the machine as a whole are made
with arguments that have no effect, and all are made in namespaces to throw away, on decoys.
"""


def main() -> None:
    prober = build_prober()
    tables = tuple(measure(surroundings, prober) for surroundings in SURROUNDINGS)
    PAGE.write_text(page(tables))
    for table in tables:
        print(f"{table.surroundings.tier}: left {sorted(table.through('all'))}")


if __name__ == "__main__":
    main()
