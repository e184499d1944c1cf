"""virtiofs-sandbox check: everything about a share that will fail later, found now."""

from __future__ import annotations

import argparse
import json

from virtiofs_sandbox.cli import page
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line

DESCRIPTION = """\
Looks for everything that would fail when the share is started or used: directory, file system, owners and modes of its
files, path rules, socket, limits, layers of the jail. Run it as the user the share is run by. Nothing is started or
changed. The status is 1 if there is an error."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="what will fail later, found now", description=DESCRIPTION)
    page.add_policy(parser)
    parser.add_argument(
        "--entries", metavar="N", type=_count, default=200_000, help="look at most at N names (default: 200000)"
    )
    parser.add_argument(
        "--seconds", metavar="T", type=_count, default=20, help="look for at most T seconds (default: 20)"
    )
    parser.add_argument(
        "--guest-id", metavar="ID", type=_identity, action="append", dest="guest_ids",
        help="ask what becomes of files that this uid and gid in the guest creates; may be repeated (default: 0, 1000)",
    )  # fmt: skip
    page.add_form(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import check_report  # noqa: PLC0415
    from virtiofs_sandbox.cli.planned import NotPlannedError  # noqa: PLC0415
    from virtiofs_sandbox.confine.preflight import Severity  # noqa: PLC0415

    try:
        report = check_report.made(options)
    except NotPlannedError as error:
        complain("check", error)
        return 1
    if options.form == page.JSON:
        write_line(STANDARD_OUTPUT, json.dumps(check_report.data(report), indent=2))
    else:
        write_line(STANDARD_OUTPUT, check_report.text(report))
    return 1 if any(finding.severity is Severity.ERROR for finding in report.findings) else 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _identity(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFFFFFE:
        raise argparse.ArgumentTypeError(f"{text!r} is no id between 0 and {0xFFFFFFFE}")
    return int(text)
