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
from virtiofs_sandbox.policies.places import socket_directory
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import Share, ShareError, resolve_source
from virtiofs_sandbox.policies.sockets import make_directory
from virtiofs_sandbox.supervisor.listener import Listener, ListenError, SocketFile
from virtiofs_sandbox.supervisor.resident import Reload, run_share
from virtiofs_sandbox.supervisor.service import StartError
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Launching, Z

_REFUSALS = (PolicyError, ShareError, WideningError, CannotConfineError, MissingArgumentError)

__all__ = ["MissingArgumentError", "hold", "listener", "serve"]


def serve(arguments: Arguments, file: Path | None, directory: Path, worker: Path, zygote: Zygote) -> int:
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
    except _REFUSALS as error:
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
        wanted, plan, launching, lambda: listener(arguments, wanted), reload if wanted.policy is not None else None
    )


def hold(
    wanted: Offer,
    plan: LaunchPlan,
    launching: Launching[Z],
    listen: Callable[[], Listener],
    reload: Reload | None = None,
) -> int:
    """Serves until a signal; returns the exit status. SIGHUP reloads where there is something to."""
    output = Output(wanted, plan)
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
                refusals=_REFUSALS,
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
    if wanted.socket.path.parent == socket_directory():
        try:
            make_directory(wanted.socket.path.parent)
        except OSError as error:
            reason = f"{wanted.socket.path.parent}: {error.strerror}; name another place by share.socket or --socket"
            raise ListenError(f"socket {wanted.socket.path}: cannot make its directory {reason}") from error
    return Listener.bind(SocketFile(wanted.socket.path, wanted.socket.mode, wanted.socket.group))


def check_sources(share: Share) -> None:
    """Raises ShareError for a directory that is not there or cannot be listed."""
    for source in [child.source for child in share.children] if share.source is None else [share.source]:
        resolve_source(source)
