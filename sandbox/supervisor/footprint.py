"""What a process that stays does without, and how it keeps to its size."""

from __future__ import annotations

import gc
import sys

# gc.set_threshold(): a full collection after some 3000 objects, which is what a hundred clients leave behind.
_THRESHOLDS = (500, 3, 1)


def load_asyncio() -> None:
    """Imports asyncio without TLS: OpenSSL takes 4 MiB in each supervisor, for connections that nobody here makes.

    asyncio is written to run where Python has no ssl module, and is told that this is such a place. To be called before
    anything else imports asyncio; afterwards it does nothing.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # so that importing it raises ImportError
    try:
        import asyncio  # noqa: F401, PLC0415
    finally:
        del sys.modules["ssl"]


def settle() -> None:
    """Sets what is there now apart, once it is in service: collections of garbage look only at what came since.

    So they cost little, and may be frequent. Each jail that is gone is garbage with references in circles, which waits
    for a full collection; by default that comes when as much has piled up as a quarter of all there is.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    # So that the collector knows how little it is that is left to look at.
    gc.collect()
