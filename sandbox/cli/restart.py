"""virtiofs-sandbox restart: a share gets a new worker."""

from __future__ import annotations

import argparse

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG

DESCRIPTION = """\
Whoever connects to the share from now on gets a worker that is launched after this, in a new jail. A client that is
served keeps its own until it leaves, unless --now ends its connection. A share that failed or was stopped is tried."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "restart", help="give a running share a new worker", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser)
    arguments.add_now(parser, "the client too, which loses its connection")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import Restart  # noqa: PLC0415

    return asking.carry_out("restart", options, Restart(share=options.share, now=options.now))
