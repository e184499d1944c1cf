"""How near a limit on requests comes to what was asked: each kind of limit, on tmpfs and on a disk's file system.

The table it prints goes into docs/limits.md. What is asserted is the promise: never above.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.policed import Policed

pytestmark = pytest.mark.slow

KIB, MIB = 1 << 10, 1 << 20
FILE = 8 * MIB
# At full speed a burst of a second's worth is spent well before.
SPEND = 3.0
SECONDS = 6.0
MOST = 1.03


@dataclass(frozen=True)
class Limit:
    """*key* set to *rate* (for people: *asked*); each request of *kind* is *size* of its unit."""

    key: str
    asked: str
    rate: int
    kind: str
    size: int


LIMITS = [
    Limit("read", "1MiB/s", MIB, "read", 64 * KIB),
    Limit("read", "100MiB/s", 100 * MIB, "read", MIB),
    Limit("write", "1MiB/s", MIB, "write", 64 * KIB),
    Limit("write", "50MiB/s", 50 * MIB, "write", MIB),
    Limit("read-ops", "500/s", 500, "read", 1),
    Limit("write-ops", "500/s", 500, "write", 1),
    Limit("metadata-ops", "1000/s", 1000, "getattr", 1),
]


@pytest.fixture(params=["tmpfs", "ext4"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on that file system."""
    if request.param == "ext4":
        if file_system(tmp_path) != "ext4":
            pytest.skip(f"{tmp_path} lies on {file_system(tmp_path)}, not on ext4; choose another --basetemp")
        yield tmp_path
        return
    memory = Path(tempfile.mkdtemp(prefix="accuracy-", dir="/dev/shm"))
    yield memory
    shutil.rmtree(memory)


def file_system(path: Path) -> str:
    """The type of the file system that *path* lies on: its mount is the last with the longest matching directory."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    around = [(len(place), kind) for _, place, kind, *_ in mounts if path.is_relative_to(place)]
    longest = max(length for length, _ in around)
    return [kind for length, kind in around if length == longest][-1]


def requests(client: FrontEnd, limit: Limit) -> Callable[[], None]:
    node = client.lookup(b"file").node
    handle = client.open(node, os.O_RDWR)
    size = limit.size if limit.size > 1 else 512
    data = os.urandom(size)
    places = iter(range(0, 1 << 60, size))

    def one() -> None:
        offset = next(places) % FILE
        if limit.kind == "read":
            assert len(client.read(node, handle, offset, size)) == size
        elif limit.kind == "write":
            client.call(Opcode.WRITE, fuse.write(handle, offset, data), node)
        else:
            client.call(Opcode.GETATTR, fuse.getattr_of(), node)

    return one


def measured(one: Callable[[], None], size: int) -> float:
    """Units a second, over whole requests."""
    start = time.monotonic()
    while time.monotonic() - start < SPEND:
        one()
    start, count = time.monotonic(), 0
    while time.monotonic() - start < SECONDS:
        one()
        count += 1
    return count * size / (time.monotonic() - start)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: f"{limit.key}-{limit.asked.replace('/', ' per ')}")
def test_a_limit_is_never_exceeded(work: Path, limit: Limit, capsys: pytest.CaptureFixture[str]) -> None:
    kind = file_system(work)
    with Policed(work, f'[limits.requests]\n{limit.key} = "{limit.asked}"\n') as service:
        service.share.mkdir()
        (service.share / "file").write_bytes(os.urandom(FILE))
        service.start()
        with FrontEnd.connect(service.socket, seconds=30) as client:
            client.start().init()
            got = measured(requests(client, limit), limit.size)
    with capsys.disabled():
        off = 100 * (got / limit.rate - 1)
        unit = limit.asked.lstrip("0123456789")
        amount = got / MIB if unit == "MiB/s" else got
        print(f"\n| {kind} | `{limit.key}` | {limit.asked} | {amount:.3f}{unit} | {off:+.2f} % |")
    assert got <= limit.rate * MOST
