"""A policy in full: every key with the value that holds, and where it comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtiofs_sandbox.policies import control
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import Origin, shown
from virtiofs_sandbox.policies.share import ControlLimits, IdMap, Program, RequestLimits, Share
from virtiofs_sandbox.policies.values import shown_byte_rate, shown_bytes

TABLES = ("share", "cache", "identity", "paths", "limits", "sandbox", "worker")
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@dataclass(frozen=True)
class Entry:
    """One key. *value* None: it is not set, and *meaning* says what holds."""

    key: tuple[str, ...]
    value: Any
    origin: Origin
    meaning: str = ""

    @property
    def dotted(self) -> str:
        return ".".join(self.key)


def entries(policy: Policy) -> tuple[Entry, ...]:
    """Every key of the policy in the order of the reference."""
    said = [*_share(policy), *_cache(policy), *_identity(policy.share), *_rest(policy.share)]
    return tuple(Entry(key, value, policy.origin(".".join(key)), meaning) for key, value, meaning in said)


def as_toml(policy: Policy, *, origins: bool) -> str:
    """A policy file that says everything: it loads as the same share. With *origins*, each line ends with its own."""
    lines = [f"# {shown(policy.file)}"] if origins else []
    for table in TABLES:
        lines += ["", f"[{table}]"]
        for entry in entries(policy):
            if entry.key[0] == table:
                lines += _line(entry, origins=origins)
    return "\n".join(lines).lstrip("\n") + "\n"


def as_json(policy: Policy) -> str:
    """The same for programs: values and origins by dotted key; what is not set is null."""
    all_of_it = entries(policy)
    document = {
        "name": policy.name,
        "file": shown(policy.file),
        "values": {entry.dotted: entry.value for entry in all_of_it},
        "origins": {entry.dotted: str(entry.origin) for entry in all_of_it},
    }
    return json.dumps(document, indent=2) + "\n"


_Said = tuple[tuple[str, ...], Any, str]


def _share(policy: Policy) -> Iterable[_Said]:
    share, socket = policy.share, policy.socket
    if share.source is not None:
        yield ("share", "source"), _path(share.source), ""
    for child in share.children:
        yield (
            ("share", "tree", child.name),
            {"source": _path(child.source), "access": child.access.value},
            "",
        )
    yield ("share", "tag"), share.tag, ""
    yield ("share", "access"), share.access.value, ""
    yield ("share", "socket", "path"), _path(socket.path), ""
    yield ("share", "socket", "mode"), f"{socket.mode:04o}", ""
    yield ("share", "socket", "owner"), socket.owner, "the caller"
    yield ("share", "socket", "group"), socket.group, "the caller's"
    yield ("share", "socket", "label"), socket.label, "by the machine's policy"
    yield ("share", "max_clients"), share.max_clients, ""
    yield ("share", "xattr"), share.xattr, ""
    yield ("share", "log_level"), share.log_level.value, ""
    yield ("share", "vms"), list(policy.vms) or None, "any"
    listen = {True: "persistent", False: "once", None: None}[policy.persistent]
    yield ("share", "listen"), listen, "persistent; once by virtiofsd's command line"


def _cache(policy: Policy) -> Iterable[_Said]:
    share = policy.share
    if policy.intent is None:
        yield ("cache", "mode"), share.cache.value, ""
    else:
        yield ("cache", "intent"), policy.intent, ""
        yield ("cache", "mode"), None, f"{share.cache.value}, by intent"
    yield ("cache", "writeback"), share.writeback, ""
    timeout = None if share.timeout is None else f"{round(share.timeout * 1000)}ms"
    yield ("cache", "timeout"), timeout, "by mode"


def _identity(share: Share) -> Iterable[_Said]:
    identity = share.identity
    yield ("identity", "map"), None if identity.map is None else identity.map.value, "as the tier allows"
    if identity.map is IdMap.SQUASH:
        owner = None if identity.uid is None else f"{identity.uid}:{identity.gid}"
        yield ("identity", "owner"), owner, "the caller"
    if identity.map is IdMap.RANGE:
        of_host = "subuid" if identity.first is None else {"first": identity.first, "count": identity.count}
        yield ("identity", "range"), of_host, ""
        yield ("identity", "idmapped"), identity.idmapped, ""
    yield ("identity", "unmapped"), identity.unmapped.value, ""


def _rest(share: Share) -> Iterable[_Said]:
    paths = share.paths
    yield ("paths", "hide"), list(paths.hide), ""
    yield ("paths", "readonly"), list(paths.readonly), ""
    yield ("paths", "allow"), list(paths.allow), ""
    yield ("paths", "case"), paths.case.value, ""
    yield ("paths", "strict_links"), paths.strict_links, ""
    yield from _limits(share.limits)
    yield from _control(share.control)
    yield ("limits", "group", "name"), None if share.group is None else share.group.name, "none"
    yield ("limits", "group", "weight"), None if share.group is None else share.group.weight, "100"
    yield ("sandbox", "minimum"), share.sandbox.minimum.value, ""
    yield ("sandbox", "seccomp"), share.sandbox.seccomp.value, ""
    yield ("worker", "program"), _program(share.program), "our own worker"
    yield ("worker", "queues"), share.queues, ""
    stuck_after = "never" if share.stuck_after is None else f"{round(share.stuck_after * 1000)}ms"
    yield ("worker", "stuck_after"), stuck_after, ""


def _program(program: Program | None) -> str | dict[str, Any] | None:
    if program is None:
        return None
    table: dict[str, Any] = {"path": _path(program.path)}
    if program.loader is not None:
        table |= {"loader": _path(program.loader), "libraries": [_path(directory) for directory in program.libraries]}
    if program.arguments:
        table["arguments"] = list(program.arguments)
    return table if len(table) > 1 else _path(program.path)


def _limits(limits: RequestLimits | None) -> Iterable[_Said]:
    some = limits or RequestLimits()
    for key, rate in (("read", some.read), ("write", some.write)):
        yield ("limits", "requests", key), None if rate is None else shown_byte_rate(rate), "no limit"
    rates = (("read-ops", some.read_ops), ("write-ops", some.write_ops), ("metadata-ops", some.metadata_ops))
    for key, rate in rates:
        yield ("limits", "requests", key), None if rate is None else f"{rate}/s", "no limit"
    for key, seconds in (("burst", some.burst), ("max-delay", some.max_delay)):
        yield ("limits", "requests", key), None if limits is None else f"{round(seconds * 1000)}ms", "no limit"


def _control(limits: ControlLimits) -> Iterable[_Said]:
    disk, memory, cpu = limits.disk, limits.memory, limits.cpu
    for key, rate in (("read", disk.read), ("write", disk.write)):
        yield ("limits", "disk", key), None if rate is None else shown_byte_rate(rate), "no limit"
    for key, rate in (("read-ops", disk.read_ops), ("write-ops", disk.write_ops)):
        yield ("limits", "disk", key), None if rate is None else f"{rate}/s", "no limit"
    yield ("limits", "disk", "weight"), disk.weight, "100"
    yield ("limits", "disk", "latency"), None if disk.latency is None else f"{round(disk.latency * 1000)}ms", "none"
    for key, size in (("high", memory.high), ("max", memory.max)):
        yield ("limits", "memory", key), None if size is None else shown_bytes(size), "no limit"
    yield ("limits", "cpu", "max"), None if cpu.max is None else control.processor(cpu.max), "no limit"
    yield ("limits", "cpu", "weight"), cpu.weight, "100"
    yield ("limits", "pids", "max"), limits.pids, "no limit"
    yield ("limits", "unenforceable"), limits.unenforceable.value, ""
    if limits.parent is not None:
        yield ("limits", "parent"), None, f"{limits.parent}, by the site"


def _line(entry: Entry, *, origins: bool) -> list[str]:
    name = ".".join(map(_key, entry.key[1:]))
    if entry.value is None:
        return [f"# {name}: {entry.meaning}  # {entry.origin}"] if origins else []
    text = f"{name} = {_value(entry.value)}"
    return [f"{text}  # {entry.origin}" if origins else text]


def _key(text: str) -> str:
    return text if text and set(text) <= _BARE else _value(text)


def _value(value: Any) -> str:  # noqa: ANN401 - whatever TOML can say
    """TOML for a value: its basic strings are those of JSON, but for DEL."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _path(path: Path) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")
