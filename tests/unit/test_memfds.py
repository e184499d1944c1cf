"""Shared memory is sealed before it is handed over (I2): nobody can shrink, grow or, for documents, rewrite it."""

from __future__ import annotations

import fcntl
import mmap
import os

import pytest
from virtiofs_sandbox.ipc.memfds import ARENA_BYTES, fixed_memory, sealed_document

FIXED = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def test_a_document_can_be_read_and_never_changed() -> None:
    with sealed_document("document", b"{}") as memfd:
        number = memfd.fileno()
        assert os.read(number, 100) == b"{}"
        assert fcntl.fcntl(number, fcntl.F_GET_SEALS) & (FIXED | fcntl.F_SEAL_WRITE) == FIXED | fcntl.F_SEAL_WRITE
        with pytest.raises(PermissionError):
            os.pwrite(number, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(number, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(number, 2, mmap.MAP_SHARED, mmap.PROT_WRITE)
        with pytest.raises(PermissionError):
            fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


@pytest.mark.parametrize("size", [0, 4095, 4097])
def test_fixed_memory_keeps_its_size_and_stays_writable(size: int) -> None:
    with fixed_memory("page", 4096) as memfd:
        number = memfd.fileno()
        assert fcntl.fcntl(number, fcntl.F_GET_SEALS) & (FIXED | fcntl.F_SEAL_WRITE) == FIXED
        with pytest.raises(PermissionError):
            os.ftruncate(number, size)
        os.pwrite(number, b"count", 0)
        assert os.fstat(number).st_size == 4096


def test_the_arena_costs_nothing_until_it_is_used() -> None:
    with fixed_memory("arena", ARENA_BYTES) as memfd:
        state = os.fstat(memfd.fileno())
        assert (state.st_size, state.st_blocks) == (ARENA_BYTES, 0)


def test_neither_can_be_executed_nor_inherited() -> None:
    with sealed_document("document", b"#!/bin/true\n") as document, fixed_memory("page", 4096) as page:
        for memfd in (document, page):
            assert not os.get_inheritable(memfd.fileno())
            assert os.fstat(memfd.fileno()).st_mode & 0o111 == 0
