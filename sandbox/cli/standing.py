"""virtiofs-sandbox status: the shares that run, and how each stands."""

from __future__ import annotations

import argparse
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.page import hanging, table
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line

if TYPE_CHECKING:
    from virtiofs_sandbox.ipc.requests import Identity, Standing

DESCRIPTION = """\
Lists the running shares of the user who asks, a line for each; with NAME says all there is to say of one. Sockets that
a killed process left behind are passed over."""
_LABEL = 14


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status", help="the shares that run, and how each stands", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser, optional=True)
    parser.add_argument("--json", action="store_true", help="print data (docs/control.md)")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import ReadStatus, Standing  # noqa: PLC0415

    if options.share is None:
        return _all(options)
    reply = asking.answer("status", options, ReadStatus(share=options.share), Standing)
    if isinstance(reply, Status):
        return reply
    write_line(STANDARD_OUTPUT, json.dumps(data([reply]), indent=2) if options.json else text(reply))
    return Status.DONE


def data(shares: list[Standing]) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    rows = [msgspec.to_builtins(share) for share in shares]
    for row in rows:
        del row["reply"], row["version"]
    return {"shape": 1, "shares": rows}


def rows(shares: list[Standing]) -> list[tuple[str, ...]]:
    """The table of several shares, its head first."""
    head = ("NAME", "TAG", "STATE", "CLIENT", "TIER", "RESTARTS", "SOCKET")
    return [head, *(_row(share) for share in shares)]


def text(share: Standing) -> str:
    """Everything about one share."""
    since = datetime.fromtimestamp(share.since).astimezone().isoformat(sep=" ", timespec="seconds")
    by_mount = sum(rule.mount for rule in share.rules)
    lines = [
        ("tag", share.tag or "none"),
        ("socket", share.socket or "none"),
        ("policy", share.policy or "none"),
        ("tier", share.tier or "none"),
        ("supervisor", _process(share.supervisor)),
        ("state", f"{share.state} since {since}"),
        *([] if share.reason is None else [("", "; ".join(share.reason.splitlines()))]),
        ("generation", str(share.generation)),
        *_clients(share),
        ("restarts", str(share.restarts)),
        ("path rules", f"{len(share.rules) + share.rules_left_out}, {by_mount} held by a mount too"),
        *((f"  {'mount too' if rule.mount else 'worker'}", repr(rule.pattern)) for rule in share.rules),
        *([] if share.program is None else [("program", share.program)]),
        ("counters", _counters(share)),
    ]
    return "\n".join([share.share, *(hanging(f"  {label}", said, _LABEL) for label, said in lines)])


def _counters(share: Standing) -> str:
    if share.program is not None:
        return "none: it is not our own worker"
    return ", ".join(f"{name} {count}" for name, count in share.counters.items()) or "no worker is up"


def _clients(share: Standing) -> list[tuple[str, str]]:
    if share.max_clients == 1 and len(share.clients) <= 1:
        return [("client", _process(share.client))]
    return [
        ("clients", f"{len(share.clients)} of {share.max_clients}"),
        *(("  client", f"{_process(held.client)}, {held.state}, worker {held.generation}") for held in share.clients),
    ]


def _row(share: Standing) -> tuple[str, ...]:
    several = share.max_clients > 1
    client = f"{len(share.clients)} of {share.max_clients}" if several else _process(share.client)
    tag, tier, socket = (value or "none" for value in (share.tag, share.tier, share.socket))
    return share.share, tag, share.state, client, tier, str(share.restarts), socket


def _process(identity: Identity | None) -> str:
    return "none" if identity is None else f"pid {identity.pid} (uid {identity.uid})"


def _all(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import Listing, ListShares  # noqa: PLC0415
    from virtiofs_sandbox.policies.problems import shown  # noqa: PLC0415

    directory = arguments.control_directory_of(options)
    shares: list[Standing] = []
    status = Status.DONE
    for path in sockets(directory):
        try:
            listing = asking.ask(path, ListShares(), Listing)
        except asking.NotRunningError:
            continue
        except (asking.NotAnsweredError, asking.RefusedError) as error:
            complain("status", error)
            status = Status.FAILED
            continue
        shares += listing.shares
        if listing.left_out:
            complain(
                "status", f"warning: {listing.left_out} more shares of {shown(path)} left out; ask for one by name"
            )
    shares.sort(key=lambda share: share.share)
    if options.json:
        write_line(STANDARD_OUTPUT, json.dumps(data(shares), indent=2))
    elif shares:
        write_line(STANDARD_OUTPUT, "\n".join(table(rows(shares))))
    elif status is Status.DONE:
        write_line(STANDARD_OUTPUT, f"no share runs: nobody answers in {shown(directory)}")
    return status


def sockets(directory: Path) -> list[Path]:
    from virtiofs_sandbox.policies.places import CONTROL_SUFFIX  # noqa: PLC0415

    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    # Hidden: one that is being made.
    return [directory / name for name in names if name.endswith(CONTROL_SUFFIX) and not name.startswith(".")]
