"""virtiofs-sandbox reload: a running share reads its policy again."""

from __future__ import annotations

import argparse

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, write_line

DESCRIPTION = """\
Has a running share read its policy again, as SIGHUP does, and says what changed. What the running worker cannot take
over waits until its client leaves. A policy with a mistake changes nothing, and the status is 1. Limits that were
changed by `limit` are the policy's again."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reload", help="have a running share read its policy again", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import Reload, Reloaded  # noqa: PLC0415

    reply = asking.answer("reload", options, Reload(), Reloaded)
    if isinstance(reply, Status):
        return reply
    for change in reply.changes or ("nothing changed",):
        write_line(STANDARD_OUTPUT, change)
    for change in reply.later:
        write_line(STANDARD_OUTPUT, f"takes effect when the client leaves: {change}")
    asking.warn("reload", reply.warnings)
    return Status.DONE
