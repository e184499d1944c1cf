"""virtiofs-sandbox limit: the limits of a running share, shown and changed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from virtiofs_sandbox.cli import arguments
from virtiofs_sandbox.cli.page import table
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, write_line

if TYPE_CHECKING:
    from virtiofs_sandbox.ipc.requests import Limit, Limits

DESCRIPTION = """\
Shows the limits of a running share and what they have made of its guest's requests, after changing those that are
named, if any are. A change holds from the running worker's next request on, without a reconnect, until the policy is
read again. It can lower what the policy allows and raise it back up to that; where the policy has no limit, any can be
set, and `none` takes it away again."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "limit", help="show and change the limits of a running share", description=DESCRIPTION, epilog=EPILOG
    )
    arguments.add_share(parser)
    parser.add_argument(
        "assignments",
        metavar="KEY=VALUE",
        nargs="*",
        type=_assignment,
        help="read, write (50MiB/s), read-ops, write-ops, metadata-ops (1000/s); the same of the disk, without "
        "metadata: disk.read, ...; or none",
    )
    parser.add_argument("--json", action="store_true", help="print data (docs/control.md)")
    parser.set_defaults(execute=lambda options: execute(parser, options))


def execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from virtiofs_sandbox.cli import asking  # noqa: PLC0415
    from virtiofs_sandbox.ipc.requests import MAX_ASSIGNMENTS, Limits, ReadLimits, SetLimits  # noqa: PLC0415

    wanted = dict(options.assignments)
    if len(wanted) < len(options.assignments):
        parser.error("a key is given twice")
    if len(wanted) > MAX_ASSIGNMENTS:
        parser.error(f"at most {MAX_ASSIGNMENTS} at once")
    request = SetLimits(share=options.share, set=wanted) if wanted else ReadLimits(share=options.share)
    reply = asking.answer("limit", options, request, Limits)
    if isinstance(reply, Status):
        return reply
    write_line(STANDARD_OUTPUT, json.dumps(data(options.share, reply), indent=2) if options.json else text(reply))
    asking.warn("limit", reply.warnings)
    return Status.DONE


def data(share: str, reply: Limits) -> dict[str, object]:
    return {
        "shape": 1,
        "share": share,
        "limits": {limit.key: {"unit": limit.unit, "now": limit.now, "policy": limit.policy} for limit in reply.limits},
        "counters": {
            name: {
                "admitted": passed.admitted,
                "bytes_admitted": passed.bytes_admitted,
                "delayed": passed.delayed,
                "seconds_delayed": passed.nanoseconds_delayed / 1e9,
            }
            for name, passed in reply.counters.items()
        },
        "disks": reply.disks,
        "changes": list(reply.changes),
        "warnings": list(reply.warnings),
    }


def text(reply: Limits) -> str:
    limits = [("LIMIT", "NOW", "POLICY ALLOWS")]
    limits += [(limit.key, _rate(limit, limit.now), _rate(limit, limit.policy)) for limit in reply.limits]
    counters = [("REQUESTS", "ADMITTED", "BYTES", "DELAYED", "SECONDS DELAYED")]
    for name, passed in reply.counters.items():
        seconds = f"{passed.nanoseconds_delayed / 1e9:.1f}"
        counters.append((name, str(passed.admitted), str(passed.bytes_admitted), str(passed.delayed), seconds))
    disks: list[tuple[str, ...]] = [("DISK", "BYTES READ", "BYTES WRITTEN", "READS", "WRITES")]
    for name, figures in reply.disks.items():
        disks.append((name, *(str(figures.get(figure, 0)) for figure in ("rbytes", "wbytes", "rios", "wios"))))
    return "\n\n".join("\n".join(table(rows)) for rows in (limits, counters, disks) if len(rows) > 1)


def _rate(limit: Limit, rate: int | None) -> str:
    from virtiofs_sandbox.policies.limiting import KEYS  # noqa: PLC0415

    key = KEYS.get(limit.key)
    return f"{rate} {limit.unit}" if key is None else key.show(rate)


def _assignment(said: str) -> tuple[str, str]:
    key, equals, value = said.partition("=")
    if not key or not equals or not value:
        raise argparse.ArgumentTypeError(f"{said!r} is no KEY=VALUE, as in read=50MiB/s")
    return key, value
