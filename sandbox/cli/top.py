"""virtiofs-sandbox top: what the shares that run do, again and again."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain

if TYPE_CHECKING:
    from virtiofs_sandbox.cli.looking import Looking

DESCRIPTION = """\
Shows what each running share of the user who asks does: operations and bytes a second, how long requests take, what
limits hold back, what its workers hold. Ends at q. Where there is no terminal it prints a table for each interval."""
ORDERS = ("operations", "read", "write", "latency", "held", "inodes")
"""By what shares are sorted, highest first; then by name."""
_LEAST_SECONDS, _MOST_SECONDS = 0.1, 3600.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "top", help="what the shares that run do, live", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser, optional=True)
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=2.0, help="from one look to the next (default: 2)"
    )
    parser.add_argument("--sort", choices=ORDERS, default=ORDERS[0], help="what comes first (default: operations)")
    parser.add_argument("--once", action="store_true", help="print one table, of one interval, and end")
    parser.add_argument("--json", action="store_true", help="the same as data (docs/metrics.md)")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli.looking import LookError, Looking  # noqa: PLC0415

    looking = Looking(arguments.control_directory_of(options), options.share)
    try:
        looking.again()
        if options.once or options.json:
            time.sleep(options.interval)
            return _print(_report(looking, options))
        if sys.stdin.isatty() and sys.stdout.isatty():
            from virtiofs_sandbox.cli import screen  # noqa: PLC0415

            return screen.show(looking.again, options.interval, options.sort)
        return _print_on(looking, options)
    except LookError as error:
        complain("top", error)
        return Status.FAILED


def _report(looking: Looking, options: argparse.Namespace) -> str:
    from virtiofs_sandbox.cli import top_report  # noqa: PLC0415

    rows = looking.again()
    return json.dumps(top_report.data(rows), indent=2) if options.json else top_report.text(rows, options.sort)


def _print_on(looking: Looking, options: argparse.Namespace) -> Status:
    """Until nobody reads any more."""
    status = Status.DONE
    while status is Status.DONE:
        time.sleep(options.interval)
        status = _print(f"{time.strftime('%H:%M:%S')}\n{_report(looking, options)}\n")
    return Status.DONE


def _print(said: str) -> Status:
    """FAILED when nobody reads any more."""
    try:
        os.write(STANDARD_OUTPUT, f"{said}\n".encode(errors="backslashreplace"))
    except OSError:
        return Status.FAILED
    return Status.DONE


def _interval(said: str) -> float:
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not _LEAST_SECONDS <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{said!r} is no number of seconds from {_LEAST_SECONDS:g} to {_MOST_SECONDS:g}"
        )
    return seconds
