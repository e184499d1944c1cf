"""virtiofs-sandbox run: one share, in the foreground, until a signal."""

from __future__ import annotations

import argparse
import grp
import os
import sys
import sysconfig
from pathlib import Path

from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.policies.share import Access, CacheMode, LogLevel, Share, ShareError, check_tag, resolve_source
from virtiofs_sandbox.supervisor.listener import Listener, SocketFile

WORKER = "virtiofs-worker"
DESCRIPTION = """\
Shares DIR under a tag with whichever monitor connects to the socket, one at a time, and stays: a monitor that goes may
come back. Runs in the foreground until SIGTERM or SIGINT; a second signal does not wait for requests in flight."""


class NoWorkerError(Exception):
    """There is no worker to run; str() says where it was looked for."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("run", help="share one directory, in the foreground", description=DESCRIPTION)
    parser.add_argument("directory", metavar="DIR", type=Path, help="the directory to share")
    parser.add_argument("--tag", required=True, type=_tag, help="the name the guest mounts by (at most 36 bytes)")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", type=Path, help="the vhost-user socket to make and listen on")
    where.add_argument("--fd", metavar="N", type=_descriptor, help="an inherited listening socket instead")
    parser.add_argument(
        "--socket-mode", metavar="MODE", type=_mode, help="permissions of the socket, octal (default: 0660)"
    )
    parser.add_argument("--socket-group", metavar="G", type=_group, help="group of the socket, by name or number")
    parser.add_argument("--readonly", action="store_true", help="let the guest change nothing")
    parser.add_argument(
        "--cache",
        choices=[mode.value for mode in CacheMode],
        default=CacheMode.AUTO.value,
        help="what the guest may cache; host changes show late with metadata and always (default: auto)",
    )
    parser.add_argument("--xattr", action="store_true", help="let the guest use extended attributes")
    parser.add_argument(
        "--log-level",
        choices=[level.value for level in LogLevel],
        default=LogLevel.INFO.value,
        help="what is logged to standard error (default: info)",
    )
    parser.add_argument(
        "--worker", metavar="PATH", type=Path, help=f"another binary than the {WORKER} beside this command (for tests)"
    )
    parser.set_defaults(execute=lambda options: execute(parser, options))


def execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Serves until a signal."""
    if options.fd is not None and (options.socket_mode is not None or options.socket_group is not None):
        parser.error("--socket-mode and --socket-group are for a socket made here: they do not go with --fd")
    try:
        share = share_of(options)
        worker = find_worker(options.worker)
    except (ShareError, NoWorkerError) as error:
        complain("run", error)
        return 1
    # First of all the zygote, forked from this small process; the event loop and the rest load after it.
    from virtiofs_sandbox.launcher import LaunchError, Zygote  # noqa: PLC0415

    try:
        zygote = Zygote.start()
    except LaunchError as error:
        complain("run", error)
        return 1
    from virtiofs_sandbox.cli import foreground  # noqa: PLC0415

    return foreground.serve(share, worker, zygote, lambda: listener(options))


def find_worker(named: Path | None) -> Path:
    """The worker binary: *named*, or the one installed beside this command."""
    beside = Path(sys.argv[0]).resolve().parent / WORKER
    candidates = [named] if named is not None else [beside, Path(sysconfig.get_path("scripts")) / WORKER]
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.resolve()
    places = " or ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise NoWorkerError(f"no worker binary at {places}; install with the worker (needs Rust), or name one by --worker")


def share_of(options: argparse.Namespace) -> Share:
    """The share that the options describe. Raises ShareError."""
    return Share(
        name=options.tag,
        source=resolve_source(options.directory),
        tag=options.tag,
        access=Access.READ_ONLY if options.readonly else Access.READ_WRITE,
        cache=CacheMode(options.cache),
        xattr=options.xattr,
        log_level=LogLevel(options.log_level),
    )


def listener(options: argparse.Namespace) -> Listener:
    """The socket that the options ask for. Raises ListenError."""
    if options.fd is not None:
        return Listener.adopt(options.fd)
    mode = 0o660 if options.socket_mode is None else options.socket_mode
    return Listener.bind(SocketFile(options.socket.absolute(), mode, options.socket_group))


def _tag(text: str) -> str:
    try:
        return check_tag(text)
    except ShareError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _descriptor(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no descriptor number")
    return int(text)


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode between 0000 and 0777")
    return mode


def _group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no group {text!r} on this machine") from None
