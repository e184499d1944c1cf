"""virtiofs-sandbox doctor: what this host has, what is lost without the rest, and how to get it."""

from __future__ import annotations

import argparse
import json

from virtiofs_sandbox.cli import page
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line

DESCRIPTION = """\
Tries each feature of this host that a jail is made of, as the user who asks, and says what is lost without it and how
to get it. Nothing on the machine is changed. The status is 0 if a jail of tier userns or better can be had, else 1."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="what this host offers to a jail", description=DESCRIPTION)
    page.add_form(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import doctor_report  # noqa: PLC0415
    from virtiofs_sandbox.confine import Tier, probe_host  # noqa: PLC0415
    from virtiofs_sandbox.confine.features import survey  # noqa: PLC0415
    from virtiofs_sandbox.confine.ways import best, ways  # noqa: PLC0415

    try:
        host = probe_host()
    except OSError as error:
        complain("doctor", f"{error}; mount /proc")
        return 1
    features, found = survey(host), ways(host)
    if options.form == page.JSON:
        write_line(STANDARD_OUTPUT, json.dumps(doctor_report.data(host, features, found), indent=2))
    else:
        write_line(STANDARD_OUTPUT, doctor_report.text(host, features, found))
    tier = best(found)
    return 0 if tier is not None and tier.rank <= Tier.USERNS.rank else 1
