"""What a worker at work holds: nothing but what ipc/README.md lists."""

from __future__ import annotations

import os

from tests.guest.frontend import FrontEnd
from tests.guest.kernel_view import KernelView
from tests.guest.service import Service

LISTED = {
    "device 1:3",
    "directory of procfs",
    "directory of the share",
    "eventfd",
    "file of the share",
    "pipe",
    "socket",
}


def test_a_worker_at_work_holds_no_descriptor_beyond_the_documented_ones(client: FrontEnd, service: Service) -> None:
    (service.share / "file").write_bytes(b"content")
    (service.share / "folder").mkdir()
    client.open(client.lookup(b"file").node, os.O_RDWR)
    client.list(client.lookup(b"folder").node)
    (worker,) = service.processes().workers
    held = KernelView.of(worker).descriptors
    assert set(held.values()) <= LISTED
    assert "file of the share" in held.values()


def test_keeper_and_worker_share_one_descriptor_table(client: FrontEnd, service: Service) -> None:
    """What the worker opens outlives it in the keeper: nothing is lost when a worker has to be replaced."""
    (service.share / "kept").write_bytes(b"content")
    processes = service.processes()
    (keeper,), (worker,) = processes.keepers, processes.workers
    client.open(client.lookup(b"kept").node)
    assert KernelView.of(keeper).descriptors == KernelView.of(worker).descriptors
