"""What Prometheus is told: a text it can read whatever workers claim, under names by its rules."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.unit.claims import PAGES
from tests.unit.generated import ROOT, section_holds
from virtiofs_sandbox.ipc import opcodes
from virtiofs_sandbox.ipc.stats import (
    BUCKETS,
    ERRNOS,
    FIRST_LATENCY_COUNT,
    FIRST_REQUEST_COUNT,
    INDEXES,
    RINGS,
    WORDS,
    decode,
)
from virtiofs_sandbox.policies.share import Program, RequestLimits, Share, Tier
from virtiofs_sandbox.supervisor.metrics.exposition import family, written
from virtiofs_sandbox.supervisor.metrics.table import METRICS, OWN_METRICS, PREFIX
from virtiofs_sandbox.supervisor.readings import Reading
from virtiofs_sandbox.supervisor.states import State
from virtiofs_sandbox.supervisor.tallies import Tally

PAGE = ROOT / "docs" / "metrics.md"
WORD = st.integers(0, 2**64 - 1)
NOTHING = tuple([0] * WORDS)
LABELS = ("opcode", "errno", "class", "ring", "le")
# docs/metrics.md promises it.
MOST_SERIES = 420


def reading(words: tuple[int, ...] = NOTHING, name: str = "data", policy: str | None = None) -> Reading:
    return Reading(
        share=Share(name=name, tag="tag", source=Path("/srv"), limits=RequestLimits(read=1 << 20, read_ops=100)),
        tier=Tier.FULL,
        policy=None if policy is None else Path(policy),
        workers={State.SERVING: 1},
        clients=(),
        restarts=2,
        total=decode(words),
        tally=Tally(served=3),
        disks={"8:0": {"rbytes": 5, "wbytes": 6, "rios": 7, "wios": 8}},
    )


def told(*readings: Reading) -> Iterator[Sample]:
    """As Prometheus's own parser finds it in the text."""
    text = b"".join(written([family(metric, readings)]) for metric in METRICS).decode()
    for found in text_string_to_metric_families(text):
        yield from found.samples


def only(samples: Iterator[Sample], name: str, **labels: str) -> float:
    (value,) = (
        sample.value
        for sample in samples
        if sample.name == PREFIX + name and labels.items() <= dict(sample.labels).items()
    )
    return float(value)


def page(words: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(words.get(index, 0) for index in range(WORDS))


@given(PAGES)
@settings(max_examples=30, deadline=None)
def test_whatever_a_worker_claims_is_a_readable_text_of_bounded_size(words: tuple[int, ...]) -> None:
    samples = list(told(reading(words)))
    assert len(samples) <= MOST_SERIES
    assert all(math.isfinite(sample.value) and sample.value >= 0 for sample in samples)
    values = {label: {sample.labels[label] for sample in samples if label in sample.labels} for label in LABELS}
    assert values["opcode"] <= {*opcodes.NAMES.values(), "OTHER"}
    assert values["errno"] <= set(ERRNOS)
    assert values["class"] <= set(opcodes.CLASSES)
    assert len(values["ring"]) <= RINGS
    assert len(values["le"]) == BUCKETS


@given(st.lists(st.lists(WORD, min_size=BUCKETS, max_size=BUCKETS), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_a_histogram_only_rises_and_ends_with_all_requests(buckets: list[list[int]]) -> None:
    words = {FIRST_LATENCY_COUNT + place: count for place, count in enumerate(itertools.chain(*buckets))}
    samples = list(told(reading(page(words))))
    for name, counts in zip(opcodes.CLASSES, buckets, strict=True):
        of_class = [one for one in samples if one.labels.get("class") == name and "request_duration" in one.name]
        rising = [one.value for one in of_class if one.name.endswith("_bucket")]
        assert rising == sorted(rising)
        assert rising[-1] == only(iter(of_class), "request_duration_seconds_count") == float(sum(counts))


@given(st.text(min_size=1, max_size=20).filter(str.isprintable))
@settings(max_examples=50, deadline=None)
def test_a_share_of_any_name_is_told_of_under_one_label(name: str) -> None:
    samples = list(told(reading(name=name), reading(name="other")))
    assert {sample.labels["share"] for sample in samples} == {name, "other"}


def test_a_path_that_is_no_text_is_told_all_the_same() -> None:
    samples = told(reading(policy='/etc/\udcff"\n\\.toml'))
    (policy,) = (sample.labels["policy"] for sample in samples if "policy" in sample.labels)
    assert policy.startswith("'/etc/") and policy.endswith(".toml'")


def test_requests_of_unknown_numbers_share_a_label() -> None:
    words = page({FIRST_REQUEST_COUNT + 15: 4, FIRST_REQUEST_COUNT + 7: 1, FIRST_REQUEST_COUNT + 63: 2})
    assert only(told(reading(words)), "requests_total", opcode="READ") == 4
    assert only(told(reading(words)), "requests_total", opcode="OTHER") == 3


def test_a_share_tells_its_limits_its_disks_and_what_has_happened_to_it() -> None:
    samples = list(told(reading()))
    assert only(iter(samples), "limit_bytes_per_second", limit="read") == 1 << 20
    assert only(iter(samples), "limit_operations_per_second", limit="read-ops") == 100
    assert only(iter(samples), "disk_written_bytes_total", disk="8:0") == 6
    assert only(iter(samples), "restarts_total") == 2
    assert only(iter(samples), "clients_served_total") == 3
    assert only(iter(samples), "workers", state="serving") == 1
    assert only(iter(samples), "share_info", tier="full", tag="tag", access="read-write") == 1


def test_of_a_share_that_another_program_serves_only_what_is_seen_from_outside_is_told() -> None:
    ours = reading()
    theirs = dataclasses.replace(ours, share=dataclasses.replace(ours.share, program=Program(Path("/virtiofsd"))))
    names = {sample.name for sample in told(theirs)}
    assert {f"{PREFIX}restarts_total", f"{PREFIX}clients", f"{PREFIX}workers"} <= names
    assert not {name for name in names if "request" in name or "ring" in name or "inode" in name}
    assert names < {sample.name for sample in told(ours)}


def test_the_oldest_request_has_an_age_and_none_when_it_claims_to_be_of_tomorrow() -> None:
    started = {INDEXES["oldest_start"]: 1}
    assert only(told(reading(page(started))), "oldest_request_seconds") > 1
    assert only(told(reading(page({INDEXES["oldest_start"]: 2**64 - 1}))), "oldest_request_seconds") == 0
    assert only(told(reading()), "oldest_request_seconds") == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: object) -> None:
    name, kind = metric.name, metric.kind  # type: ignore[attr-defined]
    assert re.fullmatch(r"[a-z][a-z_]*", name)
    assert name.endswith("_total") == (kind == "counter")
    assert not re.search(r"(milli|micro|nano)seconds|(kilo|mega)bytes|_ms\b|_ns\b", name), "base units only"
    assert kind != "histogram" or name.endswith("_seconds")


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    own = "".join(f"| `{metric.name}` | {metric.says} |\n" for metric in OWN_METRICS)
    rows = "".join(
        f"| `{PREFIX}{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} "
        f"| {metric.says} |\n"
        for metric in METRICS
    )
    section_holds(PAGE, "shares", f"| metric | kind | labels besides `share` | |\n| --- | --- | --- | --- |\n{rows}")
    named = {f"{PREFIX}{metric.name}" for metric in METRICS} | {metric.name for metric in OWN_METRICS}
    for found in re.findall(rf"{PREFIX}[a-z_]+", PAGE.read_text()):
        assert found.removesuffix("_bucket") in named, "in an example"
    section_holds(PAGE, "supervisor", f"| metric | |\n| --- | --- |\n{own}")
