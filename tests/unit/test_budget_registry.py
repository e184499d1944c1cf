"""Members of a group: who lives is seen with what it holds, the dead are not, and nonsense takes nobody's part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtiofs_sandbox.budgets.records import RATES, RECORD_BYTES, Record, decode, encode
from virtiofs_sandbox.budgets.registry import GroupBusyError, Registry

RECORD = Record(100, (None,) + (0,) * (len(RATES) - 1), tuple(range(len(RATES))))
MEMBER = """
import sys, time
from pathlib import Path
from virtiofs_sandbox.budgets.records import decode
from virtiofs_sandbox.budgets.registry import Registry
registry = Registry(Path(sys.argv[1]))
registry.join()
if sys.argv[2] == "joined":
    registry.joined(decode(bytes.fromhex(sys.argv[3])))
print(registry.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def group(tmp_path: Path) -> Path:
    return tmp_path / "groups" / "disk1"


@pytest.fixture
def here(group: Path) -> Iterator[Registry]:
    registry = Registry(group)
    registry.join()
    registry.joined(RECORD)
    yield registry
    registry.leave()


def other(group: Path, how: str = "joined") -> tuple[subprocess.Popen[str], str]:
    """Another process, on its way in or a member, and its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER, str(group), how, encode(RECORD).hex()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


RECORDS = st.builds(
    Record,
    st.integers(1, 10_000),
    st.tuples(*[st.none() | st.integers(0, 2**62)] * len(RATES)),
    st.tuples(*[st.integers(0, 2**62)] * len(RATES)),
)


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert len(encode(record)) == RECORD_BYTES
    assert decode(encode(record)) == record


@given(st.binary(max_size=2 * RECORD_BYTES))
def test_no_other_bytes_are_a_record(content: bytes) -> None:
    assert decode(content) is None


@given(RECORDS, RECORDS, st.integers(1, RECORD_BYTES - 1))
def test_half_of_one_record_and_half_of_another_are_none(one: Record, two: Record, at: int) -> None:
    torn = encode(one)[:at] + encode(two)[at:]
    assert decode(torn) in ((one, two) if torn in (encode(one), encode(two)) else (None,))


def test_a_member_is_seen_while_it_lives_and_its_file_is_removed_once_it_was_killed(
    group: Path, here: Registry
) -> None:
    process, name = other(group)
    try:
        assert here.others() == {name: RECORD}
    finally:
        kill(process)
    assert here.others() == {}
    with here.exclusive() as alone:
        assert alone
    assert os.listdir(group) == [here.name]


def test_one_that_is_killed_on_its_way_in_leaves_the_lock_and_nothing_else(group: Path, here: Registry) -> None:
    process, _ = other(group, "joining")
    try:
        with here.exclusive() as alone:
            assert not alone, "nobody takes more while somebody comes in"
        with pytest.raises(GroupBusyError, match="another supervisor holds the lock"):
            Registry(group).join()
    finally:
        kill(process)
    with here.exclusive() as alone:
        assert alone


def test_a_record_that_is_none_is_a_member_all_the_same(group: Path, here: Registry) -> None:
    process, name = other(group)
    try:
        for content in (b"", b"x" * RECORD_BYTES, encode(RECORD)[:-1], encode(RECORD) + b"x"):
            (group / name).write_bytes(content)
            assert here.others() == {name: None}
    finally:
        kill(process)


def test_what_is_no_file_of_a_member_is_passed_over(group: Path, here: Registry) -> None:
    (group / "directory").mkdir()
    (group / "link").symlink_to("/etc/passwd")
    os.mkfifo(group / "pipe")
    (group / "left").write_bytes(encode(RECORD))
    assert here.others() == {}
    with here.exclusive() as alone:
        assert alone
    assert sorted(os.listdir(group)) == sorted(["directory", "link", "pipe", here.name])


def test_the_last_to_leave_removes_the_group_and_who_comes_next_makes_it_anew(group: Path) -> None:
    for _ in range(2):
        registry = Registry(group)
        registry.join()
        registry.joined(RECORD)
        assert group.is_dir()
        registry.leave()
        assert not group.exists()
