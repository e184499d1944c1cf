"""Memory that crosses the privilege boundary.

Every memfd is made here, by the trusted side, and sealed before anybody else has it: a worker that shrank a page its
supervisor has mapped would end the supervisor with SIGBUS. (The supervisor maps none; the seals make that no matter of
discipline alone, and keep the two sides agreed on the sizes.)
"""

from __future__ import annotations

import errno
import fcntl
import os

from virtiofs_sandbox.ipc.descriptors import OwnedFd

STATISTICS_BYTES = 4096
# Sparse: the tables in it are given memory as they fill.
ARENA_BYTES = 256 * 1024 * 1024

# Neither is in the os module of Python 3.11.
_MFD_NOEXEC_SEAL = 0x0008
_FIXED_SIZE = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def sealed_document(name: str, content: bytes) -> OwnedFd:
    """A memfd that holds *content*, position 0, which nobody can change any more."""
    memfd = _memfd(name)
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(memfd.fileno(), content[written:], written)
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, _FIXED_SIZE | fcntl.F_SEAL_WRITE)
    except OSError:
        memfd.close()
        raise
    return memfd


def fixed_memory(name: str, size: int) -> OwnedFd:
    """A memfd of *size* zero bytes, writable, whose size nobody can change any more."""
    memfd = _memfd(name)
    try:
        os.ftruncate(memfd.fileno(), size)
        fcntl.fcntl(memfd.fileno(), fcntl.F_ADD_SEALS, _FIXED_SIZE)
    except OSError:
        memfd.close()
        raise
    return memfd


def _memfd(name: str) -> OwnedFd:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return OwnedFd(os.memfd_create(name, flags | _MFD_NOEXEC_SEAL))
    except OSError as error:
        # Linux before 6.3 does not know the flag; execution is then stopped by Landlock and seccomp alone.
        if error.errno != errno.EINVAL:
            raise
    return OwnedFd(os.memfd_create(name, flags))
