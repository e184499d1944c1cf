"""virtiofs-sandbox run: one share, in the foreground, until a signal."""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.policies.narrowing import Arguments
from virtiofs_sandbox.policies.places import SUFFIX, find, is_file_name, named
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import CacheMode, LogLevel, ShareError, Tier, resolve_source
from virtiofs_sandbox.supervisor import footprint

WORKER = "virtiofs-worker"
DESCRIPTION = """\
Shares what POLICY says, or DIR under a tag, with whichever monitor connects to the socket, one at a time (or as many as
share.max_clients of the policy says), and stays: a monitor that goes may come back. Where a policy speaks of DIR it
holds, and the options may only narrow it (docs/compatibility.md). Runs in the foreground until SIGTERM or SIGINT; a
second signal does not wait for requests in flight. SIGHUP reads the policy again."""


class NoWorkerError(Exception):
    """There is no worker to run; str() says where it was looked for."""


class AmbiguousTargetError(Exception):
    """The argument names a policy and a directory; str() says how to tell them apart."""


@dataclass(frozen=True)
class Request:
    """What was asked for: *arguments*, by the policy in *file* or for arguments.directory; policies in *directory*,
    control sockets in *control*.
    """

    arguments: Arguments
    file: Path | None
    directory: Path
    control: Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run", help="share one directory, in the foreground", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "target", metavar="POLICY|DIR", help="a policy's name or file (*.toml), or a directory (./NAME if need be)"
    )
    arguments.add_policy_dir(parser)
    arguments.add_control_dir(parser)
    parser.add_argument("--tag", type=arguments.tag, help="the name the guest mounts by (at most 36 bytes)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", metavar="PATH", type=Path, help="the vhost-user socket to make and listen on")
    where.add_argument("--fd", metavar="N", type=arguments.descriptor, help="an inherited listening socket instead")
    parser.add_argument(
        "--socket-mode", metavar="MODE", type=arguments.mode, help="permissions of the socket, octal (default: 0660)"
    )
    parser.add_argument(
        "--socket-group", metavar="G", type=arguments.group, help="group of the socket, by name or number"
    )
    parser.add_argument("--readonly", action="store_true", help="let the guest change nothing")
    parser.add_argument(
        "--cache",
        type=CacheMode,
        choices=list(CacheMode),
        metavar="{never,auto,metadata,always}",
        help="what the guest may cache; host changes show late with metadata and always (default: auto)",
    )
    parser.add_argument("--xattr", action="store_true", help="let the guest use extended attributes")
    parser.add_argument(
        "--minimum",
        type=Tier,
        choices=list(Tier),
        metavar="{full,userns,bare}",
        help="do not start with less of a jail than this (default: userns)",
    )
    parser.add_argument(
        "--log-level",
        type=LogLevel,
        choices=list(LogLevel),
        metavar="{error,warning,info,debug}",
        help="what is logged to standard error (default: info)",
    )
    arguments.add_log_format(parser)
    arguments.add_metrics(parser, "nowhere")
    parser.add_argument(
        "--worker", metavar="PATH", type=Path, help=f"another binary than the {WORKER} beside this command (for tests)"
    )
    parser.set_defaults(execute=lambda options: execute(parser, options))


def execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Serves until a signal."""
    if options.fd is not None and (options.socket_mode is not None or options.socket_group is not None):
        parser.error("--socket-mode and --socket-group are for a socket made here: they do not go with --fd")
    from virtiofs_sandbox.supervisor.activation import ActivationError, inherited  # noqa: PLC0415
    from virtiofs_sandbox.supervisor.notify import Notifier  # noqa: PLC0415

    try:
        request = request_of(options)
        worker = find_worker(options.worker)
        # Taken out of the environment, and closed to children, before there is a child.
        passed = inherited(os.environ, os.getpid())
        notifier = Notifier.from_environment(os.environ)
    except (ShareError, PolicyError, NoWorkerError, AmbiguousTargetError, ActivationError) as error:
        complain("run", error)
        return Status.FAILED
    # First of all the zygote, forked from this small process; the event loop and the rest load after it.
    from virtiofs_sandbox.launcher import LaunchError, Zygote  # noqa: PLC0415

    try:
        zygote = Zygote.start()
    except LaunchError as error:
        complain("run", error)
        return Status.FAILED
    footprint.load_asyncio()
    from virtiofs_sandbox.cli import foreground  # noqa: PLC0415

    try:
        return foreground.serve(
            request.arguments,
            request.file,
            request.directory,
            control=request.control,
            worker=worker,
            zygote=zygote,
            log_format=options.log_format,
            metrics=options.metrics,
            passed=passed,
            notifier=notifier,
        )
    except foreground.MissingArgumentError as error:
        parser.error(str(error))


def find_worker(wanted: Path | None) -> Path | None:
    """The worker binary: *wanted*, or the one that `make install` put above this package, or pip beside the command.

    None where none was installed. Raises NoWorkerError.
    """
    above = Path(__file__).parents[3] / WORKER
    beside = Path(sys.argv[0]).resolve().parent / WORKER
    scripts = Path(sysconfig.get_path("scripts")) / WORKER
    candidates = [wanted] if wanted is not None else [above, beside, scripts]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    if wanted is None:
        return None
    raise NoWorkerError(f"no worker binary at {wanted}; name another, or leave out --worker")


def request_of(options: argparse.Namespace) -> Request:
    """What the options ask for. Raises ShareError, PolicyError, AmbiguousTargetError."""
    directory = arguments.policy_directory(options)
    file = policy_file(options.target, directory)
    said = Arguments(
        directory=resolve_source(Path(options.target)) if file is None else None,
        tag=options.tag,
        socket=None if options.socket is None else Path(os.path.abspath(options.socket)),
        fd=options.fd,
        socket_mode=options.socket_mode,
        socket_group=options.socket_group,
        readonly=options.readonly,
        cache=options.cache,
        xattr=options.xattr,
        log_level=options.log_level,
        minimum=options.minimum,
        worker=options.worker,
    )
    return Request(said, file, directory, arguments.control_directory_of(options))


def policy_file(target: str, directory: Path) -> Path | None:
    """The policy that *target* names; None when it is a directory to share. Raises PolicyError, AmbiguousTargetError.

    A path with '/' that is a directory is one. Without '/', a policy of that name comes first, and a directory of the
    same name beside it makes the argument ambiguous.
    """
    is_directory = os.path.isdir(target)
    if is_file_name(target):
        return None if is_directory or not target.endswith(SUFFIX) else find(target, directory)
    if target in (".", ".."):
        return None
    policy = named(target, directory)
    if not os.path.isfile(policy):
        return None if is_directory else find(target, directory)
    if is_directory:
        raise AmbiguousTargetError(
            f"{target} is a policy ({policy}) and a directory here; write ./{target} for the directory, "
            f"or {policy} for the policy"
        )
    return policy
