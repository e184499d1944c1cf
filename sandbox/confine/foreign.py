"""A stock virtiofsd in the place of our own worker: what it is given to start, and what it is told.

In its jail it finds itself as /program, its libraries in /lib, the share as /share and of /proc its own process. What
it would do for its own confinement is left out where ours does it already (--sandbox=none), and where it would ask for
more than it is given: capabilities that it lacks, file handles.
"""

from __future__ import annotations

import os
from dataclasses import replace

from landlock import FSAccess
from virtiofs_sandbox.confine import landlock, seccomp
from virtiofs_sandbox.confine.capabilities import Capability, mask
from virtiofs_sandbox.confine.libraries import NotRunnableError, needs
from virtiofs_sandbox.confine.mountplan import MAX_CHILDREN
from virtiofs_sandbox.confine.plan import ProgramPlan
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.share import Access, LogLevel, Program, SeccompAction, Share, Tier

ROOT, PROGRAM, LIBRARIES, PROC = b"/", b"/program", b"/lib", b"/proc"
_LOG_LEVELS = {LogLevel.WARNING: "warn"}
# What it keeps by itself, by its own names (virtiofsd, src/main.rs: drop_capabilities).
_ITS_CAPABILITIES = {
    "chown": Capability.CHOWN,
    "dac_override": Capability.DAC_OVERRIDE,
    "fowner": Capability.FOWNER,
    "fsetid": Capability.FSETID,
    "setgid": Capability.SETGID,
    "setuid": Capability.SETUID,
    "mknod": Capability.MKNOD,
    "setfcap": Capability.SETFCAP,
}
_MODCAPS = b"--modcaps="
_EVERY_ID = 2**32 - 1


def to_drop_others(uid: int) -> int:
    """The mask of capabilities that it needs besides, to start, when its *uid* inside is 0.

    It drops what it does not want, from the bounding set too, which is empty already; without CAP_SETPCAP it takes that
    for a failure. By then this one has gone with the others.
    """
    return mask(Capability.SETPCAP) if uid == 0 else 0


def program_plan(share: Share, tier: Tier, *, as_one: tuple[int, int] | None, kept: int) -> ProgramPlan:
    """What is mounted and passed for the share's program to serve it, and the file that is executed.

    *as_one* is the (uid, gid), as the jail sees them, that everything a guest makes belongs to; None: the calling ids.
    *kept* are its capabilities. Raises CannotConfineError.
    """
    program = _program(share)
    if tier is Tier.BARE:
        raise CannotConfineError(
            f"worker.program {program.path} takes a root of its own to run in, and this host allows no mounts: "
            "serve the share with our own worker here"
        )
    try:
        found = needs(program.path, loader=program.loader, directories=program.libraries)
    except NotRunnableError as error:
        raise CannotConfineError(f"worker.program: {error}") from error
    libraries = {LIBRARIES + b"/" + os.fsencode(name): file for name, file in found.libraries.items()}
    if len(libraries) + len(share.children) >= MAX_CHILDREN:
        raise CannotConfineError(
            f"worker.program: {program.path} needs {len(libraries)} libraries, and the share is one of "
            f"{len(share.children)} directories: together fewer than {MAX_CHILDREN} are accepted"
        )
    own = arguments(share, as_one=as_one, kept=kept)
    if found.loader is None:
        executed, files, argv = program.path, {}, (b"virtiofsd", *own)
    else:
        executed, files = found.loader, {PROGRAM: program.path, **libraries}
        argv = (b"virtiofsd", b"--library-path", LIBRARIES, PROGRAM, *own)
    return ProgramPlan(
        executed=os.fsencode(executed.absolute()),
        files=tuple((os.fsencode(file.absolute()), place) for place, file in files.items()),
        arguments=argv,
        readable=(
            *((place, int(FSAccess.READ_FILE)) for place in files),
            (PROC, int(landlock.READ)),
            # It tries openat2(2) on its working directory, and would go without it, which keeps names in the share.
            (ROOT, int(FSAccess.READ_DIR)),
        ),
        waiting=seccomp.waiting_program(),
    )


def arguments(share: Share, *, as_one: tuple[int, int] | None, kept: int) -> tuple[bytes, ...]:
    """What a policy comes to in virtiofsd's own options."""
    said = [
        "--fd=3",
        "--shared-dir=/share",
        "--sandbox=none",
        f"--seccomp={'log' if share.sandbox.seccomp is SeccompAction.LOG else 'kill'}",
        "--rlimit-nofile=0",
        "--inode-file-handles=never",
        f"--log-level={_LOG_LEVELS.get(share.log_level, share.log_level.value)}",
        f"--tag={share.tag}",
        f"--cache={share.cache.value}",
    ]
    said += [
        option
        for option, wanted in (
            ("--readonly", share.access is Access.READ_ONLY),
            ("--writeback", share.writeback),
            ("--xattr", share.xattr),
        )
        if wanted
    ]
    if as_one is not None:
        said += [
            f"--translate-{kind}=squash-guest:0:{number}:{_EVERY_ID}"
            for kind, number in zip(("uid", "gid"), as_one, strict=True)
        ]
    said += _program(share).arguments
    return (*map(os.fsencode, said), *_less(kept))


def without(plan: ProgramPlan, kept: int) -> ProgramPlan:
    """*plan* for a program that has no more than the capabilities *kept*."""
    others = (argument for argument in plan.arguments if not argument.startswith(_MODCAPS))
    return replace(plan, arguments=(*others, *_less(kept)))


def _less(kept: int) -> tuple[bytes, ...]:
    """The option that keeps it from asking for more capabilities than it has."""
    lacking = [f"-{name}" for name, capability in _ITS_CAPABILITIES.items() if not kept >> capability & 1]
    return (_MODCAPS + os.fsencode(":".join(lacking)),) if lacking else ()


def _program(share: Share) -> Program:
    if share.program is None:
        raise RuntimeError(f"share {share.name} is served by our own worker")
    return share.program
