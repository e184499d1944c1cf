"""What a reload changes, and how far into a running jail each change reaches.

One table says it field by field. A jail is built for one share and stays that jail; what can change in it is what its
worker refuses and what is mounted in it. Everything else comes with the next jail.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from virtiofs_sandbox.confine.limits import worker_limits
from virtiofs_sandbox.confine.rules import literal, worker_rules
from virtiofs_sandbox.ipc.config import RATES, ConfigError, Limits, LiveSettings, Rules, encode_settings
from virtiofs_sandbox.policies.limiting import KEYS
from virtiofs_sandbox.policies.share import Child, RequestLimits, Share


class Reach(enum.Enum):
    """From the change that needs least to the one that cannot be made."""

    SERVICE = "the supervisor alone goes by it"
    GROUPS = "the running jail's control groups take it over"
    SETTINGS = "the running worker takes it over"
    MOUNTS = "the running jail takes it over, by mounts and then its worker"
    JAIL = "it takes a new jail"
    NONE = "a running share keeps it"

    @property
    def rank(self) -> int:
        return list(Reach).index(self)


REACH: Mapping[str, Reach] = MappingProxyType(
    {
        # Log lines, control groups and the control socket go by it.
        "name": Reach.NONE,
        "max_clients": Reach.SERVICE,
        "stuck_after": Reach.SERVICE,
        "control": Reach.GROUPS,
        "log_level": Reach.SETTINGS,
        "paths": Reach.SETTINGS,
        "limits": Reach.SETTINGS,
        "group": Reach.SETTINGS,
        "children": Reach.MOUNTS,
        # In the device's configuration space, which the guest has read.
        "tag": Reach.JAIL,
        # The mount, Landlock's rule on it, capabilities and id maps are made once.
        "source": Reach.JAIL,
        "access": Reach.JAIL,
        "identity": Reach.JAIL,
        "sandbox": Reach.JAIL,
        # Agreed with the guest when it mounts.
        "cache": Reach.JAIL,
        "timeout": Reach.JAIL,
        "writeback": Reach.JAIL,
        "xattr": Reach.JAIL,
        "queues": Reach.JAIL,
        # Settled when the jail is made.
        "program": Reach.JAIL,
    }
)


# As the policy calls it.
_SAID: Mapping[str, str] = MappingProxyType(
    {
        "limits": "limits.requests",
        "control": "limits",
        "group": "limits.group",
        "max_clients": "share.max_clients",
        "stuck_after": "worker.stuck_after",
        "program": "worker.program",
    }
)


@dataclass(frozen=True)
class Change:
    """One field of a share that a reload changes; *words* say from what to what."""

    field: str
    reach: Reach
    words: str


def changes(old: Share, new: Share) -> tuple[Change, ...]:
    """In the order of the fields. A share that becomes a tree, or stops being one, needs a new jail for that."""
    found = []
    for field, reach in REACH.items():
        before, after = getattr(old, field), getattr(new, field)
        if before == after:
            continue
        if reach is Reach.MOUNTS and not (old.children and new.children):
            reach = Reach.JAIL  # noqa: PLW2901 - an exception to the table
        if (old.program or new.program) and reach in (Reach.SETTINGS, Reach.MOUNTS):
            reach = Reach.JAIL  # noqa: PLW2901 - another: such a program is told nothing once it runs
        found.append(Change(field, reach, "; ".join(_words(_SAID.get(field, field), before, after))))
    return tuple(found)


def refusal(old: Share, new: Share) -> str | None:
    """Why *new* cannot take the place of *old* while it runs."""
    kept = [change.words for change in changes(old, new) if change.reach is Reach.NONE]
    if kept:
        return f"{'; '.join(kept)}: a running share keeps its name; stop it and start it anew"
    try:
        encode_settings(live_settings(new, new, ()))
    except ConfigError as error:
        return str(error)
    return None


def live_settings(jail: Share, new: Share, leaving: Iterable[str]) -> LiveSettings:
    """What the worker in a jail built for *jail* is told once the share is *new*.

    *leaving* are the names of children that are about to be detached, or that cannot be: they are hidden.
    """
    share = dataclasses.replace(jail, paths=new.paths, limits=new.limits, log_level=new.log_level)
    if jail.children and new.children:
        paths = dataclasses.replace(new.paths, hide=new.paths.hide + tuple(map(literal, leaving)))
        share = dataclasses.replace(share, paths=paths, children=new.children)
    return LiveSettings(rules=worker_rules(share), limits=worker_limits(share.limits), log_level=share.log_level.value)


def is_stricter(old: Rules, new: Rules) -> bool:
    """Whether *new* may forbid what *old* allowed. Patterns are compared as text, so in doubt it is."""
    return (
        not set(new.hide) <= set(old.hide)
        or not set(new.readonly) <= set(old.readonly)
        or bool(new.allow and not (old.allow and set(old.allow) <= set(new.allow)))
        or (new.strict_links and not old.strict_links)
        or (old.case != new.case and bool(new.hide or new.readonly or new.allow))
    )


def is_lower(old: Limits | None, new: Limits | None) -> bool:
    """Whether *new* may hold back what *old* let through."""
    if new is None:
        return False
    return any(
        lower is not None and (held is None or lower < held)
        for held, lower in (
            (None if old is None else getattr(old, name), getattr(new, name)) for name in (*RATES, "burst_ms")
        )
    )


def _words(field: str, before: object, after: object) -> Iterator[str]:
    """*before* and *after* differ."""
    if isinstance(before, RequestLimits) or isinstance(after, RequestLimits):
        before, after = before or RequestLimits(), after or RequestLimits()
    if isinstance(before, tuple) and isinstance(after, tuple):
        yield from _set_words(field, before, after)
    elif dataclasses.is_dataclass(before) and not isinstance(before, type) and type(before) is type(after):
        for part in dataclasses.fields(before):
            old, new = getattr(before, part.name), getattr(after, part.name)
            if old != new:
                # The keys of these tables are written with hyphens.
                key = part.name.replace("_", "-") if field.startswith("limits") else part.name
                yield from _words(f"{field}.{key}", old, new)
    else:
        yield f"{field} {_shown(field, before)} -> {_shown(field, after)}"


def _set_words(field: str, before: tuple[object, ...], after: tuple[object, ...]) -> Iterator[str]:
    gained = [_text(item) for item in after if item not in before]
    lost = [_text(item) for item in before if item not in after]
    if gained:
        yield f"{field} gains {', '.join(gained)}"
    if lost:
        yield f"{field} loses {', '.join(lost)}"
    if not gained and not lost:
        yield f"{field} in another order"


def _shown(field: str, value: object) -> str:
    """Rates as the policy writes them."""
    rate = KEYS.get(field.removeprefix("limits.").removeprefix("requests.")) if field.startswith("limits.") else None
    if rate is not None and (value is None or isinstance(value, int)):
        return rate.show(value)
    return _text(value)


def _text(value: object) -> str:
    match value:
        case enum.Enum():
            return str(value.value)
        case None:
            return "default"
        case bool():
            return "on" if value else "off"
        case str():
            return repr(value)
        case Child():
            return f"{value.name!r} ({value.source}, {value.access.value})"
        case _:
            return str(value)
