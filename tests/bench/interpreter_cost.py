"""What a data plane in Python would cost: time per request, and what an interpreter needs before the first one.

Serves FUSE GETATTR requests from a split ring in a shared memfd, as plainly as Python can: take the chain, read the
header, fstat, pack the reply, publish. No guest, no socket, no wake-up: only the work no implementation can leave out.
The numbers in docs/why-two-languages.md come from here: python3 tests/bench/interpreter_cost.py
"""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

QUEUE_SIZE = 256
AVAIL, USED, DATA = 4096, 8192, 16384
IN_HEADER = struct.Struct("<IIQQIIIHH")
ATTR_REPLY = struct.Struct("<IiQQIIQQQQQQIIIIIIIIII")
DESCRIPTOR = struct.Struct("<QIHH")
ROUNDS, REQUESTS = 7, 20_000


def serve(memory: mmap.mmap, count: int, fd: int) -> None:
    """Answers *count* GETATTR chains of two descriptors each."""
    avail_idx = 0
    for _ in range(count):
        (head,) = struct.unpack_from("<H", memory, AVAIL + 4 + 2 * (avail_idx % QUEUE_SIZE))
        avail_idx = (avail_idx + 1) & 0xFFFF
        address, _, _, following = DESCRIPTOR.unpack_from(memory, 16 * head)
        reply, _, _, _ = DESCRIPTOR.unpack_from(memory, 16 * following)
        _, _, unique, *_ = IN_HEADER.unpack_from(memory, address)
        st = os.fstat(fd)
        ATTR_REPLY.pack_into(
            memory, reply, 120, 0, unique, 1, 0, 0, st.st_ino, st.st_size, st.st_blocks,
            int(st.st_atime), int(st.st_mtime), int(st.st_ctime), 0, 0, 0,
            st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize, 0,
        )  # fmt: skip
        struct.pack_into("<II", memory, USED + 4 + 8 * (avail_idx % QUEUE_SIZE), head, 120)
        struct.pack_into("<H", memory, USED + 2, avail_idx)


def microseconds_per_request() -> list[float]:
    memfd = os.memfd_create("guest")
    os.ftruncate(memfd, 1 << 20)
    memory = mmap.mmap(memfd, 1 << 20)
    for index in range(QUEUE_SIZE):
        head, following = index & ~1, index | 1
        DESCRIPTOR.pack_into(memory, 16 * head, DATA + 256 * head, 56, 1, following)
        DESCRIPTOR.pack_into(memory, 16 * following, DATA + 256 * following, 120, 2, 0)
        struct.pack_into("<H", memory, AVAIL + 4 + 2 * index, head)
        IN_HEADER.pack_into(memory, DATA + 256 * head, 56, 3, index, 1, 0, 0, 0, 0, 0)
    with Path(__file__).open("rb") as file:
        figures = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            serve(memory, REQUESTS, file.fileno())
            figures.append((time.perf_counter() - start) / REQUESTS * 1e6)
    return figures


def start_up_calls(command: list[str]) -> dict[str, int] | None:
    """Number of system calls by name that *command* makes, or None without strace."""
    try:
        traced = subprocess.run(["strace", "-f", "-qq", *command], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    names = [line.split("(", 1)[0].split()[-1] for line in traced.stderr.splitlines() if "(" in line]
    return {name: names.count(name) for name in sorted(set(names))}


def main() -> None:
    figures = microseconds_per_request()
    print(f"machine: {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}")
    print(
        f"GETATTR served in Python: median {statistics.median(figures):.1f} us, best {min(figures):.1f} us per request"
    )
    calls = start_up_calls([sys.executable, "-I", "-S", "-c", "import mmap, struct, os"])
    if calls is None:
        print("strace is not installed: the calls of a starting interpreter were not counted")
        return
    opened, mapped = calls.get("openat", 0), calls.get("mmap", 0)
    print(f"a starting interpreter: {sum(calls.values())} calls of {len(calls)} kinds, {opened} opens, {mapped} maps")


if __name__ == "__main__":
    main()
