"""virtiofsd's command line, carried out."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from virtiofs_sandbox.cli.run import NoWorkerError, find_worker
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import STANDARD_OUTPUT, complain, write_line
from virtiofs_sandbox.compat import machine
from virtiofs_sandbox.compat.meaning import Caller, Meaning, Question
from virtiofs_sandbox.compat.options import OPTIONS, Outcome
from virtiofs_sandbox.compat.parsing import UsageError, parse
from virtiofs_sandbox.policies.narrowing import Arguments
from virtiofs_sandbox.policies.places import control_directory, default_directory
from virtiofs_sandbox.policies.share import ShareError, resolve_source
from virtiofs_sandbox.supervisor import footprint

if TYPE_CHECKING:
    from virtiofs_sandbox.policies.offer import Offer
    from virtiofs_sandbox.supervisor.activation import PassedSockets
    from virtiofs_sandbox.supervisor.listener import Listener

AS = "as virtiofsd"


class RefusedError(Exception):
    """An option asks for a restriction that there is no mechanism for; str() has a line for each."""


@dataclass(frozen=True)
class Request:
    """*seen* is what can be known of the virtual machine; *meaning* has the rest."""

    arguments: Arguments
    seen: machine.Seen
    meaning: Meaning


def execute(arguments: Sequence[str]) -> int:
    """Serves the first client, or until a signal; returns the exit status."""
    try:
        meaning = parse(arguments)
        if meaning.question is not None or not arguments:
            write_line(STANDARD_OUTPUT, _help() if meaning.question is not Question.VERSION else _version())
            return Status.DONE if arguments else Status.USAGE
        request = request_of(meaning, _caller())
    except UsageError as error:
        complain(AS, f"{error}; see --help and docs/compatibility.md")
        return Status.USAGE
    except RefusedError as error:
        complain(AS, error)
        return Status.WIDENS
    except ShareError as error:
        complain(AS, error)
        return Status.FAILED
    for warning in meaning.warnings:
        complain(AS, f"warning: {warning}")
    return _serve(request)


def request_of(meaning: Meaning, caller: Caller) -> Request:
    """Raises UsageError, RefusedError, ShareError."""
    if meaning.shared_dir is None:
        raise UsageError("--shared-dir is needed")
    fields = meaning.fields
    if "fd" in fields and ("socket" in fields or "socket_group" in fields):
        raise UsageError("--fd does not go with --socket-path nor --socket-group")
    meaning.settle(caller)
    if meaning.refusals:
        raise RefusedError("\n".join(meaning.refusals))
    seen = machine.seen(machine.address_of(fields.get("fd"), fields.get("socket")), machine.log_of())
    arguments = Arguments(
        directory=resolve_source(Path(meaning.shared_dir)),
        worker=meaning.worker,
        machine=seen.machine,
        spelling=meaning.spelling,
        **fields,
    )
    return Request(arguments, seen, meaning)


def _caller() -> Caller:
    return Caller(os.geteuid(), os.getegid(), maps_all=os.geteuid() == 0)


def _serve(request: Request) -> int:
    meaning = request.meaning
    try:
        worker = find_worker(meaning.worker)
    except NoWorkerError as error:
        complain(AS, error)
        return Status.FAILED
    # First of all the zygote, forked from this small process; the event loop and the rest load after it.
    from virtiofs_sandbox.launcher import LaunchError, Zygote  # noqa: PLC0415

    try:
        zygote = Zygote.start()
    except LaunchError as error:
        complain(AS, error)
        return Status.FAILED
    footprint.load_asyncio()
    from virtiofs_sandbox.cli import foreground  # noqa: PLC0415
    from virtiofs_sandbox.compat.pidfile import PidFile  # noqa: PLC0415

    with contextlib.ExitStack() as held:

        def listen(arguments: Arguments, wanted: Offer, passed: PassedSockets | None) -> Listener:
            if wanted.socket is not None:
                held.enter_context(PidFile(wanted.socket.path))
            return foreground.listener(arguments, wanted, passed)

        form = foreground.Form(
            command=AS,
            named=lambda name: machine.instance(name, request.seen),
            warm=0,
            once=True,
            persistent=request.arguments.persistent,
            follow_cgroup=True,
            nofile=meaning.nofile,
            dropped=meaning.dropped,
            listen=listen,
            hints=False,
        )
        try:
            return foreground.serve(
                request.arguments,
                None,
                meaning.policy_dir or default_directory(),
                control=meaning.control_dir or control_directory(),
                worker=worker,
                zygote=zygote,
                form=form,
                log_format=meaning.log_format,
            )
        except foreground.MissingArgumentError as error:
            complain(AS, error)
            return Status.USAGE


def _version() -> str:
    # Not for a process that stays with its virtual machine.
    import importlib.metadata  # noqa: PLC0415

    return f"virtiofs-sandbox {importlib.metadata.version('virtiofs-sandbox')}"


def _help() -> str:
    lines = ["usage: virtiofsd --shared-dir DIR (--socket-path PATH | --fd N) [OPTION ...]", ""]
    for option in OPTIONS:
        if option.names:
            names = ", ".join(option.names) + (f" {option.value}" if option.value else "")
            outcomes = (
                f"{outcome.value}: {when}" for outcome, when in option.outcomes.items() if outcome is Outcome.WARNING
            )
            text = option.means or "; ".join(outcomes)
            lines += textwrap.wrap(f"{names:32}{text}", 100, initial_indent="  ", subsequent_indent=" " * 34)
    return "\n".join([*lines, "", *textwrap.wrap(EPILOG, 100)])
