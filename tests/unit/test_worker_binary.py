"""The worker starts in a root without a single file, so its binary may need none."""

from __future__ import annotations

import struct
import subprocess
import sysconfig
from pathlib import Path

WORKER = Path(sysconfig.get_path("scripts")) / "virtiofs-worker"
ET_DYN = 3
PT_DYNAMIC, PT_INTERP = 2, 3
DT_NULL, DT_NEEDED, DT_FLAGS_1 = 0, 1, 0x6FFFFFFB
DF_1_PIE = 0x08000000


def program_headers(image: bytes) -> list[tuple[int, int, int]]:
    """(type, file offset, bytes in the file) of each program header of a 64-bit little-endian ELF file (elf(5))."""
    offset, size, count = struct.unpack_from("<Q", image, 32)[0], *struct.unpack_from("<HH", image, 54)
    headers = []
    for index in range(count):
        kind, _, position, _, _, length = struct.unpack_from("<IIQQQQ", image, offset + index * size)
        headers.append((kind, position, length))
    return headers


def dynamic_entries(image: bytes) -> list[tuple[int, int]]:
    """(tag, value) of each entry of the dynamic section."""
    ((position, length),) = [(at, size) for kind, at, size in program_headers(image) if kind == PT_DYNAMIC]
    return list(struct.iter_unpack("<QQ", image[position : position + length - length % 16]))


def test_worker_is_a_position_independent_file() -> None:
    image = WORKER.read_bytes()
    assert image[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", image, 16)[0] == ET_DYN
    assert any(tag == DT_FLAGS_1 and value & DF_1_PIE for tag, value in dynamic_entries(image))


def test_worker_needs_no_loader_and_no_library() -> None:
    image = WORKER.read_bytes()
    assert PT_INTERP not in [kind for kind, _, _ in program_headers(image)]
    assert DT_NEEDED not in [tag for tag, _ in dynamic_entries(image)]


def test_worker_started_by_hand_says_what_it_misses() -> None:
    """It is no command for people: without the descriptors a launcher gives it, it ends with the documented code."""
    done = subprocess.run([WORKER, "by-hand"], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 15, done
    assert "descriptor" in done.stderr
