"""virtiofs-sandbox stop: a share goes out of service, or the supervisor of all ends."""

from __future__ import annotations

import argparse

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG

DESCRIPTION = """\
Takes a running share out of service: it accepts nobody from now on, its socket goes, and it ends when its client has
left, or at once with --now. Under `serve` it stays out until the next reload; a share of `run` ends its process. With
--all, the supervisor of all shares ends as on SIGTERM; it does not wait for clients."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "stop", help="take a running share out of service", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser, optional=True)
    arguments.add_now(parser, "do not wait for its client, which loses its connection")
    parser.add_argument("--all", action="store_true", help="end the supervisor of all shares (`serve`)")
    parser.set_defaults(execute=lambda options: execute(parser, options))


def execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import Stop  # noqa: PLC0415

    if (options.share is None) != options.all:
        parser.error("either NAME or --all")
    return asking.carry_out("stop", options, Stop(share=options.share, now=options.now, all=options.all))
