"""Guests reboot and monitors come and go; one supervisor serves them all."""

from __future__ import annotations

from pathlib import Path

from tests.guest.conftest import new_machine
from tests.guest.frontend import FrontEnd
from tests.guest.qemu import Qemu
from tests.guest.service import TAG, Service

TIMES = 10
MOUNT = f"mount -t virtiofs {TAG} /mnt"


def test_a_guest_that_reboots_ten_times_finds_its_files_each_time(service: Service, tmp_path: Path) -> None:
    with new_machine("qemu", tmp_path, service.socket) as guest:
        assert isinstance(guest, Qemu)
        guest.boot()
        first = service.wait_worker()
        for number in range(TIMES):
            guest.check(f"{MOUNT}; echo {number} >>/mnt/boots; [ $(wc -l </mnt/boots) = {number + 1} ]")
            guest.reset()
        # A reset keeps the monitor's connection, and so the worker behind it.
        assert service.processes().workers == first.workers
    assert (service.share / "boots").read_text().split() == [str(number) for number in range(TIMES)]


def test_a_guest_reset_in_the_middle_of_writing_comes_back(service: Service, tmp_path: Path) -> None:
    with new_machine("qemu", tmp_path, service.socket) as guest:
        assert isinstance(guest, Qemu)
        guest.boot()
        for _ in range(3):
            guest.check(f"{MOUNT}; (while :; do dd if=/dev/zero of=/mnt/load bs=64k count=64; done) >/dev/null 2>&1 &")
            guest.check("sleep 0.5")
            guest.reset()
        assert guest.check(f"{MOUNT}; echo back >/mnt/back; cat /mnt/back") == "back\n"


def test_ten_qemu_monitors_in_turn_are_served_by_one_supervisor(service: Service, tmp_path: Path) -> None:
    supervisor = service.supervisor
    for number in range(TIMES):
        with new_machine("qemu", tmp_path / str(number), service.socket) as guest:
            assert isinstance(guest, Qemu)
            guest.boot().check(f"{MOUNT}; echo {number} >/mnt/qemu-{number}; sync")
            guest.quit()
        assert (service.share / f"qemu-{number}").read_text() == f"{number}\n"
    assert service.running
    assert service.supervisor == supervisor


def test_ten_user_mode_linux_guests_in_turn_are_served_by_one_supervisor(service: Service, tmp_path: Path) -> None:
    for number in range(TIMES):
        with new_machine("uml", tmp_path / str(number), service.socket) as guest:
            guest.boot().check(f"{MOUNT}; echo {number} >/mnt/uml-{number}; cat /mnt/uml-*")
            # Every other one goes without a word, as a crashed monitor does.
            if number % 2:
                guest.power_off()
            else:
                guest.check("sync")
        assert (service.share / f"uml-{number}").read_text() == f"{number}\n"


def test_two_hundred_connects_without_a_pause_are_all_served(service: Service) -> None:
    for _ in range(200):
        with FrontEnd.connect(service.socket) as client:
            client.start().init()
            assert client.serves()
