"""The resident part in the foreground, loaded once the zygote is forked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from virtiofs_sandbox.cli.output import Output
from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.confine import CannotConfineError, LaunchPlan, prepare, probe_host
from virtiofs_sandbox.launcher import Launcher, Zygote
from virtiofs_sandbox.policies.narrowing import Arguments, WideningError
from virtiofs_sandbox.policies.offer import MissingArgumentError, Offer, offer
from virtiofs_sandbox.policies.places import control_directory, control_socket, serve_socket, socket_directory
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import Share, ShareError, resolve_source
from virtiofs_sandbox.policies.sockets import make_directory
from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.supervisor.reloader import Reload
from virtiofs_sandbox.supervisor.resident import Control, run_share
from virtiofs_sandbox.supervisor.service import StartError
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z

REFUSALS = (PolicyError, ShareError, WideningError, CannotConfineError, MissingArgumentError)

__all__ = ["REFUSALS", "MissingArgumentError", "bind", "check_sources", "hold", "listener", "serve", "serve_listener"]


def serve(
    arguments: Arguments, file: Path | None, directory: Path, *, control: Path, worker: Path, zygote: Zygote
) -> int:
    """Returns the exit status. Raises MissingArgumentError, with the zygote closed as after any other refusal."""

    def settle() -> tuple[Offer, LaunchPlan]:
        """Policy, arguments and host, as they are now."""
        wanted = offer(arguments, file, directory)
        check_sources(wanted.share)
        return wanted, prepare(wanted.share, probe_host(), worker=worker)

    try:
        wanted, plan = settle()
    except MissingArgumentError:
        zygote.close()
        raise
    except REFUSALS as error:
        zygote.close()
        complain("run", error)
        return Status.WIDENS if isinstance(error, WideningError) else Status.FAILED
    for problem in wanted.broken:
        complain("run", f"warning: another policy is out of order: {problem}")

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
        lambda: listener(arguments, wanted),
        control=control,
        reload=reload if wanted.policy is not None else None,
    )


def hold(
    wanted: Offer,
    plan: LaunchPlan,
    launching: Launching[Z],
    listen: Callable[[], Listener],
    *,
    control: Path,
    reload: Reload | None = None,
) -> int:
    """Serves until a signal; returns the exit status. SIGHUP reloads where there is something to.

    The control socket is made in the directory *control*.
    """
    output = Output(wanted.share)
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
            )
        )
    except (ListenError, StartError) as error:
        complain("run", error)
        return Status.FAILED
    return Status.DONE if clean else Status.FAILED


def listener(arguments: Arguments, wanted: Offer) -> Listener:
    """The socket of an offer. Raises ListenError."""
    if wanted.socket is None:
        assert arguments.fd is not None  # noqa: S101 - for mypy: one of the two is there
        return Listener.adopt(arguments.fd)
    return bind(wanted.socket)


def bind(socket: Socket, *, instead_of: Listener | None = None) -> Listener:
    """The socket of a policy, in place of another listener of ours if there is one. Raises ListenError."""
    if socket.path.parent == socket_directory():
        _make_directory(socket.path.parent, socket.path, "share.socket or --socket")
    file = SocketFile(socket.path, socket.mode, socket.group, socket.owner, socket.label)
    return Listener.bind(file, instead_of=instead_of)


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
