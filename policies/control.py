"""Limits that control groups hold: single values, and how they are written."""

from __future__ import annotations

import os
import re
from decimal import Decimal

from virtiofs_sandbox.policies.share import CpuQuota
from virtiofs_sandbox.policies.values import Refused, quoted, whole_bytes, within

_SIZE = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,3})?)(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,6})%", re.ASCII)
_QUOTA = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)ms/([0-9]{1,4}(?:\.[0-9]{1,3})?)ms", re.ASCII)
# Two workers, one that serves and one that is warm, with everything they load.
MIN_MEMORY = 32 << 20
MAX_MEMORY = 1 << 50
MAX_WEIGHT = 10_000
# A keeper and a worker have up to a dozen threads together, and the next jail is there before the last one is gone.
MIN_PIDS = 32
MAX_PIDS = 4_194_304
_PERIOD = 100_000
# What the kernel takes (sched-bwc.rst), in microseconds.
_MIN_QUOTA, _MIN_PERIOD, _MAX_PERIOD = 1000, 1000, 1_000_000
_MAX_PERCENT = 100 * 8192


def memory(text: str) -> int:
    """Bytes."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise Refused(f'{quoted(text)} is no size; a number with its unit is accepted, as in "512MiB" or "1.5GB"')
    amount = whole_bytes(text, found[1], found[2])
    if not MIN_MEMORY <= amount <= MAX_MEMORY:
        raise Refused(
            f'{quoted(text)} is out of range; "32MiB" to "1024TiB" is accepted, and the key left out means no limit'
        )
    return amount


def cpu(text: str) -> CpuQuota:
    """A share of one processor, or a time in a time."""
    if found := _PERCENT.fullmatch(text):
        percent = int(found[1])
        if not 1 <= percent <= _MAX_PERCENT:
            raise Refused(
                f'{quoted(text)} is out of range; "1%" to "{_MAX_PERCENT}%" is accepted, '
                "and the key left out means no limit"
            )
        return CpuQuota(percent * _PERIOD // 100, _PERIOD)
    if found := _QUOTA.fullmatch(text):
        quota, period = (int(Decimal(number) * 1000) for number in found.groups())
        if quota < _MIN_QUOTA or not _MIN_PERIOD <= period <= _MAX_PERIOD:
            raise Refused(
                f'{quoted(text)} is out of range; at least "1ms" in a period of "1ms" to "1000ms" is accepted'
            )
        return CpuQuota(quota, period)
    raise Refused(
        f'{quoted(text)} is no share of a processor; accepted: "50%" (of one; "200%" are two), '
        'or a time in a period, as in "20ms/100ms"'
    )


def latency(text: str) -> float:
    """Seconds."""
    return within(text, 0.001, 60.0, '"1ms" to "1m"')


def group(text: str) -> str:
    """A control group, from the root of its hierarchy on."""
    if not text.startswith("/") or text != os.path.normpath(text) or "\0" in text or text.startswith("//"):
        raise Refused(
            f"{quoted(text)} is no control group; its path from the root of the hierarchy is accepted, as "
            '/proc/PID/cgroup has it: "/machine.slice"'
        )
    return text


def processor(quota: CpuQuota) -> str:
    """What `cpu` takes."""
    if quota.period == _PERIOD and quota.quota % (_PERIOD // 100) == 0:
        return f"{quota.quota * 100 // _PERIOD}%"
    return f"{_milliseconds(quota.quota)}/{_milliseconds(quota.period)}"


def _milliseconds(microseconds: int) -> str:
    return f"{Decimal(microseconds) / 1000:f}ms"
