"""Statistics pages as a worker in an attacker's hands may write them."""

from __future__ import annotations

import random
import struct

from hypothesis import strategies as st
from virtiofs_sandbox.ipc.stats import WORDS

_PAGE = struct.Struct(f"<{WORDS}Q")
_EXTREMES = (0, 1, 2**63, 2**64 - 1)


def _arbitrary(seed: int) -> tuple[int, ...]:
    return _PAGE.unpack(random.Random(seed).randbytes(_PAGE.size))  # noqa: S311 - nothing secret


def _extreme(seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(_EXTREMES, k=WORDS))  # noqa: S311 - nothing secret


# By way of a seed: hypothesis takes seconds for as many single numbers.
PAGES = st.one_of(
    st.integers(0, 2**32).map(_arbitrary), st.integers(0, 2**32).map(_extreme), st.just((_EXTREMES[-1],) * WORDS)
)
