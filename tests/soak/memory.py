"""Whether a process grows: its resident memory over time, and the line through it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

# What allocators do in the first minutes is no leak.
_WARMING_UP = 0.3


@dataclass
class Growth:
    """Samples of one process, (seconds, KiB). Another process begins a new series."""

    samples: list[tuple[float, int]] = field(default_factory=list)
    _pid: int = 0

    def sample(self, pid: int) -> None:
        if pid != self._pid:
            self._pid = pid
            self.samples.clear()
        now = time.monotonic()
        if not self.samples or now - self.samples[-1][0] >= 0.5:
            self.samples.append((now, resident(pid)))

    @property
    def seconds(self) -> float:
        """How long the series is without its beginning."""
        kept = self._kept()
        return kept[-1][0] - kept[0][0] if kept else 0.0

    @property
    def slope(self) -> float:
        """KiB a minute, by least squares."""
        kept = self._kept()
        middle = sum(at for at, _ in kept) / len(kept)
        level = sum(kib for _, kib in kept) / len(kept)
        spread = sum((at - middle) ** 2 for at, _ in kept)
        return 60 * sum((at - middle) * (kib - level) for at, kib in kept) / spread if spread else 0.0

    def __str__(self) -> str:
        if not self.samples:
            return "no sample"
        kept = self._kept()
        return (
            f"{self.samples[0][1] / 1024:.1f} MiB at first, {kept[0][1] / 1024:.1f} when warmed up, "
            f"{kept[-1][1] / 1024:.1f} at the end; {self.slope:+.0f} KiB a minute over {self.seconds:.0f} s"
        )

    def _kept(self) -> list[tuple[float, int]]:
        return self.samples[int(len(self.samples) * _WARMING_UP) :]


def resident(pid: int) -> int:
    """RSS in KiB, shared pages included (proc(5), VmRSS)."""
    return of(pid, "status", "VmRSS:")


def of(pid: int, file: str, key: str) -> int:
    """The number behind *key* in a file of /proc/PID."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
