"""The label of a socket under SELinux, in a guest kernel that has it and a policy of a few lines."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest import hosted, labelled

# Of the kernel, in its order (security/selinux/include/initial_sid_to_string.h).
SIDS = [
    "kernel",
    "security",
    "unlabeled",
    "fs",
    "file",
    "file_labels",
    "init",
    "any_socket",
    "port",
    "netif",
    "netmsg",
    "node",
    "igmp_packet",
    "icmp_socket",
    "tcp_socket",
    "sysctl_modprobe",
    "sysctl",
    "sysctl_fs",
    "sysctl_kernel",
    "sysctl_net",
    "sysctl_net_unix",
    "sysctl_vm",
    "sysctl_dev",
    "kmod",
    "policy",
    "scmp_packet",
    "devnull",
]
POLICY = [
    "class process",
    *(f"sid {name}" for name in SIDS),
    "class process { transition dyntransition setfscreate }",
    "type host_t;",
    "type svirt_image_t;",
    "allow host_t host_t:process *;",
    "role r;",
    "role r types { host_t svirt_image_t };",
    "user u roles { r };",
    *(f"sid {name} u:r:host_t" for name in SIDS),
    "fs_use_trans tmpfs u:object_r:host_t;",
    "genfscon proc / u:object_r:host_t",
    "",
]


def test_a_socket_has_its_label_before_anybody_can_connect_and_nothing_else_gets_it(tmp_path: Path) -> None:
    checkpolicy = shutil.which("checkpolicy", path="/usr/bin:/usr/sbin:/sbin")
    if checkpolicy is None:
        pytest.skip("no checkpolicy: install the package checkpolicy")
    (tmp_path / "policy.conf").write_text("\n".join(POLICY))
    policy = tmp_path / "policy"
    # What the policy does not name is allowed.
    subprocess.run([checkpolicy, "-U", "allow", "-o", policy, tmp_path / "policy.conf"], check=True)
    selinux = ("security=selinux", "selinux=1", "enforcing=1", f"policy={policy}")
    printed = hosted.boot(tmp_path, "tests/guest/labelled.py", "mem=256M", *selinux)
    outcomes = [line.partition(labelled.MARK)[2] for line in printed.splitlines() if labelled.MARK in line]
    assert len(outcomes) == 1, printed
    outcome = json.loads(outcomes[0])
    without = outcome.pop("where files have no labels")
    assert "/media/s: label 'u:object_r:svirt_image_t': the file got " in without
    assert "choose another directory" in without
    assert outcome == {
        "enabled": True,
        "before anybody can connect": [labelled.LABEL],
        "1": [labelled.LABEL, 107],
        "150": [labelled.LABEL, 107],
        "a file made afterwards": "u:object_r:host_t",
        "left there": [],
    }
