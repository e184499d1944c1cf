"""What the limits of a running share may be changed to: below what its policy allows, never above (I3).

The policy as it was last read is the bound. What is asked for is held against that, not against what holds now, so
that a limit that was lowered can be raised again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from virtiofs_sandbox.policies import values
from virtiofs_sandbox.policies.display import byte_rate
from virtiofs_sandbox.policies.problems import closest, shown
from virtiofs_sandbox.policies.share import RequestLimits

NONE = "none"
_PREFIX = "limits.requests."


@dataclass(frozen=True)
class Key:
    """One key of [limits.requests] that a running share can be given another value of."""

    field: str
    parse: Callable[[str], int]
    show: Callable[[int], str]
    unit: Literal["bytes/s", "ops/s"]

    def of(self, limits: RequestLimits | None) -> int | None:
        value: int | None = None if limits is None else getattr(limits, self.field)
        return value


def _operations(rate: int) -> str:
    return f"{rate}/s"


KEYS: Mapping[str, Key] = {
    "read": Key("read", values.byte_rate, byte_rate, "bytes/s"),
    "write": Key("write", values.byte_rate, byte_rate, "bytes/s"),
    "read-ops": Key("read_ops", values.operation_rate, _operations, "ops/s"),
    "write-ops": Key("write_ops", values.operation_rate, _operations, "ops/s"),
    "metadata-ops": Key("metadata_ops", values.operation_rate, _operations, "ops/s"),
}
# Keys of the policy that are not changed from outside it, and why.
_FIXED = {
    "burst": "it is the policy file's alone",
    "max-delay": "it is the policy file's alone",
}
_NOT_YET = ("disk.", "memory.", "cpu.", "pids.", "group.")


class LimitError(Exception):
    """An assignment that cannot be carried out; str() has one sentence for each, beginning with its key."""


class LimitWidensError(LimitError):
    """An assignment asks for more than the policy allows."""


def limited(
    policy: RequestLimits | None, now: RequestLimits | None, assignments: Mapping[str, str]
) -> RequestLimits | None:
    """*now* with the assignments carried out, all of them or none. *policy* is what it allows at most.

    "none" takes back what was set besides the policy: its own value holds again. Raises LimitError, LimitWidensError.
    """
    wrong, wider, rates = [], [], {}
    for said, text in assignments.items():
        name = said.removeprefix(_PREFIX)
        key = KEYS.get(name)
        if key is None:
            wrong.append(f"{shown(said)}: {_unknown(name)}")
            continue
        most = key.of(policy)
        try:
            rate = most if text == NONE else key.parse(text)
        except values.Refused as error:
            wrong.append(f'{name}: {error}; or "{NONE}"')
            continue
        if most is not None and rate is not None and rate > most:
            wider.append(f"{name}: {key.show(rate)} would widen the policy, which allows {key.show(most)}")
        rates[key.field] = rate
    if wrong:
        raise LimitError("\n".join(wrong + wider))
    if wider:
        raise LimitWidensError("\n".join(wider))
    changed = replace(now or policy or RequestLimits(), **rates)  # type: ignore[arg-type]  # the rates are int or None
    return changed if any(key.of(changed) is not None for key in KEYS.values()) else None


def _unknown(name: str) -> str:
    if name in _FIXED:
        return _FIXED[name]
    if f"{name}.".startswith(_NOT_YET):
        return "not in this version; limits on requests are: " + ", ".join(KEYS)
    return f"there is no such limit{closest(name, KEYS)}; there are {', '.join(KEYS)}"
