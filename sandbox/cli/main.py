"""Entry point of the command line: our own, or virtiofsd's (docs/compatibility.md).

Loads nothing before it knows what is asked: libvirt asks for capabilities at every start of a machine.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from virtiofs_sandbox.cli.text import hold_standard_descriptors
from virtiofs_sandbox.compat.recognition import CAPABILITIES, asks_for_capabilities, is_virtiofsd

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
Shares a directory with a virtual machine over virtio-fs. The process that talks to the guest is jailed from outside:
it sees the directory and nothing else of this machine."""

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status, one of cli.status."""
    hold_standard_descriptors()
    # With arguments that were not the process's, its name says nothing either.
    program, said = (sys.argv[0], sys.argv[1:]) if arguments is None else ("", list(arguments))
    try:
        if is_virtiofsd(program, said):
            return _virtiofsd(said)
        options = parser().parse_args(said)
        return int(options.execute(options))
    except KeyboardInterrupt:
        # Interrupted before there was anything to stop.
        return _INTERRUPTED


def _virtiofsd(arguments: Sequence[str]) -> int:
    if asks_for_capabilities(arguments):
        print(CAPABILITIES)
        return 0
    from virtiofs_sandbox.compat import command  # noqa: PLC0415 - as said above

    return command.execute(arguments)


def parser() -> argparse.ArgumentParser:
    """All commands; docs/commands.md is made from it."""
    import argparse  # noqa: PLC0415 - as said above

    from virtiofs_sandbox.cli import (  # noqa: PLC0415
        check,
        doctor,
        explain,
        limit,
        logs,
        policy,
        reload,
        restart,
        run,
        serve,
        standing,
        stop,
        top,
    )
    from virtiofs_sandbox.cli.arguments import Version  # noqa: PLC0415
    from virtiofs_sandbox.cli.status import EPILOG  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="virtiofs-sandbox", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run.add_parser(commands)
    serve.add_parser(commands)
    standing.add_parser(commands)
    top.add_parser(commands)
    reload.add_parser(commands)
    restart.add_parser(commands)
    stop.add_parser(commands)
    limit.add_parser(commands)
    logs.add_parser(commands)
    policy.add_parser(commands)
    doctor.add_parser(commands)
    check.add_parser(commands)
    explain.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
