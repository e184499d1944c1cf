"""virtiofs-sandbox reload: running shares read their policies again."""

from __future__ import annotations

import argparse

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line

DESCRIPTION = """\
Has a running share read its policy again, and says what changed; without NAME the supervisor of all (`serve`) does so
with the whole directory, as SIGHUP has it do: shares come and go. What takes a new jail waits until the client leaves,
unless --now ends its connection. A policy with a mistake changes nothing of its share, and the status is 1. Limits that
were changed by `limit` are the policy's again."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reload", help="have running shares read their policies again", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser, optional=True)
    arguments.add_now(parser, "apply now what takes a new jail; the clients concerned lose their connection")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import Reload, Reloaded  # noqa: PLC0415

    request = Reload(share=options.share, now=options.now)
    reply = asking.answer("reload", options, request, Reloaded, asking.PATIENTLY)
    if isinstance(reply, Status):
        return reply
    for change in reply.changes or (() if reply.refused else ("nothing changed",)):
        write_line(STANDARD_OUTPUT, change)
    for change in reply.later:
        write_line(STANDARD_OUTPUT, f"takes effect when the client leaves: {change}")
    if reply.left_out:
        write_line(STANDARD_OUTPUT, f"and {reply.left_out} more")
    asking.warn("reload", reply.warnings)
    for sentence in reply.refused:
        complain("reload", sentence)
    return Status.FAILED if reply.refused else Status.DONE
