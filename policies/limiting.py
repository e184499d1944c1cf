"""What the limits of a running share may be changed to: below what its policy allows, never above (I3).

The policy as it was last read is the bound. What is asked for is held against that, not against what holds now, so
that a limit that was lowered can be raised again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from virtiofs_sandbox.policies import values
from virtiofs_sandbox.policies.bounding import undividable
from virtiofs_sandbox.policies.problems import closest, shown
from virtiofs_sandbox.policies.share import RequestLimits, Share

NONE = "none"


@dataclass(frozen=True)
class Key:
    """One rate of [limits.requests] or [limits.disk]: *field* is that of RequestLimits or DiskLimits."""

    table: Literal["requests", "disk"]
    field: str
    unit: Literal["bytes/s", "ops/s"]

    def of(self, share: Share) -> int | None:
        """Bytes or operations a second; None: no limit."""
        table = share.limits if self.table == "requests" else share.control.disk
        rate: int | None = None if table is None else getattr(table, self.field)
        return rate

    def parse(self, text: str) -> int:
        """Raises values.Refused."""
        return values.byte_rate(text) if self.unit == "bytes/s" else values.operation_rate(text)

    def show(self, rate: int | None) -> str:
        if rate is None:
            return NONE
        return values.shown_byte_rate(rate) if self.unit == "bytes/s" else f"{rate}/s"


KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "read": Key("requests", "read", "bytes/s"),
        "write": Key("requests", "write", "bytes/s"),
        "read-ops": Key("requests", "read_ops", "ops/s"),
        "write-ops": Key("requests", "write_ops", "ops/s"),
        "metadata-ops": Key("requests", "metadata_ops", "ops/s"),
        "disk.read": Key("disk", "read", "bytes/s"),
        "disk.write": Key("disk", "write", "bytes/s"),
        "disk.read-ops": Key("disk", "read_ops", "ops/s"),
        "disk.write-ops": Key("disk", "write_ops", "ops/s"),
    }
)
# What is no rate stays as the policy has it: it says how limits work, or may cost a worker its life at once.
_POLICY_ALONE = ("burst", "max-delay", "disk.weight", "disk.latency", "unenforceable", "parent")
_TABLES_ALONE = ("memory.", "cpu.", "pids.", "group.")


class LimitError(Exception):
    """Assignments that cannot be carried out; str() has one sentence for each, beginning with its key."""


class LimitWidensError(LimitError):
    """An assignment asks for more than the policy allows."""


def limited(policy: Share, now: Share, assignments: Mapping[str, str]) -> Share:
    """*now* with the assignments carried out, all of them or none. *policy* is what is allowed at most.

    "none" takes back what was set besides the policy: its own value holds again. Raises LimitError, LimitWidensError.
    """
    wrong, wider, rates = [], [], {}
    for said, text in assignments.items():
        name = said.removeprefix("limits.").removeprefix("requests.")
        key = KEYS.get(name)
        if key is None:
            wrong.append(f"{shown(said)}: {_unknown(name)}")
            continue
        if policy.program is not None and key.table == "requests":
            wrong.append(f"{name}: {shown(policy.program.path)} counts no requests; those of the disk can be limited")
            continue
        if name in rates:
            wrong.append(f"{name}: it is given twice")
            continue
        most = key.of(policy)
        try:
            rates[name] = most if text == NONE else key.parse(text)
        except values.Refused as error:
            wrong.append(f'{name}: {error}; or "{NONE}"')
            continue
        if _is_more(rates[name], most):
            wider.append(f"{name}: {key.show(rates[name])} would widen the policy, which allows {key.show(most)}")
    if wrong:
        raise LimitError("\n".join(wrong + wider))
    if wider:
        raise LimitWidensError("\n".join(wider))
    changed = _with(now, rates)
    if small := [f"{name}: {fault}" for name, fault in undividable(changed.limits, changed.max_clients)]:
        raise LimitError("\n".join(small))
    return changed


def differences(old: Share, new: Share) -> Iterator[str]:
    """What of the limits differs, in words."""
    for name, key in KEYS.items():
        if key.of(old) != key.of(new):
            yield f"{name} {key.show(key.of(old))} -> {key.show(key.of(new))}"


def changed_rates(old: Share, new: Share) -> dict[str, int | None]:
    """What of the limits differs, as *new* has it: bytes or operations a second, None for no limit."""
    return {name: key.of(new) for name, key in KEYS.items() if key.of(old) != key.of(new)}


def _is_more(rate: int | None, most: int | None) -> bool:
    return most is not None and (rate is None or rate > most)


def _with(share: Share, rates: Mapping[str, int | None]) -> Share:
    said: dict[str, dict[str, int | None]] = {"requests": {}, "disk": {}}
    for name, rate in rates.items():
        said[KEYS[name].table][KEYS[name].field] = rate
    requests = replace(share.limits or RequestLimits(), **said["requests"])  # type: ignore[arg-type]  # all are rates
    disk = replace(share.control.disk, **said["disk"])
    changed = replace(share, limits=requests, control=replace(share.control, disk=disk))
    some = any(key.of(changed) is not None for key in KEYS.values() if key.table == "requests")
    return changed if some else replace(changed, limits=None)


def _unknown(name: str) -> str:
    if name in _POLICY_ALONE or name.startswith(_TABLES_ALONE):
        return "only rates are changed by command; change the policy file, and reload"
    return f"there is no such limit{closest(name, KEYS)}; there are {', '.join(KEYS)}"
