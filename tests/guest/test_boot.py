"""Guests boot without a share and run scripts: what the other tests here stand on."""

from __future__ import annotations

from tests.guest.machine import Machine


def test_a_guest_without_a_share_runs_a_script_and_returns_its_output_and_status(bare_guest: Machine) -> None:
    outcome = bare_guest.run("echo hello from $(uname -s); echo to stderr >&2; exit 7")
    assert outcome.status == 7
    assert outcome.output == "hello from Linux\nto stderr\n"


def test_output_with_any_byte_and_length_arrives_unchanged(bare_guest: Machine) -> None:
    text = bare_guest.check("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
    assert text == "".join(f"line {i}\n" for i in range(2000))


def test_steps_stop_at_the_first_failure(bare_guest: Machine) -> None:
    transcript = bare_guest.run_steps({"good": "true", "bad": "exit 3", "never": "true"})
    assert transcript.exit_status == 3
    assert list(transcript.steps) == ["good", "bad"]


def test_the_guest_kernel_knows_virtio_fs(bare_guest: Machine) -> None:
    assert "virtiofs" in bare_guest.check("cat /proc/filesystems")
