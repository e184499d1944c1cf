"""How a worker ended is said in words."""

from __future__ import annotations

import re

import pytest
from virtiofs_sandbox.ipc.exits import SENTENCES, Ending, ExitCode


@pytest.mark.parametrize(
    ("ending", "words", "failure"),
    [
        (Ending(0, None), "the client left", False),
        (Ending(11, None), "vhost-user protocol error", False),
        (Ending(14, None), "refused its configuration", True),
        (Ending(17, None), "internal error", True),
        (Ending(3, None), "exit status 3", True),
        (Ending(None, 9), r"killed by signal 9 \(SIGKILL\)", True),
        (Ending(128 + 11, None), r"worker killed by signal 11 \(SIGSEGV\)", True),
        (Ending(128 + 31, None), "seccomp", True),
        (Ending(128 + 100, None), "worker killed by signal 100", True),
    ],
)
def test_an_ending_is_described_and_judged(ending: Ending, words: str, failure: bool) -> None:
    assert re.search(words, str(ending))
    assert ending.is_failure is failure


def test_every_exit_code_has_a_sentence() -> None:
    assert set(SENTENCES) == set(ExitCode)
