"""Fixtures for every kind of test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

# A slow machine is no failure: how long an example takes decides nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def signals_as_from_a_terminal() -> Iterator[None]:
    """Started by nohup, or in the background of a script, a test run has SIGHUP and SIGINT ignored, and whatever it
    starts inherits that. Commands under test get what a person's shell would give them.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
