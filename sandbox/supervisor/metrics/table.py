"""Every metric of a share, in one table: name, kind, labels, and where its values come from (docs/metrics.md).

Labels have few values each: shares by name, and what is listed in code. A worker that lies about its counters changes
numbers of its own share, and brings about no label that is not here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from virtiofs_sandbox.ipc import opcodes
from virtiofs_sandbox.ipc.stats import BUCKET_BOUNDS, Ring, Throttled
from virtiofs_sandbox.policies.limiting import KEYS
from virtiofs_sandbox.policies.problems import shown
from virtiofs_sandbox.supervisor.readings import Reading
from virtiofs_sandbox.supervisor.states import State

PREFIX = "virtiofs_sandbox_"


@dataclass(frozen=True)
class Histogram:
    """*counts* at most each bound and, last, of all; *total* of what was measured."""

    counts: tuple[int, ...]
    total: float


Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram
Samples = Iterable[tuple[tuple[str, ...], Value]]
"""Values by those of the further labels."""


@dataclass(frozen=True)
class Metric:
    """*name* without PREFIX; *labels* besides `share`; *says* is its help text. *claimed* by workers: there is none of
    a share that another program than our own worker serves.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    says: str
    of: Callable[[Reading], Samples]
    claimed: bool = False


def _one(value: Callable[[Reading], float]) -> Callable[[Reading], Samples]:
    return lambda reading: [((), value(reading))]


def _info(reading: Reading) -> Samples:
    share = reading.share
    policy = "" if reading.policy is None else shown(reading.policy)
    yield (share.tag, reading.tier.value, share.access.value, share.cache.value, policy), 1


def _workers(reading: Reading) -> Samples:
    return [((state.name.lower(),), reading.workers.get(state, 0)) for state in State if state is not State.GONE]


def _by_opcode(counts: Mapping[int, int], unit: float = 1) -> Samples:
    """Numbers that are no request here are a guest's own: one label for all of them."""
    named: Counter[str] = Counter()
    for opcode, count in counts.items():
        named[opcodes.name(opcode)] += count
    return [((name,), count * unit) for name, count in named.items()]


def _errors(reading: Reading) -> Samples:
    for of_class, counts in reading.total.errors_by_class.items():
        for errno, count in counts.items():
            yield (of_class, errno), count


def _durations(reading: Reading) -> Samples:
    seconds: Counter[str] = Counter()
    for opcode, nanoseconds in reading.total.nanoseconds_by_opcode.items():
        seconds[opcodes.class_of(opcode)] += nanoseconds
    for of_class, counts in reading.total.latency.items():
        yield (of_class,), Histogram(tuple(accumulate(counts)), seconds[of_class] / 1e9)


def _throttled(field: Callable[[Throttled], float]) -> Callable[[Reading], Samples]:
    return lambda reading: [((of_class,), field(one)) for of_class, one in reading.total.throttled.items()]


def _rings(field: Callable[[Ring], int]) -> Callable[[Reading], Samples]:
    return lambda reading: [((str(number),), field(ring)) for number, ring in reading.total.rings.items()]


def _limits(unit: Literal["bytes/s", "ops/s"]) -> Callable[[Reading], Samples]:
    def samples(reading: Reading) -> Iterator[tuple[tuple[str, ...], Value]]:
        for name, key in KEYS.items():
            rate = key.of(reading.share) if key.unit == unit else None
            if rate is not None:
                yield (name,), rate

    return samples


def _disks(figure: str) -> Callable[[Reading], Samples]:
    return lambda reading: [((disk,), figures.get(figure, 0)) for disk, figures in reading.disks.items()]


def _oldest(reading: Reading) -> float:
    start = reading.total.oldest_start
    return max(0.0, (time.monotonic_ns() - start) / 1e9) if start else 0.0


def _denials(reading: Reading) -> Samples:
    return [(("seccomp",), reading.tally.refused_calls), (("landlock",), reading.tally.refused_accesses)]


_SEEN = (
    Metric("share_info", "gauge", ("tag", "tier", "access", "cache", "policy"), "What a share is; always 1.", _info),
    Metric("workers", "gauge", ("state",), "Workers in each state; one that is warm waits for a client.", _workers),
    Metric("clients", "gauge", (), "Monitors that are served now.", _one(lambda reading: len(reading.clients))),
    Metric("clients_served_total", "counter", (), "Monitors that got a worker.", _one(lambda r: r.tally.served)),
    Metric("clients_refused_total", "counter", (), "Monitors turned away: no place.", _one(lambda r: r.tally.refused)),
    Metric("restarts_total", "counter", (), "Workers that failed and were replaced.", _one(lambda r: r.restarts)),
    Metric("denials_total", "counter", ("by",), "What seccomp and Landlock refused to workers, as logged.", _denials),
)
_CLAIMED = (
    Metric(
        "requests_total",
        "counter",
        ("opcode",),
        "Requests by FUSE opcode; OTHER is what nobody knows.",
        lambda reading: _by_opcode(reading.total.requests_by_opcode),
    ),
    Metric(
        "request_seconds_total",
        "counter",
        ("opcode",),
        "Time that requests took, by FUSE opcode.",
        lambda reading: _by_opcode(reading.total.nanoseconds_by_opcode, 1e-9),
    ),
    Metric(
        "request_failures_total",
        "counter",
        ("opcode",),
        "Requests answered with an error, by FUSE opcode.",
        lambda reading: _by_opcode(reading.total.errors_by_opcode),
    ),
    Metric("errors_total", "counter", ("class", "errno"), "Requests answered with an error, by errno.", _errors),
    Metric(
        "request_duration_seconds",
        "histogram",
        ("class",),
        "How long requests took to serve, without what limits held them back before.",
        _durations,
    ),
    Metric("read_bytes_total", "counter", (), "Bytes that guests read.", _one(lambda r: r.total.bytes_read)),
    Metric("written_bytes_total", "counter", (), "Bytes that guests wrote.", _one(lambda r: r.total.bytes_written)),
    Metric(
        "oldest_request_seconds",
        "gauge",
        (),
        "For how long the oldest request has been served; 0 without one. What limits hold back does not count.",
        _one(_oldest),
    ),
    Metric("ring_depth", "gauge", ("ring",), "Requests in a ring, held back or served.", _rings(lambda r: r.depth)),
    Metric("ring_depth_highest", "gauge", ("ring",), "Most there were since launch.", _rings(lambda r: r.highest)),
    Metric("ring_batches_total", "counter", ("ring",), "Times answers were shown.", _rings(lambda r: r.batches)),
    Metric("ring_answers_total", "counter", ("ring",), "Answers shown to the guest.", _rings(lambda r: r.answers)),
    Metric("ring_errors_total", "counter", (), "Rings that broke and stopped.", _one(lambda r: r.total.ring_errors)),
    Metric("malformed_requests_total", "counter", (), "Requests of no form.", _one(lambda r: r.total.malformed)),
    Metric("interrupts_total", "counter", (), "Signals sent to guests.", _one(lambda r: r.total.interrupts)),
    Metric("kicks_total", "counter", (), "Signals that guests sent.", _one(lambda r: r.total.kicks)),
    Metric("log_lines_dropped_total", "counter", (), "Log lines lost.", _one(lambda r: r.total.log_dropped)),
    Metric("inodes", "gauge", (), "Inodes that guests hold.", _one(lambda r: r.total.inodes)),
    Metric("open_handles", "gauge", (), "Files and directories open.", _one(lambda r: r.total.handles)),
    Metric("inode_descriptors", "gauge", (), "Descriptors held for inodes.", _one(lambda r: r.total.descriptors)),
    Metric(
        "admitted_requests_total",
        "counter",
        ("class",),
        "Requests that limits let in; counted while there is any.",
        _throttled(lambda one: one.admitted),
    ),
    Metric(
        "delayed_requests_total", "counter", ("class",), "Of those, how many waited.", _throttled(lambda t: t.delayed)
    ),
    Metric(
        "delay_seconds_total",
        "counter",
        ("class",),
        "How long they waited, together.",
        _throttled(lambda one: one.nanoseconds_delayed / 1e9),
    ),
    Metric("admitted_bytes_total", "counter", ("class",), "Bytes they moved.", _throttled(lambda t: t.bytes_admitted)),
    Metric("overdue_requests_total", "counter", (), "Waited beyond max-delay.", _one(lambda r: r.total.overdue)),
)
_HELD = (
    Metric(
        "limit_bytes_per_second",
        "gauge",
        ("limit",),
        "Limits that hold now, by the policy's keys; none without one.",
        _limits("bytes/s"),
    ),
    Metric("limit_operations_per_second", "gauge", ("limit",), "The same of operations.", _limits("ops/s")),
    Metric("disk_read_bytes_total", "counter", ("disk",), "By the control group, under disk limits.", _disks("rbytes")),
    Metric("disk_written_bytes_total", "counter", ("disk",), "The same of writes.", _disks("wbytes")),
    Metric("disk_reads_total", "counter", ("disk",), "The same, in reads.", _disks("rios")),
    Metric("disk_writes_total", "counter", ("disk",), "The same, in writes.", _disks("wios")),
)
METRICS = (*_SEEN, *(replace(metric, claimed=True) for metric in _CLAIMED), *_HELD)

BOUNDS = (*map(repr, BUCKET_BOUNDS), "+Inf")
"""Of histograms, as labels."""


@dataclass(frozen=True)
class OwnMetric:
    """One of the supervisor itself; *name* is whole."""

    name: str
    says: str


# The names of process_* are those that every Prometheus client has.
OWN_METRICS = (
    OwnMetric(f"{PREFIX}build_info", "Its `version`; always 1."),
    OwnMetric(f"{PREFIX}shares", "Shares in service."),
    OwnMetric(f"{PREFIX}shares_absent", "Shares that have a policy and are not in service."),
    OwnMetric(f"{PREFIX}event_loop_lag_seconds", "How late its event loop was when it was asked."),
    OwnMetric("process_resident_memory_bytes", "Its memory; that of workers is their own."),
    OwnMetric("process_virtual_memory_bytes", "Its address space."),
    OwnMetric("process_cpu_seconds_total", "Processor time it has used."),
    OwnMetric("process_start_time_seconds", "When it was started, in Unix time."),
    OwnMetric("process_open_fds", "Descriptors it has open."),
    OwnMetric("process_max_fds", "Most it may have open."),
)
