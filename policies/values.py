"""Single values of a policy: what each may be, and what it means. Refused with the reason and what is accepted."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from virtiofs_sandbox.policies.patterns import PatternError, split
from virtiofs_sandbox.policies.share import ShareError, check_tag

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", re.ASCII)
_BYTE_RATE = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,3})?)(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)/s", re.ASCII)
_OPERATION_RATE = re.compile(r"([0-9]{1,13})/s", re.ASCII)
_LABEL = re.compile(r"[!-9;-~]{1,64}(:[!-9;-~]{1,64}){2}(:[!-~]{1,512})?", re.ASCII)
_GROUP_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_LOOPBACK = re.compile(r"(127\.0\.0\.1|\[::1\]):([0-9]{1,5})", re.ASCII)
MetricsAddress = Path | tuple[str, int]
"""A socket's path, or host and port."""
BYTE_UNITS = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
}
# The least a guest can be made to ask for at once is 64 KiB, which then takes four seconds.
MIN_BYTE_RATE = 16 << 10
MAX_RATE = 1 << 40
_MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
# What the cache modes metadata and always give by themselves.
MAX_DURATION = 24 * 3600.0
MAX_NAME_BYTES = 255
# uid_t and gid_t have 32 bits, and the last number means "none" to chown(2).
MAX_ID = 2**32 - 2


class Refused(Exception):  # noqa: N818 - it says what happened to the value
    """str() completes "KEY: …"."""


def absolute_path(text: str) -> Path:
    """A path from the root, with symbolic links as they are."""
    if not text.startswith("/"):
        raise Refused(f"{quoted(text)} is no absolute path; write it from the root, as in /srv/data")
    if "\0" in text:
        raise Refused("a path has no NUL character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise Refused(f"{quoted(text)} is no valid Unicode") from None
    return Path(os.path.normpath(text))


def tag(text: str) -> str:
    try:
        return check_tag(text)
    except ShareError as error:
        raise Refused(str(error)) from error


def mode(text: str) -> int:
    """Permissions in octal, as chmod(1) takes them."""
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII):
        raise Refused(f'{quoted(text)} is no octal mode; "0600" to "0777" are accepted, as chmod takes them')
    return int(text, 8)


def group(value: str | int) -> int:
    """The gid of a group, given by name or number."""
    if isinstance(value, int) or value.isdecimal():
        return _number("group", value)
    try:
        return grp.getgrnam(value).gr_gid
    except KeyError:
        raise Refused(f"there is no group {quoted(value)} on this machine") from None


def user(value: str | int) -> int:
    """The uid of a user, given by name or number."""
    return _number("user", value) if isinstance(value, int) else _user(value)


def label(text: str) -> str:
    """An SELinux context: user, role, type and perhaps a range."""
    if not _LABEL.fullmatch(text):
        raise Refused(
            f'{quoted(text)} is no SELinux context; "USER:ROLE:TYPE" or "USER:ROLE:TYPE:RANGE" is accepted, as ls -Z '
            "shows it"
        )
    return text


def owner(text: str) -> tuple[int, int]:
    """uid and gid, from "USER:GROUP" by name or number."""
    parts = text.split(":")
    if len(parts) != 2 or not all(parts):
        raise Refused(f'{quoted(text)} is no owner; "USER:GROUP" is accepted, by name or number, as in "1000:1000"')
    user, of_group = parts
    return _user(user), group(of_group)


def _user(text: str) -> int:
    if text.isdecimal():
        return _number("user", text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise Refused(f"there is no user {quoted(text)} on this machine") from None


def _number(what: str, value: str | int) -> int:
    number = int(value) if isinstance(value, int) or len(value) <= len(str(MAX_ID)) else MAX_ID + 1
    if not 0 <= number <= MAX_ID:
        raise Refused(f"{what} {value} is out of range; 0 to {MAX_ID} are accepted")
    return number


def duration(text: str) -> float:
    """Seconds, from a number with its unit."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise Refused(f'{quoted(text)} is no duration; a number with ms, s, m or h is accepted, as in "500ms" or "1s"')
    milliseconds = float(found[1]) * _MILLISECONDS[found[2]]
    if milliseconds != int(milliseconds):
        raise Refused(f"{quoted(text)} is finer than a millisecond")
    if milliseconds / 1000 > MAX_DURATION:
        raise Refused(f'{quoted(text)} is too long; at most "24h" is accepted')
    return milliseconds / 1000


def byte_rate(text: str) -> int:
    """Bytes a second."""
    found = _BYTE_RATE.fullmatch(text)
    if found is None:
        raise Refused(f'{quoted(text)} is no rate; a number with its unit is accepted, as in "200MiB/s" or "1.5GB/s"')
    return _rate(text, whole_bytes(text, found[1], found[2]), MIN_BYTE_RATE, '"16KiB/s" to "1TiB/s"')


def whole_bytes(text: str, number: str, unit: str) -> int:
    """*number* of *unit*, both as they stand in *text*."""
    amount = Decimal(number) * BYTE_UNITS[unit]
    if amount != int(amount):
        raise Refused(f"{quoted(text)} is no whole number of bytes")
    return int(amount)


def shown_bytes(count: int) -> str:
    """Bytes in the largest unit that says them exactly."""
    return min((f"{count // size}{unit}" for unit, size in BYTE_UNITS.items() if count % size == 0), key=len)


def shown_byte_rate(rate: int) -> str:
    """Bytes a second, likewise."""
    return f"{shown_bytes(rate)}/s"


def operation_rate(text: str) -> int:
    """Operations a second."""
    found = _OPERATION_RATE.fullmatch(text)
    if found is None:
        raise Refused(f'{quoted(text)} is no rate of operations; a whole number with /s is accepted, as in "2000/s"')
    return _rate(text, int(found[1]), 1, f'"1/s" to "{MAX_RATE}/s"')


def _rate(text: str, rate: int, lowest: int, accepted: str) -> int:
    if not lowest <= rate <= MAX_RATE:
        raise Refused(f"{quoted(text)} is out of range; {accepted} is accepted, and the key left out means no limit")
    return rate


def burst(text: str) -> float:
    return within(text, 0.001, 60.0, '"1ms" to "1m"')


def max_delay(text: str) -> float:
    return within(text, 0.001, MAX_DURATION, '"1ms" to "24h"')


def stuck_after(text: str) -> float | None:
    """Seconds, None for never."""
    return None if text == "never" else within(text, 10.0, MAX_DURATION, '"10s" to "24h", or "never"')


def within(text: str, shortest: float, longest: float, accepted: str) -> float:
    """Seconds, of a duration between two."""
    seconds = duration(text)
    if not shortest <= seconds <= longest:
        raise Refused(f"{quoted(text)} is out of range; {accepted} is accepted")
    return seconds


def between(lowest: int, highest: int) -> Callable[[int], int]:
    """The judge of a number."""

    def judge(number: int) -> int:
        if not lowest <= number <= highest:
            raise Refused(f"{number} is out of range; {lowest} to {highest} are accepted")
        return number

    return judge


def pattern(text: str) -> str:
    try:
        split(text)
    except PatternError as error:
        raise Refused(f"{quoted(text)} is no pattern: {error}") from error
    return text


def child_name(name: str) -> str:
    """One component of a path."""
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise Refused(f"{quoted(name)} is no name for a directory; one component without '/' is accepted")
    if not name.isprintable():
        raise Refused(f"{quoted(name)} has characters that cannot be printed")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise Refused(f"{quoted(name)} has {len(name.encode())} bytes; at most {MAX_NAME_BYTES} are accepted")
    return name


def machine(name: str) -> str:
    """The name of a virtual machine, in which * and ? stand for others."""
    if not name.isprintable() or not name or len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        raise Refused(f"{quoted(name)} is no name of a machine; 1 to {MAX_NAME_BYTES} printable bytes are accepted")
    return name


def group_name(name: str) -> str:
    """The name of a group of shares, which is a file's name too."""
    if not _GROUP_NAME.fullmatch(name):
        raise Refused(f"{quoted(name)} is no name of a group; letters, digits, - and _ are accepted, at most 64")
    return name


def metrics_address(text: str) -> MetricsAddress:
    """A socket's path, or host and port of an address that no other machine reaches."""
    if text.startswith("/"):
        return absolute_path(text)
    found = _LOOPBACK.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise Refused(
            f"{quoted(text)} is neither a socket's path nor a port of this machine alone; "
            "accepted are an absolute path, 127.0.0.1:PORT and [::1]:PORT"
        )
    return found[1].strip("[]"), int(found[2])


def shown_metrics_address(address: MetricsAddress) -> str:
    if isinstance(address, Path):
        return str(address)
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def quoted(value: object) -> str:
    """A value of the file as it can stand in one line of text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 60 else f"{value[:57]}..."
        return f'"{text}"' if text.isprintable() and '"' not in text else repr(text)
    return str(value)
