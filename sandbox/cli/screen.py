"""The live form of `top`: a whole terminal, drawn anew at each interval, at each key and when it changes its size."""

from __future__ import annotations

import contextlib
import curses
import time
from collections.abc import Callable, Sequence

from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.cli.top import ORDERS
from virtiofs_sandbox.cli.top_report import Row, text

_ESCAPE = 27
_QUIT = (ord("q"), ord("Q"), _ESCAPE)
_DOWN = (curses.KEY_DOWN, curses.KEY_NPAGE, ord("j"))
_UP = (curses.KEY_UP, curses.KEY_PPAGE, ord("k"))


def show(look: Callable[[], list[Row]], interval: float, order: str) -> Status:
    """Until q. *look* is called once in each *interval*, in seconds; what it raises ends this with the terminal as it
    was.
    """
    try:
        curses.wrapper(lambda window: _run(window, look, interval, order))
    except curses.error as error:
        complain("top", f"this terminal cannot be drawn on: {error}; try --once, or set TERM")
        return Status.FAILED
    except KeyboardInterrupt:
        pass
    return Status.DONE


def _run(window: curses.window, look: Callable[[], list[Row]], interval: float, order: str) -> None:
    # Some terminals have neither colours nor a cursor that can be hidden.
    for prepare in (curses.use_default_colors, lambda: curses.curs_set(0)):
        with contextlib.suppress(curses.error):
            prepare()
    rows, due, first = look(), time.monotonic() + min(interval, 0.5), 0
    while True:
        first = max(0, min(first, len(rows) - 1))
        _draw(window, _lines(rows, interval, order, first))
        window.timeout(max(0, round((due - time.monotonic()) * 1000)))
        key = window.getch()
        if key in _QUIT:
            return
        if key == ord("s"):
            order = ORDERS[(ORDERS.index(order) + 1) % len(ORDERS)]
        elif key in _DOWN:
            first += 1
        elif key in _UP:
            first -= 1
        if time.monotonic() >= due:
            rows, due = look(), time.monotonic() + interval


def _lines(rows: Sequence[Row], interval: float, order: str, first: int) -> list[str]:
    """*first*: so many rows are scrolled away."""
    clients = sum(row.look.figures.clients for row in rows)
    head = (
        f"{time.strftime('%H:%M:%S')}  {len(rows)} share(s), {clients} client(s), every {interval:g} s, by {order}"
        "   q quits, s sorts"
    )
    columns, *lines = text(rows, order).splitlines()
    return [head, "", columns, *lines[first:]]


def _draw(window: curses.window, lines: Sequence[str]) -> None:
    """What fits; the third line is the head of the table."""
    window.erase()
    height, width = window.getmaxyx()
    for number, line in enumerate(lines[:height]):
        # The last cell of a window cannot be written without scrolling it.
        window.addnstr(number, 0, line, width - 1, curses.A_REVERSE if number == 2 else curses.A_NORMAL)
    window.refresh()
