"""Metrics as text, in Prometheus's exposition format 0.0.4. Needs prometheus-client."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Iterable, Sequence

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from virtiofs_sandbox.supervisor.active import ActiveShare
from virtiofs_sandbox.supervisor.metrics.table import BOUNDS, METRICS, OWN_METRICS, PREFIX, Histogram, Metric
from virtiofs_sandbox.supervisor.readings import Reading, read

# Some milliseconds' work.
_SHARES_AT_ONCE = 16
_SAYS = {metric.name: metric.says for metric in OWN_METRICS}


class Exposition:
    """The whole text; the loop goes on between its parts."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=None)
        self._version = importlib.metadata.version("virtiofs-sandbox")

    async def text(self, shares: Iterable[ActiveShare], absent: int) -> bytes:
        readings = []
        for active in tuple(shares):
            readings.append(read(active))
            await asyncio.sleep(0)
        parts = [written(await self._own(len(readings), absent))]
        for metric in METRICS:
            for first in range(0, len(readings), _SHARES_AT_ONCE):
                part = written([family(metric, readings[first : first + _SHARES_AT_ONCE])])
                # The head of a metric, its help and its type, may stand there once.
                parts.append(part.split(b"\n", 2)[2] if first else part)
                await asyncio.sleep(0)
        return b"".join(parts)

    async def _own(self, shares: int, absent: int) -> Sequence[Family]:
        loop = asyncio.get_running_loop()
        called = loop.time()
        await asyncio.sleep(0)
        lag = loop.time() - called
        build = GaugeMetricFamily(f"{PREFIX}build_info", _SAYS[f"{PREFIX}build_info"], labels=["version"])
        build.add_metric([self._version], 1)
        return [
            build,
            *(
                GaugeMetricFamily(f"{PREFIX}{name}", _SAYS[f"{PREFIX}{name}"], value=value)
                for name, value in (("shares", shares), ("shares_absent", absent), ("event_loop_lag_seconds", lag))
            ),
            *self._process.collect(),
        ]


def family(metric: Metric, readings: Iterable[Reading]) -> Family:
    """What is told of one metric."""
    name, labels = PREFIX + metric.name, ("share", *metric.labels)
    readings = [reading for reading in readings if not metric.claimed or reading.share.program is None]
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(name, metric.says, labels=labels)
        for reading in readings:
            for values, value in metric.of(reading):
                assert isinstance(value, Histogram)  # noqa: S101 - for mypy: the table's kinds and values agree
                buckets = list(zip(BOUNDS, map(float, value.counts), strict=True))
                histograms.add_metric(_labels(reading, values), buckets, value.total)
        return histograms
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made: CounterMetricFamily | GaugeMetricFamily = kind(name, metric.says, labels=labels)
    for reading in readings:
        for values, value in metric.of(reading):
            assert not isinstance(value, Histogram)  # noqa: S101 - as above
            made.add_metric(_labels(reading, values), float(value))
    return made


def _labels(reading: Reading, values: Iterable[str]) -> list[str]:
    """A name may have bytes that are no UTF-8; the format has nothing else."""
    return [text.encode(errors="backslashreplace").decode() for text in (reading.share.name, *values)]


class _Families(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def written(families: Sequence[Family]) -> bytes:
    """Lines of the format, in UTF-8."""
    return generate_latest(_Families(families))
