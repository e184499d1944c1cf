"""Entry point of the command line."""

from __future__ import annotations

import argparse
import importlib.metadata
import signal
import sys
from collections.abc import Sequence

from virtiofs_sandbox.cli import check, doctor, explain, limit, policy, reload, restart, run, serve, standing, stop
from virtiofs_sandbox.cli.status import EPILOG

DESCRIPTION = """\
Shares a directory with a virtual machine over virtio-fs. The process that talks to the guest is jailed from outside:
it sees the directory and nothing else of this machine."""

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status, one of cli.status."""
    options = parser().parse_args(arguments)
    try:
        return int(options.execute(options))
    except KeyboardInterrupt:
        # Interrupted before there was anything to stop.
        return _INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """All commands; docs/commands.md is made from it."""
    parser = argparse.ArgumentParser(prog="virtiofs-sandbox", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run.add_parser(commands)
    serve.add_parser(commands)
    standing.add_parser(commands)
    reload.add_parser(commands)
    restart.add_parser(commands)
    stop.add_parser(commands)
    limit.add_parser(commands)
    policy.add_parser(commands)
    doctor.add_parser(commands)
    check.add_parser(commands)
    explain.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when asked: reading package metadata takes longer than the rest of a start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"virtiofs-sandbox {importlib.metadata.version('virtiofs-sandbox')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
