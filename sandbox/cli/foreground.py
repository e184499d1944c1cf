"""The resident part in the foreground, loaded once the zygote is forked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtiofs_sandbox.cli.logform import LogForm
from virtiofs_sandbox.cli.output import Output, form_of
from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan, prepare, probe_host
from virtiofs_sandbox.confine.lessening import lessened
from virtiofs_sandbox.launcher import Launcher, Zygote
from virtiofs_sandbox.policies.narrowing import Arguments, WideningError
from virtiofs_sandbox.policies.offer import MissingArgumentError, Offer, offer
from virtiofs_sandbox.policies.places import control_directory, control_socket, serve_socket, socket_directory
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import Share, ShareError, resolve_source
from virtiofs_sandbox.policies.sockets import make_directory
from virtiofs_sandbox.policies.values import MetricsAddress
from virtiofs_sandbox.supervisor.activation import PassedSockets
from virtiofs_sandbox.supervisor.departure import Departure
from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.supervisor.notify import Notifier
from virtiofs_sandbox.supervisor.recent import Recent
from virtiofs_sandbox.supervisor.reloader import Reload
from virtiofs_sandbox.supervisor.resident import Control, run_share
from virtiofs_sandbox.supervisor.service import StartError
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z

REFUSALS = (PolicyError, ShareError, WideningError, CannotConfineError, MissingArgumentError)

__all__ = ["REFUSALS", "MissingArgumentError", "bind", "check_sources", "hold", "listener", "serve", "serve_listener"]


def listener(arguments: Arguments, wanted: Offer, passed: PassedSockets | None = None) -> Listener:
    """The socket of an offer, passed to us or to be made. Raises ListenError."""
    if wanted.socket is None:
        assert arguments.fd is not None  # noqa: S101 - for mypy: one of the two is there
        return Listener.adopt(arguments.fd)
    found = None if passed is None else passed.listener(wanted.share.name, wanted.socket, wanted.policy)
    return found or bind(wanted.socket)


@dataclass(frozen=True)
class Form:
    """How a command serves. *named* makes the name of the share in service out of the policy's.

    *warm*: workers kept ready for a client that has not come. *once*: ends with the first client, unless the policy
    says otherwise; *persistent*: whatever it says. *follow_cgroup* as in ActiveShare. *nofile* and *dropped* as in
    `lessened`. *listen* makes the socket. *hints*: the start line comes with what to tell a monitor.
    """

    command: str = "run"
    named: Callable[[str], str] = str
    warm: int = 1
    once: bool = False
    persistent: bool = False
    follow_cgroup: bool = False
    nofile: int | None = None
    dropped: int = 0
    listen: Callable[[Arguments, Offer, PassedSockets | None], Listener] = listener
    hints: bool = True


def serve(
    arguments: Arguments,
    file: Path | None,
    directory: Path,
    *,
    control: Path,
    worker: Path | None,
    zygote: Zygote,
    form: Form | None = None,
    log_format: LogForm | None = None,
    metrics: MetricsAddress | None = None,
    passed: tuple[tuple[str, int], ...] = (),
    notifier: Notifier | None = None,
) -> int:
    """Returns the exit status. *passed* are the inherited sockets: the share takes the one that is meant for it. Raises
    MissingArgumentError, with the zygote closed as after any other refusal.
    """

    form = form or Form()

    def settle() -> tuple[Offer, LaunchPlan]:
        """Policy, arguments and host, as they are now."""
        wanted = offer(arguments, file, directory)
        check_sources(wanted.share)
        wanted = replace(wanted, share=replace(wanted.share, name=form.named(wanted.share.name)))
        plan = prepare(wanted.share, probe_host(), worker=worker)
        return wanted, lessened(plan, nofile=form.nofile, dropped=form.dropped)

    try:
        wanted, plan = settle()
        sockets = PassedSockets(passed)
    except MissingArgumentError:
        zygote.close()
        raise
    except (*REFUSALS, ListenError) as error:
        zygote.close()
        complain(form.command, error)
        return Status.WIDENS if isinstance(error, WideningError) else Status.FAILED
    for problem in wanted.broken:
        complain(form.command, f"warning: another policy is out of order: {problem}")

    def reload() -> tuple[Share, LaunchPlan]:
        newer, plan = settle()
        if newer.policy is None:
            raise ShareError("no policy speaks of this share any more; stop it, or put the file back")
        if newer.socket != wanted.socket:
            raise ShareError("share.socket: a running share keeps its socket; stop it and start it anew")
        return newer.share, plan

    launching = Launching(zygote, Zygote.start, Launcher)
    return hold(
        wanted,
        plan,
        launching,
        lambda: form.listen(arguments, wanted, sockets),
        control=control,
        reload=reload if wanted.policy is not None else None,
        form=form,
        log_format=log_format,
        metrics=metrics,
        notifier=notifier,
    )


def hold(
    wanted: Offer,
    plan: LaunchPlan,
    launching: Launching[Z],
    listen: Callable[[], Listener],
    *,
    control: Path,
    reload: Reload | None = None,
    form: Form | None = None,
    log_format: LogForm | None = None,
    metrics: MetricsAddress | None = None,
    notifier: Notifier | None = None,
) -> int:
    """Serves until a signal; returns the exit status. SIGHUP reloads where there is something to.

    The control socket is made in the directory *control*; Prometheus is told on *metrics*.
    """
    form = form or Form()
    recent = Recent()
    output = Output(wanted.share, form_of(log_format, os.environ), recent, hints=form.hints)
    persistent = form.persistent or not form.once or bool(wanted.policy and wanted.policy.persistent)
    departures: list[Departure] = []
    try:
        clean = asyncio.run(
            run_share(
                wanted.share,
                plan,
                launching,
                listen=listen,
                sink=output.show,
                timing=Timing(),
                reload=reload,
                refusals=REFUSALS,
                control=Control(
                    lambda: control_listener(wanted.share.name, control),
                    None if wanted.policy is None else wanted.policy.file,
                ),
                spares=Spares(form.warm),
                metrics=metrics,
                once=None if persistent else departures.append,
                follow_cgroup=form.follow_cgroup,
                recent=recent,
                notifier=notifier,
            )
        )
    except (ListenError, StartError) as error:
        output.failed(form.command, wanted.share.name, error)
        return Status.FAILED
    finally:
        output.close()
    return _status(departures) if clean else Status.FAILED


def bind(socket: Socket, *, instead_of: Listener | None = None) -> Listener:
    """The socket of a policy, in place of another listener of ours if there is one. Raises ListenError."""
    if socket.path.parent == socket_directory():
        _make_directory(socket.path.parent, socket.path, "share.socket or --socket")
    file = SocketFile(socket.path, socket.mode, socket.group, socket.owner, socket.label)
    return Listener.bind(file, instead_of=instead_of)


def _status(departures: Sequence[Departure]) -> Status:
    """A client that left because it was told to, or was broken, is another matter than one that nobody served."""
    for departure in departures:
        if departure.protocol_error:
            return Status.PROTOCOL
        if not departure.clean:
            return Status.FAILED
    return Status.DONE


def control_listener(share: str, directory: Path) -> Listener:
    """The control socket of a share, for its own user and root. Raises ListenError."""
    return _control_listener(control_socket(share, directory), directory)


def serve_listener(directory: Path) -> Listener:
    """The control socket of all shares of a `serve`, which thereby has *directory* to itself. Raises ListenError."""
    try:
        return _control_listener(serve_socket(directory), directory)
    except ListenError as error:
        raise ListenError(
            f"{error}; another `serve` of this control directory is ended by virtiofs-sandbox stop --all, and a second "
            "one beside it takes another --control-dir"
        ) from error


def _control_listener(path: Path, directory: Path) -> Listener:
    for place in (directory.parent, directory) if directory == control_directory() else (directory,):
        _make_directory(place, path, "--control-dir")
    return Listener.bind(SocketFile(path, 0o600))


def _make_directory(directory: Path, socket: Path, otherwise: str) -> None:
    """Raises ListenError, which says what names another place."""
    try:
        make_directory(directory)
    except OSError as error:
        reason = f"{directory}: {error.strerror}; name another place by {otherwise}"
        raise ListenError(f"socket {socket}: cannot make its directory {reason}") from error


def check_sources(share: Share) -> None:
    """Raises ShareError for a directory that is not there or cannot be listed."""
    for source in [child.source for child in share.children] if share.source is None else [share.source]:
        resolve_source(source)
