"""A disk that does not answer: the guest waits, the worker stays, and all goes on when the disk does."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from tests.cgroups.site import file_system
from tests.guest import fuse
from tests.guest.frontend import FrontEnd
from tests.guest.fuse import Opcode
from tests.guest.policed import Policed

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a loop device: needs root")
def test_a_worker_that_waits_for_a_frozen_disk_is_told_of_and_goes_on_with_it(tmp_path: Path) -> None:
    with (
        file_system("ext4", tmp_path, 100) as disk,
        Policed(tmp_path, '[worker]\nstuck_after = "10s"\n', guarded=False, prefix=disk.prefix) as service,
    ):
        service.start()
        with FrontEnd.connect(service.socket, 60) as client:
            client.start().init()
            created: list[bytes] = []
            creates = threading.Thread(
                target=lambda: created.append(client.call(Opcode.CREATE, fuse.create(b"late", os.O_RDWR)))
            )
            frozen = os.open(disk.seen, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.ioctl(frozen, _FIFREEZE, 0)
            try:
                creates.start()
                service.wait(lambda: "waits for the share's storage" in service.log, "notice it", 40)
                assert not created
            finally:
                fcntl.ioctl(frozen, _FITHAW, 0)
                os.close(frozen)
            creates.join(20)
            assert len(created) == 1
            assert client.serves()
        assert "(queue-1 in openat" in service.log
        assert "killing the worker" not in service.log
