"""What a program needs to start is found where its loader would find it, and what is no program is refused by name."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guest.stock import LIBRARIES, LOADER, PROGRAM
from virtiofs_sandbox.confine.libraries import Needs, NotRunnableError, needs

COMPILER = shutil.which("cc")
compiled = pytest.mark.skipif(COMPILER is None, reason="no C compiler (package gcc)")


def build(target: Path, *options: str, source: str = "int f(void) { return 0; }") -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [COMPILER or "cc", "-x", "c", "-", "-o", str(target), "-Wl,--no-as-needed", *options]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return target


def library(target: Path, *options: str) -> Path:
    return build(target, "-shared", f"-Wl,-soname,{target.name}", *options)


def program(target: Path, *options: str) -> Path:
    return build(target, *options, source="int main(void) { return 0; }")


def linked(directory: Path, *names: str) -> Sequence[str]:
    return [f"-L{directory}", *(f"-l:{name}" for name in names)]


def as_loaded(path: Path) -> dict[str, Path]:
    """What ldd(1) says, by having the loader do it."""
    printed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
    return {name: Path(file) for name, file in re.findall(r"(\S+) => (/\S+) \(", printed)}


@pytest.mark.parametrize("name", ["sh", "python3", "qemu-system-x86_64", "strace"])
def test_a_program_of_this_machine_gets_what_its_own_loader_gives_it(name: str) -> None:
    found = shutil.which(name, path="/usr/bin:/bin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    wanted = as_loaded(Path(found))
    said = needs(Path(found))
    assert {name: file.resolve() for name, file in said.libraries.items()} == {
        name: file.resolve() for name, file in wanted.items()
    }
    assert said.loader is not None
    assert said.loader.is_file()


def test_a_copy_with_a_loader_of_its_own_takes_its_libraries_from_there_alone() -> None:
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not there: make peer fetches it")
    found = needs(PROGRAM, loader=LOADER, directories=[LIBRARIES])
    assert found.loader == LOADER
    assert {file.parent for file in found.libraries.values()} == {LIBRARIES}
    assert {"libc.so.6", "libseccomp.so.2", "libcap-ng.so.0", "libgcc_s.so.1"} <= set(found.libraries)
    with pytest.raises(NotRunnableError, match="is not there"):
        needs(PROGRAM, loader=LOADER, directories=[LOADER.parent / "gconv"])


@compiled
def test_a_static_program_needs_nothing(tmp_path: Path) -> None:
    assert needs(program(tmp_path / "static", "-static")) == Needs(None, {})


@compiled
def test_directories_named_in_a_program_come_first_and_origin_is_its_own(tmp_path: Path) -> None:
    library(tmp_path / "own/libown.so")
    library(tmp_path / "other/libown.so")
    by_runpath = program(tmp_path / "bin/program", *linked(tmp_path / "own", "libown.so"), "-Wl,-rpath,$ORIGIN/../own")
    assert needs(by_runpath).libraries["libown.so"].samefile(tmp_path / "own/libown.so")
    assert as_loaded(by_runpath)["libown.so"].samefile(tmp_path / "own/libown.so")


@compiled
@pytest.mark.parametrize(("tags", "found"), [("--enable-new-dtags", False), ("--disable-new-dtags", True)])
def test_the_older_kind_of_directories_holds_for_libraries_of_libraries_too(
    tmp_path: Path, tags: str, found: bool
) -> None:
    library(tmp_path / "deep/libinner.so")
    library(tmp_path / "deep/libouter.so", *linked(tmp_path / "deep", "libinner.so"))
    made = program(
        tmp_path / "program",
        *linked(tmp_path / "deep", "libouter.so"),
        f"-Wl,{tags}",
        f"-Wl,-rpath,{tmp_path}/deep",
        f"-Wl,-rpath-link,{tmp_path}/deep",
    )
    if found:
        assert set(as_loaded(made)) <= set(needs(made).libraries)
    else:
        with pytest.raises(NotRunnableError, match=r"libouter\.so: the library libinner\.so is not there"):
            needs(made)


@compiled
def test_two_libraries_that_need_each_other_come_to_an_end(tmp_path: Path) -> None:
    library(tmp_path / "liba.so")
    library(tmp_path / "libb.so", *linked(tmp_path, "liba.so"), f"-Wl,-rpath,{tmp_path}")
    library(tmp_path / "liba.so", *linked(tmp_path, "libb.so"), f"-Wl,-rpath,{tmp_path}")
    made = program(tmp_path / "program", *linked(tmp_path, "liba.so"), f"-Wl,-rpath,{tmp_path}")
    assert {"liba.so", "libb.so"} <= set(needs(made).libraries)


def test_what_is_no_program_is_refused_with_its_name(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    for path, reason in ((text, "no ELF program"), (tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(NotRunnableError, match=f"^{re.escape(str(path))}: .*{reason}"):
            needs(path)


TRUE = Path("/bin/true").read_bytes()


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1023) | st.integers(0, len(TRUE) - 1), st.integers(0, 255)), max_size=12),
    length=st.integers(0, len(TRUE)) | st.just(len(TRUE)),
)
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(TRUE)
    for place, value in changes:
        content[place] = value
    damaged = tmp_path_factory.getbasetemp() / "damaged"
    damaged.write_bytes(content[:length])
    try:
        needs(damaged)
    except NotRunnableError as refusal:
        assert str(damaged) in str(refusal)
