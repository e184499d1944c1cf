"""A monitor that comes and goes without a pause is always let in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.running import COMMANDS, Running

TIMES = 200


@pytest.mark.parametrize("kind", COMMANDS)
def test_200_monitors_one_after_the_other_are_all_served(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        for _ in range(TIMES):
            caller = run.connect(path)
            assert caller.served()
            caller.close()
        run.logged("handed to the worker", TIMES)
        assert "turned away" not in run.log.read_text()
        assert run.stop() == 0
        run.nobody_left()


@pytest.mark.parametrize("kind", COMMANDS)
def test_200_that_do_not_wait_for_an_answer_leave_the_next_one_its_place(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()
        for _ in range(TIMES):
            run.connect(path).close()
        assert run.connect(path).served()
        assert "turned away" not in run.log.read_text()


@pytest.mark.parametrize("kind", COMMANDS)
def test_nothing_grows_with_the_number_of_clients(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Running(kind, tmp_path, "--socket", os.fspath(path)) as run:
        run.ready()

        def serve(number: int) -> None:
            for _ in range(number):
                caller = run.connect(path)
                assert caller.served()
                caller.close()

        serve(10)
        run.until(lambda: len(run.family()) > 0, "settle")
        before = len(os.listdir(f"/proc/{run.process.pid}/fd"))
        serve(30)
        run.until(lambda: len(os.listdir(f"/proc/{run.process.pid}/fd")) <= before + 6, "close its descriptors")
