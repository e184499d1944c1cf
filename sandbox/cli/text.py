"""Writing to the terminal, or to whatever stands in for one."""

from __future__ import annotations

import contextlib
import os

STANDARD_OUTPUT = 1
STANDARD_ERROR = 2


def hold_standard_descriptors() -> None:
    """Whichever of the three is closed leads nowhere from now on.

    Else the next socket or file to be opened would get its number, and what is meant for a reader be written there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def write_line(descriptor: int, text: str) -> None:
    """Unbuffered; a reader that is gone or does not read ends no service: the line is lost."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))


def complain(command: str, sentence: object) -> None:
    """An error that ends the command; it may have several lines, one for each thing that is wrong."""
    for line in str(sentence).splitlines():
        write_line(STANDARD_ERROR, f"virtiofs-sandbox {command}: {line}")
