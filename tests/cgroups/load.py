"""Reads and writes for a number of seconds, in a control group: a program of its own, and what it got.

    python load.py GROUP FILE (read|write) (direct|buffered) BLOCK_BYTES SECONDS

Joins GROUP (empty: none) before anything else, and prints operations and bytes a second. What was buffered is synced
within the time. A file that is read is there already.
"""

from __future__ import annotations

import mmap
import os
import sys
import time


def main(group: str, file: str, way: str, how: str, *numbers: str) -> None:
    block, seconds = int(numbers[0]), float(numbers[1])
    if group:
        with open(f"{group}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(str(os.getpid()))
    flags = os.O_RDONLY if way == "read" else os.O_RDWR | os.O_CREAT
    descriptor = os.open(file, flags | (os.O_DIRECT if how == "direct" else 0), 0o600)
    # Aligned as O_DIRECT wants it.
    buffer = mmap.mmap(-1, block)
    buffer.write(os.urandom(block))
    there = os.fstat(descriptor).st_size
    size = there or 64 << 20
    if way == "write" and not there:
        os.posix_fallocate(descriptor, 0, size)
    if way == "read":
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    operations, offset, start = 0, 0, time.monotonic()
    while time.monotonic() - start < seconds:
        if way == "read":
            os.preadv(descriptor, [buffer], offset)
        else:
            os.pwritev(descriptor, [buffer], offset)
        operations += 1
        offset = (offset + block) % (size - size % block)
        if way == "write" and how == "buffered" and operations % max(1, (4 << 20) // block) == 0:
            os.fdatasync(descriptor)
        if way == "read" and how == "buffered" and offset == 0:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if how == "buffered" and way == "write":
        os.fdatasync(descriptor)
    took = time.monotonic() - start
    print(operations / took, operations * block / took, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
