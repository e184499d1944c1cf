"""What a process that stays does without."""

from __future__ import annotations

import sys


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
