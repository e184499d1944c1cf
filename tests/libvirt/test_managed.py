"""The installed copy as the daemon that libvirt starts and stops."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.guest.service import is_jailed
from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.domain import Domain
from tests.libvirt.host import Host, HostError
from tests.libvirt.remains import Remains, wait_gone

HELLO = "hello from the host\n"
MOUNT = "mount -t virtiofs data /mnt"
MOUNTED = f"grep -q ' /mnt ' /proc/mounts || {MOUNT}"
BINARY = "/usr/bin/virtiofs-sandbox"


def supervisors(host: Host, source: str = "/srv/data") -> list[int]:
    """Pids of the daemons libvirt started for *source*; each has its zygote, which has the same command line."""
    return [pid for pid in host.named(f"{BINARY} --fd=") if source in host.processes().get(pid, "").split("=")[-1]]


def jailed(host: Host) -> list[int]:
    return [pid for pid in host.processes() if is_jailed(pid)]


def log_of(host: Host, machine: str, device: str = "fs0") -> str:
    return host.path(f"/var/log/libvirt/qemu/{machine}-{device}-virtiofsd.log").read_text()


def daemon_of(host: Host, machine: str, device: str = "fs0") -> int:
    """The pid of the process that libvirt holds for the daemon."""
    (file,) = host.path("/run/libvirt/qemu").glob(f"*-{machine}-{device}-fs.pid")
    return host.pid_of(int(file.read_text()))


def test_the_documented_element_gives_a_guest_the_share_by_its_policy(machine: Domain, host: Host) -> None:
    host.path("/srv/data/.env").write_text("secret\n")
    assert machine.check(f"{MOUNT}; cat /mnt/hello; echo from the guest >/mnt/answer; ls -A /mnt").splitlines() == [
        HELLO.strip(),
        "answer",
        "hello",
        "inner",
    ]
    assert host.path("/srv/data/answer").read_text() == "from the guest\n"
    assert "policy: /etc/virtiofs-sandbox/shares.d/data.toml" in log_of(host, "web1")


def test_a_reload_changes_what_a_machine_that_runs_may_see(machine: Domain, host: Host) -> None:
    """By the name that `status` lists it under."""
    machine.check(f"{MOUNTED}; cat /mnt/inner/hello")
    assert "data@web1-fs0" in host.run("virtiofs-sandbox", "status")
    policy = host.path("/etc/virtiofs-sandbox/shares.d/data.toml")
    policy.write_text(example("managed-policy").replace('"**/.env"', '"**/.env", "inner/hello"'))
    host.run("virtiofs-sandbox", "reload", "data@web1-fs0")
    assert machine.run("cat /mnt/inner/hello").status != 0
    policy.write_text(example("managed-policy"))
    host.run("virtiofs-sandbox", "reload", "data@web1-fs0")
    assert machine.check("until cat /mnt/inner/hello 2>/dev/null; do sleep 0.1; done", 20) == HELLO


def test_a_reset_keeps_daemon_and_worker(machine: Domain, libvirtd: Libvirtd, host: Host) -> None:
    before = jailed(host)
    libvirtd.virsh("reset", "web1")
    machine.wait_ready()
    assert machine.check(f"{MOUNT}; cat /mnt/hello") == HELLO
    assert jailed(host) == before


def test_daemon_and_worker_are_in_the_machines_control_group(machine: Domain, libvirtd: Libvirtd, host: Host) -> None:
    if not libvirtd.controllers:
        pytest.skip("no control group of the controller cpu can be made in /sys/fs/cgroup/cpu")
    machine.check(MOUNTED)
    for pid in (daemon_of(host, "web1"), *jailed(host)):
        assert "-web1" in Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.parametrize("element", ["managed", "default-binary"])
def test_plugged_in_and_out_it_comes_and_goes_with_its_daemon(
    machine: Domain, libvirtd: Libvirtd, host: Host, element: str
) -> None:
    """Without <binary path> the daemon is the one that the installed descriptor names, before the distribution's."""
    plug = example(element).replace("'data'", "'plugged'")
    before = host.processes()
    libvirtd.virsh("attach-device", "web1", xml=plug)
    mount = "mkdir -p /run/plugged; until mount -t virtiofs plugged /run/plugged 2>/dev/null; do sleep 0.1; done"
    assert machine.check(f"{mount}; cat /run/plugged/hello") == HELLO
    assert len(set(host.processes()) - set(before)) == 4, "supervisor, zygote, keeper, worker"
    libvirtd.virsh("detach-device", "web1", xml=plug)
    machine.check("while ls /run/plugged >/dev/null 2>&1; do sleep 0.1; done; umount /run/plugged", 20)
    host.until(lambda: host.processes() == before, "the plugged share's processes are gone")


def test_a_daemon_that_would_stay_for_another_client_is_ended_by_libvirt(
    machine: Domain, libvirtd: Libvirtd, host: Host
) -> None:
    """It is found by its pid file, whose lock tells libvirt that it is there."""
    host.path("/srv/kept").mkdir()
    policy = host.path("/etc/virtiofs-sandbox/shares.d/kept.toml")
    policy.write_text('[share]\nsource = "/srv/kept"\ntag = "kept"\nlisten = "persistent"\n')
    plug = example("managed").replace("'/srv/data'", "'/srv/kept'").replace("'data'", "'kept'")
    before = Remains.of(host)
    libvirtd.virsh("attach-device", "web1", xml=plug)
    machine.check("until grep -q kept /sys/fs/virtiofs/*/tag; do sleep 0.1; done", 20)
    libvirtd.virsh("detach-device", "web1", xml=plug)
    wait_gone(host, before)
    assert "stopping on SIGTERM" in log_of(host, "web1", "fs1")
    policy.unlink()


def test_what_xml_can_say_is_understood(machine: Domain, libvirtd: Libvirtd, host: Host) -> None:
    """In libvirt's older form of arguments and in the newer one; for a directory inside the policy's."""
    plug = example("managed-options")
    libvirtd.virsh("attach-device", "web1", xml=plug)
    mount = "mkdir -p /run/inner; until mount -t virtiofs inner /run/inner 2>/dev/null; do sleep 0.1; done"
    assert machine.check(f"{mount}; cat /run/inner/hello") == HELLO
    assert "cache: never" in log_of(host, "web1", "fs1")
    libvirtd.virsh("detach-device", "web1", xml=plug)
    machine.check("while ls /run/inner >/dev/null 2>&1; do sleep 0.1; done; umount /run/inner", 20)


def test_what_would_widen_the_policy_is_refused_and_the_reason_is_in_the_daemons_log(
    machine: Domain, libvirtd: Libvirtd, host: Host
) -> None:
    policy = host.path("/etc/virtiofs-sandbox/shares.d/library.toml")
    plug = example("managed-options").replace("/srv/data/inner", "/srv/library").replace("'inner'", "'library'")
    assert "xattr" not in policy.read_text()
    before = Remains.of(host)
    with pytest.raises(HostError, match="attach"):
        libvirtd.virsh("attach-device", "web1", xml=plug)
    assert "would widen the policy: /etc/virtiofs-sandbox/shares.d/library.toml" in log_of(host, "web1", "fs1")
    wait_gone(host, before)


def test_a_policy_may_be_for_some_machines_alone(machine: Domain, libvirtd: Libvirtd, host: Host) -> None:
    host.path("/srv/www").mkdir()
    policy = host.path("/etc/virtiofs-sandbox/shares.d/www.toml")
    policy.write_text(example("vms-policy"))
    plug = example("managed").replace("'/srv/data'", "'/srv/www'").replace("'data'", "'www'")
    libvirtd.virsh("attach-device", "web1", xml=plug)
    mount = "mkdir -p /run/www; until mount -t virtiofs www /run/www 2>/dev/null; do sleep 0.1; done"
    assert machine.run(f"{mount}; touch /run/www/new").status != 0, "it is read-only"
    libvirtd.virsh("detach-device", "web1", xml=plug)
    machine.check("while ls /run/www >/dev/null 2>&1; do sleep 0.1; done; umount /run/www", 20)
    policy.write_text(example("vms-policy").replace('"web*"', '"db*"'))
    with pytest.raises(HostError, match="attach"):
        libvirtd.virsh("attach-device", "web1", xml=plug)
    assert "share.vms" in log_of(host, "web1", "fs1")
    policy.unlink()


def test_a_machine_that_cannot_be_saved_goes_on(machine: Domain, libvirtd: Libvirtd) -> None:
    machine.check(MOUNTED)
    with pytest.raises(HostError, match="Migration disabled"):
        libvirtd.virsh("save", "web1", "/var/lib/libvirt/web1.save")
    assert libvirtd.virsh("domstate", "web1") == "running"
    assert machine.check("cat /mnt/hello") == HELLO


def test_a_share_whose_daemon_died_comes_back_by_plugging_it_in_again(
    machine: Domain, libvirtd: Libvirtd, host: Host
) -> None:
    machine.check(MOUNTED)
    machine.settle("/mnt")
    os.kill(daemon_of(host, "web1"), signal.SIGKILL)
    host.until(lambda: not supervisors(host) and not jailed(host), "the daemon takes zygote, keeper and worker along")
    assert libvirtd.virsh("domstate", "web1") == "running"
    libvirtd.virsh("detach-device", "web1", xml=example("managed"))
    machine.check("until umount /mnt; do sleep 0.1; done", 20)
    libvirtd.virsh("attach-device", "web1", xml=example("managed"))
    assert machine.check(f"until {MOUNT} 2>/dev/null; do sleep 0.1; done; cat /mnt/hello", 30) == HELLO


def test_destroyed_after_libvirtd_was_restarted_it_leaves_nothing_behind(
    machine: Domain, libvirtd: Libvirtd, host: Host
) -> None:
    machine.check(MOUNTED)
    libvirtd.stop()
    assert machine.check("cat /mnt/hello") == HELLO
    libvirtd.start()
    assert libvirtd.virsh("domstate", "web1") == "running"
    assert machine.check("cat /mnt/hello") == HELLO
    libvirtd.virsh("destroy", "web1")
    host.until(lambda: list(host.processes()) == [libvirtd.pid], "only libvirtd is there")
    left = Remains.of(host)
    assert not [file for file in left.files if "web1" in file]
    assert not [group for group in left.groups if "web1" in group]


@pytest.mark.slow
def test_a_guest_that_powers_off_leaves_nothing_behind(libvirtd: Libvirtd, host: Host) -> None:
    before = Remains.of(host)
    with libvirtd.machine("web2", example("managed")) as machine:
        machine.check(f"{MOUNT}; echo last >/mnt/answer")
        machine.agent.start("poweroff -f")
        wait_gone(host, before, 30)
    assert host.path("/srv/data/answer").read_text() == "last\n"
