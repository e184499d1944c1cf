"""Whether a command line is one of virtiofsd's, and the one question that has to be answered at once.

Loads nothing: whoever starts a virtual machine waits for the answer each time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

NAME = "virtiofsd"
OURS = ("--version", "--help", "-h")
# vhost-user.json of QEMU. "migrate-precopy" will be among the features once device state can be transferred.
CAPABILITIES = '{\n  "type": "fs",\n  "features": [\n    "separate-options"\n  ]\n}'


def is_virtiofsd(program: str, arguments: Sequence[str]) -> bool:
    """Whether *program*, as it was called, is to be virtiofsd: by its name, or as no command of ours begins with -."""
    if os.path.basename(program) == NAME:
        return True
    return bool(arguments) and arguments[0].startswith("-") and arguments[0] not in OURS


def asks_for_capabilities(arguments: Sequence[str]) -> bool:
    """Whatever else is said, as with virtiofsd."""
    return "--print-capabilities" in arguments
