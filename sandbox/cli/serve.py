"""virtiofs-sandbox serve: every share of a directory of policies, in the foreground, until a signal."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.run import WORKER, NoWorkerError, find_worker
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.supervisor import footprint

DESCRIPTION = """\
Serves every share that a policy of the directory speaks of, in one process, and stays. A share that cannot be started
is tried again and holds up no other; a policy with a mistake leaves its share out, or as it was. SIGHUP, or
`virtiofs-sandbox reload`, reads the directory again. Listening sockets may be inherited (LISTEN_FDS), and a service
manager is told how it stands (NOTIFY_SOCKET); docs/serve.md. Runs in the foreground until SIGTERM or SIGINT; a second
signal does not wait for requests in flight."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "serve", help="serve every share that has a policy, in the foreground", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_policy_dir(parser)
    arguments.add_control_dir(parser)
    arguments.add_log_format(parser)
    arguments.add_metrics(parser, "site.metrics of defaults.toml")
    parser.add_argument(
        "--worker", metavar="PATH", type=Path, help=f"another binary than the {WORKER} beside this command (for tests)"
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Serves until a signal."""
    from virtiofs_sandbox.supervisor.activation import ActivationError, inherited  # noqa: PLC0415
    from virtiofs_sandbox.supervisor.notify import Notifier  # noqa: PLC0415

    try:
        worker = find_worker(options.worker)
        # Taken out of the environment, and closed to children, before there is a child.
        passed = inherited(os.environ, os.getpid())
        notifier = Notifier.from_environment(os.environ)
    except (NoWorkerError, ActivationError) as error:
        complain("serve", error)
        return Status.FAILED
    # First of all the zygote, forked from this small process; the event loop and the rest load after it.
    from virtiofs_sandbox.launcher import LaunchError, Zygote  # noqa: PLC0415

    try:
        zygote = Zygote.start()
    except LaunchError as error:
        complain("serve", error)
        return Status.FAILED
    footprint.load_asyncio()
    from virtiofs_sandbox.cli import serving  # noqa: PLC0415

    return serving.serve(
        arguments.policy_directory(options),
        control=arguments.control_directory_of(options),
        worker=worker,
        zygote=zygote,
        passed=passed,
        notifier=notifier,
        log_format=options.log_format,
        metrics=options.metrics,
    )
