"""The installed units under a real systemd: Debian 12 booted as a machine of its own, in user-mode-linux."""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.guest import initramfs
from tests.guest.images import ROOT, MissingProgramError, qemu, user_mode_linux
from tests.guest.machine import ENDS_WITH_TEST
from tests.guest.qemu import CPU
from tests.systemd import in_guest

pytestmark = pytest.mark.slow

BASE = ROOT / "build" / "systemd" / "base"
STAGE = ROOT / "build" / "stage" / ".made"
PROBE = """\
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -m tests.systemd.in_guest
Environment=PYTHONPATH=/usr/lib/virtiofs-sandbox/python:/opt PYTHONDONTWRITEBYTECODE=1
TimeoutStartSec=infinity
"""
KERNEL_WORDS = ("panic=1", "quiet", "systemd.show_status=0", "systemd.log_target=journal")
# The first and only thing that QEMU's kernel finds: the driver of its disk, and the way there.
START = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox insmod /modules/0-virtio_blk.ko
while [ ! -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /mnt
exec /bin/busybox switch_root /mnt /lib/systemd/systemd
"""
# Nothing of them is wanted, and some of them take seconds there.
MASKED = ("getty.target", "getty-static.service", "e2scrub_reap.service", "apt-daily.timer", "apt-daily-upgrade.timer")


def disk(work: Path) -> Path:
    """An image of the Debian with our installation in it, and the tests."""
    tree = work / "tree"
    subprocess.run(["cp", "-a", "--reflink=auto", BASE, tree], check=True)
    places = {"DESTDIR": str(tree), "PREFIX": "/usr", "SYSCONFDIR": "/etc"}
    subprocess.run([ROOT / "packaging/install", "put"], check=True, env={**os.environ, **places})
    shutil.copytree(ROOT / "tests", tree / "opt/tests", ignore=shutil.ignore_patterns("__pycache__", "target"))
    units = tree / "etc/systemd/system"
    (units / "probe.service").write_text(PROBE)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "probe.service").symlink_to("../probe.service")
    for unit in MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    with (tree / "etc/passwd").open("a") as passwd:
        passwd.write(f"person:x:{in_guest.OWNER}:{in_guest.OWNER}::/home/person:/bin/sh\n")
    with (tree / "etc/group").open("a") as group:
        group.write(f"person:x:{in_guest.OWNER}:\n")
    image = work / "disk"
    with image.open("wb") as file:
        file.truncate(600 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, image], check=True, capture_output=True)
    shutil.rmtree(tree)
    return image


def machine(work: Path) -> Path:
    """The image, or a skip that says what it takes."""
    if os.geteuid() != 0:
        pytest.skip("the files of the guest belong to root: needs root")
    if not (BASE / ".complete").exists():
        pytest.skip(f"no Debian below {BASE}: packaging/setup/service-manager")
    if not STAGE.exists():
        pytest.skip(f"nothing to install: make {STAGE.relative_to(ROOT)}")
    return disk(work)


def play(command: Sequence[str], scenes: Sequence[str]) -> dict[str, Any]:
    """What each scene came to, by name."""
    command = [*ENDS_WITH_TEST, *command]
    run = subprocess.run(command, capture_output=True, timeout=580, stdin=subprocess.DEVNULL, check=False)
    console = run.stdout.decode(errors="replace")
    pieces: dict[str, str] = {}
    for name, piece in re.findall(rf"{in_guest.MARK}(\w+): (.*?)\r?\n", console):
        pieces[name] = pieces.get(name, "") + piece
    assert list(pieces) == list(scenes), console[-4000:] + run.stderr.decode(errors="replace")[-1000:]
    return {name: json.loads(text) for name, text in pieces.items()}


def boot_linux_6_1(work: Path) -> dict[str, Any]:
    """In user-mode-linux: seconds, and no Landlock."""
    try:
        image = user_mode_linux()
    except MissingProgramError as error:
        pytest.skip(str(error))
    command = [
        str(image.program),
        "mem=512M",
        "root=/dev/ubda",
        "rw",
        f"ubd0={machine(work)}",
        f"uml_dir={work}",
        "umid=uml",
        "con=null",
        "con0=null,fd:1",
        "ssl=null",
        *KERNEL_WORDS,
        "init=/lib/systemd/systemd",
    ]
    return play(command, in_guest.names())


def boot_linux_6_12(work: Path) -> dict[str, Any]:
    """In QEMU without KVM: minutes, and every layer of the jail."""
    try:
        image = qemu()
    except MissingProgramError as error:
        pytest.skip(str(error))
    (driver,) = image.kernel.parents[1].glob("lib/modules/*/kernel/drivers/block/virtio_blk.ko*")
    module, start = work / "virtio_blk.ko", work / "start"
    module.write_bytes(lzma.decompress(driver.read_bytes()) if driver.suffix == ".xz" else driver.read_bytes())
    start.write_text(START)
    initrd = initramfs.build(image.busybox, [module], work / "initrd", [("start", start)])
    scenes = ["start", "a_guest_on_each_share", "stop"]
    words = ["console=ttyS0", "rdinit=/start", *KERNEL_WORDS, f"scenes={','.join(scenes)}"]
    command = [
        str(image.program),
        *("-accel", "tcg", "-cpu", CPU, "-smp", "2", "-machine", "q35", "-m", "1G"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-initrd", str(initrd), "-append", " ".join(words)),
        *("-drive", f"file={machine(work)},format=raw,if=virtio"),
    ]
    return play(command, scenes)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return boot_linux_6_1(tmp_path_factory.mktemp("systemd"))


@pytest.fixture
def outcome(request: pytest.FixtureRequest, outcomes: dict[str, Any]) -> Any:
    """That of the scene which the test's mark names."""
    mark = request.node.get_closest_marker("scene")
    assert mark is not None
    found = outcomes[mark.args[0]]
    if "failed" in found:
        pytest.fail(f"{found['failed']}\n{found['journal']}")
    return found


@pytest.mark.scene("start")
def test_start_returns_when_all_shares_accept_connections(outcome: Any) -> None:
    assert (outcome["status"], outcome["said"]) == (0, "")
    assert outcome["standing"] == {
        "ActiveState": "active",
        "StatusText": "2 shares in service, 0 clients",
        "NRestarts": "0",
    }


@pytest.mark.scene("start")
def test_the_journal_has_our_fields(outcome: Any) -> None:
    data, squashed = outcome["listening"]
    assert [one["VIRTIOFS_SHARE"] for one in (data, squashed)] == ["data", "squashed"]
    assert data["MESSAGE"] == "data: accepting connections on /run/virtiofs-sandbox/data.sock"
    assert (data["SYSLOG_IDENTIFIER"], data["PRIORITY"]) == ("virtiofs-sandbox", "6")
    assert data["VIRTIOFS_TIER"] == "userns"
    assert data["_TRANSPORT"] == "journal"
    lines = [json.loads(line) for line in outcome["logs"]["said"].splitlines()]
    assert [line["share"] for line in lines if line["event"] == "listening"] == ["data", "squashed"]


@pytest.mark.scene("start")
def test_limits_are_groups_below_the_one_that_is_delegated(outcome: Any) -> None:
    assert outcome["groups"] == ["share-data"]


@pytest.mark.scene("a_guest_on_each_share")
def test_the_units_hardening_takes_nothing_from_the_guests(outcome: Any) -> None:
    """Set-user-ID files, an owner by the policy, directories that are closed to others."""
    assert outcome["mode"] == 0o4755
    assert outcome["owner"] == in_guest.OWNER
    assert outcome["NoNewPrivs"] == "1"
    # Ours and those that come with the unit.
    assert int(outcome["Seccomp_filters"]) > 3
    assert int(outcome["CapBnd"], 16) == 0


@pytest.mark.scene("a_guest_on_each_share")
def test_an_entry_about_a_client_names_it(outcome: Any) -> None:
    for entry in outcome["served"]:
        assert entry["VIRTIOFS_CLIENT_PID"] == str(outcome["us"])
        assert entry["VIRTIOFS_CLIENT_UID"] == "0"
        assert entry["VIRTIOFS_GENERATION"] == "1"
    assert {entry["VIRTIOFS_SHARE"] for entry in outcome["served"]} == {"data", "squashed"}


@pytest.mark.scene("reload")
def test_a_reload_reaches_the_mounts_of_a_running_jail(outcome: Any) -> None:
    assert (outcome["good"]["status"], outcome["good"]["said"]) == (0, "")
    assert "held by worker and mount: 'secret'" in outcome["held"][0]["MESSAGE"]


@pytest.mark.scene("reload")
def test_a_reload_that_is_refused_fails_and_ends_nothing(outcome: Any) -> None:
    assert outcome["bad"]["status"] == 1
    assert outcome["standing"] == {"ActiveState": "active"}
    assert outcome["again"]["status"] == 0


@pytest.mark.scene("a_worker_beyond_its_memory")
def test_a_share_beyond_its_memory_does_not_end_the_others(outcome: Any) -> None:
    assert int(outcome["events"]["oom_kill"]) > 0
    assert outcome["standing"] == {"ActiveState": "active", "NRestarts": "0"}
    assert outcome["there"]


@pytest.mark.scene("a_supervisor_that_is_killed")
def test_a_supervisor_that_is_killed_is_started_again(outcome: Any) -> None:
    assert outcome == {"back": True, "there": True}


@pytest.mark.scene("a_supervisor_that_hangs")
def test_the_watchdog_leaves_one_that_lives_alone_and_ends_one_that_hangs(outcome: Any) -> None:
    assert outcome["before"]["SubState"] == "running"
    assert outcome["ended"]
    assert outcome["back"]
    assert "Watchdog timeout" in outcome["said"]


@pytest.mark.scene("stop")
def test_stop_leaves_nothing_behind_though_a_guest_is_there(outcome: Any) -> None:
    assert (outcome["status"], outcome["said"]) == (0, "")
    assert outcome["were"] >= 4
    assert outcome["standing"] == {"ActiveState": "inactive", "Result": "success"}
    assert (outcome["left"], outcome["groups"], outcome["sockets"]) == ([], [], [])
    assert outcome["last"] == "stopped"


@pytest.mark.scene("a_share_by_its_socket")
def test_the_first_monitor_starts_the_supervisor_of_its_share(outcome: Any) -> None:
    assert outcome["begun"]["status"] == 0
    assert outcome["before"] == {"ActiveState": "inactive"}
    assert outcome["serving"]["ActiveState"] == "active"
    assert "other  other  serving" in outcome["status"]["said"]


@pytest.mark.scene("a_share_by_its_socket")
def test_the_socket_outlives_its_supervisor_and_starts_it_again(outcome: Any) -> None:
    assert outcome["stopped"]["status"] == 0
    assert outcome["there"]
    assert outcome["files"] == ["again", "file"]
    assert not outcome["left"]


@pytest.mark.scene("a_socket_for_the_supervisor_of_all")
def test_a_socket_unit_may_belong_to_the_supervisor_of_all(outcome: Any) -> None:
    assert outcome["before"] == {"ActiveState": "inactive"}
    assert re.search(r"^other +other +serving", outcome["status"]["said"], re.MULTILINE)
    assert re.search(r"^data +data +warm", outcome["status"]["said"], re.MULTILINE)
    assert "third" in outcome["files"]


@pytest.mark.scene("a_users_shares")
def test_a_user_has_shares_of_their_own(outcome: Any) -> None:
    assert (outcome["started"]["status"], outcome["started"]["said"]) == (0, ""), outcome["said"]
    assert re.search(r"^mine +mine +warm +none +userns", outcome["status"]["said"], re.MULTILINE)
    assert outcome["files"] == ["file"]
    assert outcome["reloaded"]["status"] == 0
    assert outcome["stopped"]["status"] == 0


def test_a_current_kernel_gives_every_layer_under_the_units_hardening(tmp_path: Path) -> None:
    outcomes = boot_linux_6_12(tmp_path)
    for outcome in outcomes.values():
        assert "failed" not in outcome, f"{outcome['failed']}\n{outcome['journal']}"
    assert outcomes["start"]["standing"]["ActiveState"] == "active"
    tiers = {entry["VIRTIOFS_SHARE"]: entry["VIRTIOFS_TIER"] for entry in outcomes["start"]["listening"]}
    assert tiers == {"data": "full", "squashed": "full"}
    assert outcomes["a_guest_on_each_share"]["mode"] == 0o4755
    assert outcomes["a_guest_on_each_share"]["owner"] == in_guest.OWNER
    assert outcomes["stop"]["standing"] == {"ActiveState": "inactive", "Result": "success"}
    assert outcomes["stop"]["left"] == []
