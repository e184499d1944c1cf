"""Arguments that several commands take, and how their values are read."""

from __future__ import annotations

import argparse
import grp
import os
from pathlib import Path

from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.policies.places import control_directory, default_directory
from virtiofs_sandbox.policies.share import ShareError, check_tag
from virtiofs_sandbox.policies.values import MetricsAddress, Refused, metrics_address


class Version(argparse.Action):
    """Looks the version up only when asked: reading package metadata takes longer than the rest of a start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata  # noqa: PLC0415 - for the same reason

        print(f"virtiofs-sandbox {importlib.metadata.version('virtiofs-sandbox')}")
        parser.exit()


def add_policy_dir(parser: argparse.ArgumentParser) -> None:
    """--policy-dir; `policy_directory` gives its value."""
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        type=Path,
        help="where policies are looked for (default: /etc/virtiofs-sandbox/shares.d, "
        "for a user $XDG_CONFIG_HOME/virtiofs-sandbox/shares.d)",
    )


def policy_directory(options: argparse.Namespace) -> Path:
    """Where policies are looked for."""
    return default_directory() if options.policy_dir is None else Path(os.path.abspath(options.policy_dir))


def add_share(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """What names the running share that is asked, and --control-dir."""
    parser.add_argument(
        "share",
        metavar="NAME",
        nargs="?" if optional else None,
        help="the policy's name; where a directory is shared without a policy, its tag",
    )
    add_control_dir(parser)


def add_now(parser: argparse.ArgumentParser, meaning: str) -> None:
    """--now."""
    parser.add_argument("--now", action="store_true", help=meaning)


def add_control_dir(parser: argparse.ArgumentParser) -> None:
    """--control-dir; `control_directory_of` gives its value."""
    parser.add_argument(
        "--control-dir",
        metavar="DIR",
        type=Path,
        help="where running shares are asked (default: /run/virtiofs-sandbox/control, "
        "for a user $XDG_RUNTIME_DIR/virtiofs-sandbox/control)",
    )


def control_directory_of(options: argparse.Namespace) -> Path:
    """Where control sockets are."""
    return control_directory() if options.control_dir is None else Path(os.path.abspath(options.control_dir))


def add_metrics(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """--metrics; *otherwise* says what holds without it."""
    parser.add_argument(
        "--metrics",
        metavar="ADDRESS",
        type=metrics,
        help=f"tell Prometheus on this socket (a path), or on 127.0.0.1:PORT or [::1]:PORT (default: {otherwise})",
    )


def metrics(text: str) -> MetricsAddress:
    try:
        return metrics_address(text if ":" in text or text.startswith("/") else os.path.abspath(text))
    except Refused as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """--log-format; output.form_of gives what its value comes to."""
    parser.add_argument(
        "--log-format",
        type=LogForm,
        choices=list(LogForm),
        metavar="{text,json,journal}",
        help="lines for people or JSON on standard error, or systemd's journal "
        "(default: journal where standard error leads there, else text)",
    )


def tag(text: str) -> str:
    try:
        return check_tag(text)
    except ShareError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def descriptor(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no descriptor number")
    return int(text)


def mode(text: str) -> int:
    try:
        number = int(text, 8)
    except ValueError:
        number = -1
    if not 0 <= number <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode between 0000 and 0777")
    return number


def group(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no group {text!r} on this machine") from None
