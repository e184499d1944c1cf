"""How `top` shows shares: a table, or data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from virtiofs_sandbox.cli.page import table
from virtiofs_sandbox.cli.rates import QUANTILES, Look, Rates

_HEAD = (
    "NAME",
    "OPS/s",
    "READ/s",
    "WRITE/s",
    "P50",
    "P99",
    "HELD",
    "DEPTH",
    "INODES",
    "FDS",
    "RESTARTS",
    "TIER",
    "STATE",
    "CLIENT",
)


@dataclass(frozen=True)
class Row:
    """One share, and what it did since the look before."""

    look: Look
    rates: Rates


def text(rows: Sequence[Row], order: str) -> str:
    """The table, its head first, sorted by one of top.ORDERS; or what is said without shares."""
    if not rows:
        return "no share runs here"
    ordered = sorted(rows, key=lambda row: (-_ORDERS[order](row), row.look.figures.share))
    return "\n".join(table([_HEAD, *map(_cells, ordered)]))


def data(rows: Sequence[Row]) -> dict[str, Any]:
    names = [f"p{quantile * 100:g}" for quantile in QUANTILES]
    return {
        "shape": 1,
        "shares": [
            {
                **msgspec.to_builtins(row.look.figures),
                "per_second": {
                    "operations": row.rates.operations,
                    "errors": row.rates.errors,
                    "bytes_read": row.rates.read,
                    "bytes_written": row.rates.written,
                    "delayed": row.rates.delayed,
                    "seconds_delayed": row.rates.held,
                },
                "seconds": dict(zip(names, row.rates.latency, strict=True)),
                "by_class": {
                    name: {"operations": operations, **dict(zip(names, took, strict=True))}
                    for name, (operations, took) in row.rates.by_class.items()
                },
            }
            for row in sorted(rows, key=lambda row: row.look.figures.share)
        ],
    }


def _slowest(row: Row) -> float:
    return row.rates.latency[-1] or 0.0


_ORDERS: dict[str, Callable[[Row], float]] = {
    "operations": lambda row: row.rates.operations,
    "read": lambda row: row.rates.read,
    "write": lambda row: row.rates.written,
    "latency": _slowest,
    "held": lambda row: row.rates.held,
    "inodes": lambda row: row.look.figures.inodes,
}


def _cells(row: Row) -> tuple[str, ...]:
    figures, now = row.look.figures, row.rates
    client = "none" if figures.client is None else f"pid {figures.client.pid}"
    more = f" +{figures.clients - 1}" if figures.clients > 1 else ""
    claimed = (
        f"{now.operations:.0f}",
        _bytes(now.read),
        _bytes(now.written),
        *map(_seconds, now.latency),
        _seconds(now.held) if now.held else "-",
        str(figures.depth),
        str(figures.inodes),
        str(figures.descriptors + figures.handles),
    )
    return (
        figures.share,
        *(claimed if figures.counted else ("-",) * len(claimed)),
        str(figures.restarts),
        figures.tier,
        figures.state,
        client + more,
    )


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
        number /= 1024
    return f"{number:.1f}TiB"


def _seconds(number: float | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if number < 1000 * size:
            return f"{number / size:.0f}{unit}" if number >= 100 * size else f"{number / size:.1f}{unit}"
    return f"{number:.1f}s"
