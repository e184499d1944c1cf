"""virtiofs-sandbox explain: the whole confinement of a share, in words a reviewer can sign."""

from __future__ import annotations

import argparse
import json

from virtiofs_sandbox.cli import page
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line

DESCRIPTION = """\
Says how a share is confined on this host, run by the user who asks: what is shared, with whom, as whose files; each
layer of the jail with what it takes away and what remains; what is not promised. It is made from the plan that a start
would carry out. Nothing is started or changed."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("explain", help="how a share is confined, in words", description=DESCRIPTION)
    page.add_policy(parser)
    page.add_form(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import explain_report, planned  # noqa: PLC0415
    from virtiofs_sandbox.confine.account import Launch, account  # noqa: PLC0415
    from virtiofs_sandbox.policies.problems import PolicyError  # noqa: PLC0415

    try:
        made = planned.plan(options)
    except (PolicyError, planned.NotPlannedError) as error:
        complain("explain", error)
        return 1
    if made.plan is None:
        complain("explain", made.refusal)
        return 1
    policy = made.policy
    launch = Launch(policy.share, policy.socket, policy.file, made.plan, made.host)
    sections = account(launch)
    if options.form == page.JSON:
        write_line(STANDARD_OUTPUT, json.dumps(explain_report.data(launch, sections), indent=2))
    else:
        write_line(STANDARD_OUTPUT, explain_report.text(launch, sections))
    return 0
