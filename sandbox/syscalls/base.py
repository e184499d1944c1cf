"""How a system call is declared and checked. glibc has no wrapper for many of those used here, so numbers stand in.

Numbers are those of x86_64, the one architecture the worker is built for; from 424 on they are the same everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)


class SyscallError(OSError):
    """A system call failed. *call* is its name, `filename` the path it was about, if any."""

    def __init__(self, number: int, call: str, path: bytes | None = None) -> None:
        super().__init__(number, f"{call}: {os.strerror(number)}", path)
        self.call = call


def declare(name: str, *argtypes: type[Any]) -> Callable[..., int]:
    """A function of the C library that returns int and sets errno."""
    function = getattr(_libc, name)
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def declare_number(number: int, *argtypes: type[Any]) -> Callable[..., int]:
    """A system call without a wrapper in every C library we run on."""
    # Indexing makes a function object of its own each time, so one declaration does not overwrite another's argtypes.
    function = _libc["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long

    def call(*arguments: object) -> int:
        return function(number, *arguments)  # type: ignore[no-any-return]

    return call


def checked(result: int, call: str, path: bytes | None = None) -> int:
    """*result*, unless it says that the call failed. Raises SyscallError."""
    if result < 0:
        raise SyscallError(ctypes.get_errno(), call, path)
    return result


def named(call: str, function: Callable[..., T], *arguments: object) -> T:
    """*function*(*arguments*), where an OSError gets the name of the call and the first path among the arguments.

    For calls that the standard library or a package makes for us. Both turn some EINVAL into ValueError, or find it
    themselves before the kernel could. Raises SyscallError.
    """
    path = next((argument for argument in arguments if isinstance(argument, bytes)), None)
    try:
        return function(*arguments)
    except OSError as error:
        raise SyscallError(error.errno or 0, call, path) from error
    except ValueError as error:
        raise SyscallError(errno.EINVAL, call, path) from error
