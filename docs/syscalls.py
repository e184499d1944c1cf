#!/usr/bin/env python3
"""Writes syscalls.md beside itself: the table of system calls, and the lines of the worker's sources that need them.

`make docs` runs it, and a test holds the page to it. Files and functions are named, not lines: those move.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from virtiofs_sandbox.confine import calls, stockcalls
from virtiofs_sandbox.confine.calls import INT, WORD, Call, Form, Needs, Role, Where

PAGE = Path(__file__).with_suffix(".md")
SOURCES = Path(__file__).parents[1] / "worker/src"
_MARKER = re.compile(r"\s*// syscall (\w+): ")
_FUNCTION = re.compile(r"\s*(?:pub(?:\(\w+\))? )?(?:unsafe )?(?:extern \"C\" )?fn (\w+)")
_MANY_BITS = 16

_HEAD = """\
# System calls of a jail

Made by `make docs` from `sandbox/confine/calls.py` and from the `// syscall` lines of the worker's sources; not to be edited.

A jail's processes run below seccomp programs in two stages. The launcher loads the first before the worker's first
instruction: all that start-up needs and all that any role needs later. Once started, each role loads its own second one
over it, which only takes away. What is on no list gets `sandbox.seccomp` of the policy:

| `sandbox.seccomp` | a call that is on no list | a deadly one |
| --- | --- | --- |
| `"errno"` (default) | EPERM, and a line in the supervisor's log: from the kernel's audit records, or, where those cannot be read, by a signal whose handler in the worker reports it | the worker is killed |
| `"kill"` | the worker is killed | the worker is killed |
| `"log"` | is carried out and recorded; a warning says that the jail has a hole | the worker is killed |

Other calling conventions (32-bit, x32) are deadly. clone3 answers ENOSYS without a record: its flags cannot be filtered,
and the C library takes clone instead. A policy decides what a queue thread needs; most of its calls only a share has that
may be changed.

`a0` to `a5` are the arguments. `a2 within 0x7` means: no bit beyond those. Calls without arguments are allowed with any.

"""  # noqa: E501


_STOCK = """
## A stock virtiofsd

Where `worker.program` serves ([stock-virtiofsd.md](stock-virtiofsd.md)), one program lasts from exec to the end, from
`sandbox/confine/stockcalls.py`. virtiofsd loads its own over it. accept4 is not carried out: it waits for the
supervisor, which answers it once, with the client's connection, and ENOSYS is the answer from then on. What is refused
is refused by errno, also where the audit records cannot be read: nothing in that jail would report it. Beside clone3,
seccomp with the flag for a listener is refused without a record (EINVAL): libseccomp asks for every flag there is.
"""


def page() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    places = _places()
    yield _HEAD
    yield _counts()
    yield "\n## First stage, beyond what the roles have\n\n"
    yield _table((*calls.START, calls.execveat(0)), places)
    yield "\nThe sixth argument of execveat is a number of 64 bits that only the launcher knew; it stands here as 0.\n"
    for role, title, table in (
        (Role.KEEPER, "Keeper: waits for the worker, reads nothing", calls.KEEPER),
        (Role.CONTROL, "Control thread: supervisor and monitor, no file by its name", calls.CONTROL),
    ):
        yield f"\n## {title} ({len(calls.steady(role, Needs()))})\n\n{_table(table, places)}"
    yield "\n## Queue threads: answer the guest\n"
    for group in calls.QUEUE:
        yield f"\n### {group.when[0].upper()}{group.when[1:]} ({len(group.calls)})\n\n{_table(group.calls, places)}"
    yield "\n## Where refusals are reported by the worker itself\n\n"
    yield _table((calls.SIGNAL_RETURN,), places)
    yield _STOCK
    for group in stockcalls.GROUPS:
        yield f"\n### A stock virtiofsd, {group.when} ({len(group.calls)})\n\n{_plain_table(group.calls)}"
    yield "\n## Deadly\n\nIn both stages: " + ", ".join(f"`{name}`" for name in calls.KILLED) + ".\n"
    yield "\nOnce started: " + ", ".join(f"`{name}`" for name in calls.KILLED_LATER) + ".\n"
    needed = [name for name in calls.KILLED if name not in stockcalls.DEADLY]
    yield f"\nNot deadly to a stock virtiofsd: {', '.join(f'`{name}`' for name in needed)}. "
    yield "Beyond the forms above they are refused.\n"


def _plain_table(table: Iterable[Call]) -> str:
    rows = ["| call | arguments | for |", "| --- | --- | --- |"]
    rows += [f"| `{call.name}` | {' or '.join(map(_form, call.forms))} | {call.reason} |" for call in table]
    return "\n".join((*rows, ""))


def _counts() -> str:
    shares = {
        "a writable share with extended attributes": Needs(),
        "a writable share": Needs(xattr=False),
        "a writable share without mounts of its own": Needs(xattr=False, attributes="open"),
        "a read-only share": Needs(writing=False, xattr=False),
    }
    rows = [f"| {what} | {' | '.join(map(str, _numbers(needs)))} |" for what, needs in shares.items()]
    return "\n".join(("| calls allowed | first stage | keeper | control | queue |", "| --- " * 5 + "|", *rows, ""))


def _numbers(needs: Needs) -> Iterator[int]:
    yield len(calls.union(needs)) + 1
    yield from (len(calls.steady(role, needs)) for role in Role)


def _table(table: Iterable[Call], places: dict[str, list[str]]) -> str:
    rows = ["| call | arguments | for | in the worker's sources |", "| --- | --- | --- | --- |"]
    for call in table:
        forms = " or ".join(_form(form) for form in call.forms)
        rows.append(f"| `{call.name}` | {forms} | {call.reason} | {', '.join(places.get(call.name, ()))} |")
    return "\n".join((*rows, ""))


def _form(form: Form) -> str:
    return "`" + ", ".join(_condition(where) for where in form) + "`"


def _condition(where: Where) -> str:
    name, value = f"a{where.index}", _shown(where.value)
    if where.differs:
        return f"{name} ≠ {value}"
    if where.mask in (INT, WORD):
        return f"{name} = {value}"
    if where.value == 0 and where.mask.bit_count() > _MANY_BITS:
        return f"{name} within {INT & ~where.mask:#x}"
    return f"{name} & {where.mask:#x} = {value}"


def _shown(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"


def _places() -> dict[str, list[str]]:
    """Call -> the functions with a marker for it, as `file: function`."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCES.rglob("*.rs")):
        function = "?"
        for line in path.read_text().splitlines():
            if match := _FUNCTION.match(line):
                function = match[1]
            if match := _MARKER.match(line):
                place = f"{path.relative_to(SOURCES)}: {function}"
                if place not in found.setdefault(match[1], []):
                    found[match[1]].append(place)
    return found


if __name__ == "__main__":
    PAGE.write_text(page())
