"""From what the files say to a policy: defaults filled in, keys held against each other, names turned into numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from virtiofs_sandbox.policies import control, programs, values
from virtiofs_sandbox.policies.bounding import undividable
from virtiofs_sandbox.policies.document import (
    BudgetTable,
    CacheTable,
    ChildTable,
    Document,
    IdentityTable,
    PathsTable,
    ProgramTable,
    RangeTable,
    SandboxTable,
    ShareTable,
    SocketTable,
    WorkerTable,
)
from virtiofs_sandbox.policies.layers import Merged
from virtiofs_sandbox.policies.limittables import (
    CpuTable,
    DiskRatesTable,
    DiskTable,
    GroupTable,
    LimitsTable,
    MemoryTable,
    PidsTable,
    RequestRatesTable,
    RequestsTable,
)
from virtiofs_sandbox.policies.matching import Matcher
from virtiofs_sandbox.policies.patterns import MAX_PATTERNS, PatternError
from virtiofs_sandbox.policies.places import SUFFIX, socket_directory
from virtiofs_sandbox.policies.policy import DEFAULT_MODE, Policy, Socket
from virtiofs_sandbox.policies.problems import Origin, PolicyError, Problem, closest
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Case,
    Child,
    ControlLimits,
    CpuLimits,
    DiskLimits,
    Identity,
    IdMap,
    LogLevel,
    Membership,
    MemoryLimits,
    PathRules,
    Program,
    Rates,
    RequestLimits,
    Sandbox,
    SeccompAction,
    Share,
    Tier,
    Unenforceable,
    Unmapped,
)

T = TypeVar("T")
D = TypeVar("D")

DEFAULT_WEIGHT = 100
# What an intent means: the cache mode, and whether the guest may keep what it wrote.
INTENTS = {
    "exclusive": (CacheMode.ALWAYS, True),
    "shared-read": (CacheMode.AUTO, False),
    "shared-write": (CacheMode.NEVER, False),
}


def settle(file: Path, merged: Merged) -> Policy:
    """The policy in *file*. Raises PolicyError with everything that does not go together."""
    return _Settling(file, merged).policy()


def _or(value: T | UnsetType, default: D) -> T | D:
    return default if isinstance(value, UnsetType) else value


def _of(text: str | UnsetType, parse: Callable[[str], T]) -> T | None:
    """What *text* means, if it is there."""
    return None if isinstance(text, UnsetType) else parse(text)


@dataclass
class _Settling:
    file: Path
    merged: Merged
    problems: list[Problem] = field(default_factory=list)

    def policy(self) -> Policy:
        document = msgspec.convert(self.merged.table(), Document)
        name = self.file.name.removesuffix(SUFFIX)
        if not name.isprintable():
            raise PolicyError.of_file(self.file, "its name has characters that cannot be printed; rename it")
        share = _or(document.share, ShareTable())
        source, children = self._directories(share)
        tag = self._needed(share.tag, "share.tag", "the name the guest mounts by")
        cache, writeback, timeout = self._cache(_or(document.cache, CacheTable()))
        paths = self._paths(_or(document.paths, PathsTable()), children)
        identity = self._identity(_or(document.identity, IdentityTable()))
        sandbox = _or(document.sandbox, SandboxTable())
        limits = self._limits(_or(_or(document.limits, LimitsTable()).requests, RequestsTable()))
        control_limits = self._control(_or(document.limits, LimitsTable()))
        max_clients = _or(share.max_clients, Share.max_clients)
        if max_clients > 1:
            self._several(max_clients, _or(document.cache, CacheTable()), writeback, limits, control_limits)
        group = self._group(_or(_or(document.limits, LimitsTable()).group, GroupTable()), _or(document.groups, {}))
        if group is not None:
            self._within(group, limits, control_limits.disk)
        socket = self._socket(share, name)
        if share.vms == ():
            self._report("share.vms", "it is empty; name at least one machine, or leave it out for any")
        program = self._program(_or(document.worker, WorkerTable()).program, group)
        queues = Share.queues if program is None else 1
        if self.problems:
            raise PolicyError(self.problems)
        return Policy(
            share=Share(
                name=name,
                source=source,
                tag=tag,
                access=Access(_or(share.access, Access.READ_WRITE.value)),
                cache=cache,
                timeout=timeout,
                writeback=writeback,
                xattr=_or(share.xattr, False),
                queues=_or(_or(document.worker, WorkerTable()).queues, queues),
                log_level=LogLevel(_or(share.log_level, LogLevel.INFO.value)),
                children=children,
                paths=paths,
                identity=identity,
                sandbox=Sandbox(
                    minimum=Tier(_or(sandbox.minimum, Sandbox.minimum.value)),
                    seccomp=SeccompAction(_or(sandbox.seccomp, Sandbox.seccomp.value)),
                ),
                limits=limits,
                control=control_limits,
                group=group,
                program=program,
                max_clients=max_clients,
                stuck_after=self._stuck_after(_or(document.worker, WorkerTable())),
            ),
            socket=socket,
            file=self.file,
            origins=self.merged.origins,
            intent=self.merged.values.get("cache.intent"),
            vms=_or(share.vms, ()),
            persistent=None if isinstance(share.listen, UnsetType) else share.listen == "persistent",
        )

    def _directories(self, share: ShareTable) -> tuple[Path | None, tuple[Child, ...]]:
        if not isinstance(share.source, UnsetType) and not isinstance(share.tree, UnsetType):
            self._report("share.tree", "share.source is there too; one directory or a tree of several is accepted")
            return None, ()
        if not isinstance(share.source, UnsetType):
            return resolved(share.source), ()
        if isinstance(share.tree, UnsetType):
            self._report("share.source", 'missing; accepted: an absolute path, as in source = "/srv/data"')
            return None, ()
        if not share.tree:
            self._report("share.tree", "it is empty; name at least one directory")
        return None, tuple(self._child(share, name, child) for name, child in share.tree.items())

    def _child(self, share: ShareTable, name: str, child: str | ChildTable) -> Child:
        limit = _or(share.access, Access.READ_WRITE.value)
        if isinstance(child, str):
            return Child(name, resolved(child), Access(limit))
        source = self._needed(child.source, f"share.tree.{name}", "source, an absolute path")
        access = _or(child.access, limit)
        if access == Access.READ_WRITE.value and limit == Access.READ_ONLY.value:
            self._report(
                f"share.tree.{name}",
                'access "read-write" is more than share.access allows, "read-only"; take one of them away',
            )
        return Child(name, resolved(source), Access(access))

    def _cache(self, cache: CacheTable) -> tuple[CacheMode, bool, float | None]:
        intent = cache.intent
        if not isinstance(intent, UnsetType) and not isinstance(cache.mode, UnsetType):
            self._report("cache.mode", "cache.intent is there too, and they say the same in two ways; keep one")
        mode, writeback = (CacheMode(_or(cache.mode, CacheMode.AUTO.value)), False)
        if not isinstance(intent, UnsetType):
            mode, writeback = INTENTS[intent]
        if cache.writeback is True and (intent in ("shared-read", "shared-write") or mode is CacheMode.NEVER):
            because = f'mode "{mode.value}"' if isinstance(intent, UnsetType) else f'intent "{intent}"'
            self._report(
                "cache.writeback",
                f"true does not go with {because}: others would miss what the guest keeps to itself; "
                'accepted: false, or intent "exclusive"',
            )
        timeout = None if isinstance(cache.timeout, UnsetType) else values.duration(cache.timeout)
        return mode, _or(cache.writeback, writeback), timeout

    def _identity(self, identity: IdentityTable) -> Identity:
        wanted = None if isinstance(identity.map, UnsetType) else IdMap(identity.map)
        for key, value, needs in (
            ("owner", identity.owner, IdMap.SQUASH),
            ("range", identity.range, IdMap.RANGE),
            ("idmapped", identity.idmapped, IdMap.RANGE),
        ):
            if value is not UNSET and value is not False and wanted is not needs:
                self._report(f"identity.{key}", f'it needs map = "{needs.value}" beside it')
        uid, gid = (None, None) if isinstance(identity.owner, UnsetType) else values.owner(identity.owner)
        first, count = self._range(identity.range)
        return Identity(
            map=wanted,
            uid=uid,
            gid=gid,
            first=first,
            count=count,
            idmapped=_or(identity.idmapped, False),
            unmapped=Unmapped(_or(identity.unmapped, Unmapped.FORBID.value)),
        )

    def _range(self, wanted: str | RangeTable | UnsetType) -> tuple[int | None, int | None]:
        if not isinstance(wanted, RangeTable):
            return None, None
        if isinstance(wanted.first, UnsetType) or isinstance(wanted.count, UnsetType):
            self._report("identity.range", "accepted: both first and count, as in { first = 100000, count = 65536 }")
            return None, None
        if wanted.first + wanted.count - 1 > values.MAX_ID:
            self._report(
                "identity.range", f"it ends beyond the last id; first + count may be {values.MAX_ID + 1} at most"
            )
        return wanted.first, wanted.count

    def _paths(self, paths: PathsTable, children: Iterable[Child]) -> PathRules:
        rules = PathRules(
            hide=_or(paths.hide, ()),
            readonly=_or(paths.readonly, ()),
            allow=_or(paths.allow, ()),
            case=Case(_or(paths.case, Case.SENSITIVE.value)),
            strict_links=_or(paths.strict_links, False),
        )
        # The worker freezes a read-only directory of a tree by one pattern more.
        frozen = sum(child.access is Access.READ_ONLY for child in children)
        count = len(rules.hide) + len(rules.readonly) + len(rules.allow) + frozen
        if count > MAX_PATTERNS:
            of_tree = f", {frozen} of them for read-only directories of the tree" if frozen else ""
            self._report("paths", f"there are {count} patterns{of_tree}; at most {MAX_PATTERNS} are accepted")
        try:
            Matcher.of(rules)
        except PatternError as error:
            self._report("paths.case", f"a pattern is none in small letters: {error}")
        return rules

    def _limits(self, table: RequestsTable) -> RequestLimits | None:
        bytes_of = [
            None if isinstance(said, UnsetType) else values.byte_rate(said) for said in (table.read, table.write)
        ]
        of_operations = (table.read_ops, table.write_ops, table.metadata_ops)
        operations = [None if isinstance(said, UnsetType) else values.operation_rate(said) for said in of_operations]
        if all(rate is None for rate in (*bytes_of, *operations)):
            for key, value in (("burst", table.burst), ("max-delay", table.max_delay)):
                if value is not UNSET:
                    self._report(f"limits.requests.{key}", "there is no rate that it could hold for; set one beside it")
            return None
        read, write = bytes_of
        read_ops, write_ops, metadata_ops = operations
        return RequestLimits(
            read=read,
            write=write,
            read_ops=read_ops,
            write_ops=write_ops,
            metadata_ops=metadata_ops,
            burst=RequestLimits.burst if isinstance(table.burst, UnsetType) else values.burst(table.burst),
            max_delay=(
                RequestLimits.max_delay if isinstance(table.max_delay, UnsetType) else values.max_delay(table.max_delay)
            ),
        )

    def _control(self, limits: LimitsTable) -> ControlLimits:
        disk, memory, cpu = (
            _or(limits.disk, DiskTable()),
            _or(limits.memory, MemoryTable()),
            _or(limits.cpu, CpuTable()),
        )
        high, most = _of(memory.high, control.memory), _of(memory.max, control.memory)
        if high is not None and most is not None and high > most:
            self._report("limits.memory.high", "it is more than limits.memory.max, which would be met first")
        return ControlLimits(
            disk=DiskLimits(
                read=_of(disk.read, values.byte_rate),
                write=_of(disk.write, values.byte_rate),
                read_ops=_of(disk.read_ops, values.operation_rate),
                write_ops=_of(disk.write_ops, values.operation_rate),
                weight=_or(disk.weight, None),
                latency=_of(disk.latency, control.latency),
            ),
            memory=MemoryLimits(high, most),
            cpu=CpuLimits(_of(cpu.max, control.cpu), _or(cpu.weight, None)),
            pids=_or(_or(limits.pids, PidsTable()).max, None),
            unenforceable=Unenforceable(_or(limits.unenforceable, ControlLimits.unenforceable.value)),
            parent=_or(limits.parent, None),
        )

    def _several(
        self,
        number: int,
        cache: CacheTable,
        writeback: bool,
        limits: RequestLimits | None,
        control_limits: ControlLimits,
    ) -> None:
        """What does not go with several clients."""
        if cache.intent == "exclusive":
            self._report(
                "cache.intent",
                f'"exclusive" says that nobody but one guest uses the files, and share.max_clients is {number}; '
                'accepted beside it: "shared-read" or "shared-write"',
            )
        elif writeback:
            self._report(
                "cache.writeback",
                f"true does not go with share.max_clients = {number}: the others would miss what a guest keeps to "
                "itself; accepted beside it: false",
            )
        for name, fault in undividable(limits, number):
            self._report(f"limits.requests.{name}", fault)
        least_pids = control.MIN_PIDS // 2 * (number + 1)
        if control_limits.pids is not None and control_limits.pids < least_pids:
            self._report(
                "limits.pids.max",
                f"{control_limits.pids} are too few for the workers of share.max_clients = {number}; "
                f"accepted: {least_pids} or more",
            )

    def _stuck_after(self, worker: WorkerTable) -> float | None:
        said = _or(worker.stuck_after, "never" if worker.program is not UNSET else "")
        return values.stuck_after(said) if said else Share.stuck_after

    def _group(self, table: GroupTable, groups: Mapping[str, BudgetTable]) -> Membership | None:
        if isinstance(table.name, UnsetType):
            if table.weight is not UNSET:
                self._report("limits.group.weight", "there is no group that it could count in; set name beside it")
            return None
        budget = groups.get(table.name)
        if budget is None:
            there = f"there are {', '.join(sorted(groups))}" if groups else "there is none yet"
            self._report(
                "limits.group.name",
                f"there is no group {values.quoted(table.name)}{closest(table.name, groups)}; {there}: "
                f"[groups.NAME.requests] or [groups.NAME.disk] in defaults.toml makes one",
            )
            return None
        requests, disk = _rates(_or(budget.requests, RequestRatesTable())), _rates(_or(budget.disk, DiskRatesTable()))
        if requests == disk == Rates():
            self._report(
                "limits.group.name",
                f"the group {values.quoted(table.name)} has no rate in defaults.toml; set one in its requests or disk",
            )
        return Membership(table.name, _or(table.weight, DEFAULT_WEIGHT), requests, disk)

    def _within(self, group: Membership, requests: RequestLimits | None, disk: DiskLimits) -> None:
        """A limit above the budget would never be the one that holds."""
        for table, own, budget in (("requests", requests, group.requests), ("disk", disk, group.disk)):
            for field_ in dataclasses.fields(Rates):
                rate, most = getattr(own, field_.name, None), getattr(budget, field_.name)
                if rate is not None and most is not None and rate > most:
                    name = field_.name.replace("_", "-")
                    parent = f"groups.{group.name}.{table}.{name}"
                    where = self.merged.origins.get(parent, Origin())
                    show = values.shown_byte_rate if field_.name in ("read", "write") else "{}/s".format
                    self._report(
                        f"limits.{table}.{name}",
                        f"{show(rate)} is above the parent's: {parent} ({where}) is {show(most)} for all of the group",
                    )

    def _program(self, said: str | ProgramTable | UnsetType, group: Membership | None) -> Program | None:
        if isinstance(said, UnsetType):
            return None
        table = ProgramTable(path=said) if isinstance(said, str) else said
        if (table.loader is UNSET) != (table.libraries is UNSET):
            self._report("worker.program", "accepted: both loader and libraries, or none of them")
        for key, sentence in programs.conflicts(self.merged.values):
            self._report(key, sentence)
        if group is not None and group.requests != Rates():
            self._report(
                "limits.group.name",
                f"worker.program counts no requests, and the group {values.quoted(group.name)} has a budget of them; "
                "accepted: a group with a budget of the disk alone",
            )
        return Program(
            path=Path(self._needed(table.path, "worker.program", "path, an absolute path")),
            loader=_of(table.loader, values.absolute_path),
            libraries=tuple(map(values.absolute_path, _or(table.libraries, ()))),
            arguments=_or(table.arguments, ()),
        )

    def _socket(self, share: ShareTable, name: str) -> Socket:
        # A path alone was made a table of one when the files were merged.
        table = share.socket if isinstance(share.socket, SocketTable) else SocketTable()
        mode = DEFAULT_MODE if isinstance(table.mode, UnsetType) else values.mode(table.mode)
        group = None if isinstance(table.group, UnsetType) else values.group(table.group)
        owner = None if isinstance(table.owner, UnsetType) else values.user(table.owner)
        path = _of(table.path, values.absolute_path) or socket_directory() / f"{name}.sock"
        return Socket(path, mode, group, owner, _or(table.label, None))

    def _needed(self, value: str | UnsetType, key: str, what: str) -> str:
        if isinstance(value, UnsetType):
            self._report(key, f"missing; accepted: {what}")
            return "-"
        return value

    def _report(self, key: str, sentence: str) -> None:
        """Points at the key, or at what was said of it, or at the whole file."""
        said = [origin for other, origin in self.merged.origins.items() if f"{other}.".startswith(f"{key}.")]
        place = said[0] if said else Origin()
        self.problems.append(Problem(place.file or self.file, place.line, key, sentence))


def _rates(table: RequestRatesTable | DiskRatesTable) -> Rates:
    operations = {
        name: _of(said, values.operation_rate)
        for name in ("read_ops", "write_ops", "metadata_ops")
        for said in (getattr(table, name, UNSET),)
    }
    return Rates(_of(table.read, values.byte_rate), _of(table.write, values.byte_rate), **operations)


def resolved(path: str) -> Path:
    """The directory without symbolic links, as far as it is there: whether it is, is asked when it is shared."""
    try:
        return values.absolute_path(path).resolve()
    except (OSError, RuntimeError):
        return values.absolute_path(path)
