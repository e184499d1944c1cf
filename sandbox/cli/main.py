"""Entry point of the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Returns the exit status."""
    return 0


if __name__ == "__main__":
    sys.exit(main())
