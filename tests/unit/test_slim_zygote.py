"""What the zygote's parent must not have loaded when it forks: each launch would copy its page tables."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("asyncio", "msgspec", "pyseccomp", "landlock")


def test_importing_the_zygote_loads_neither_event_loop_nor_packages() -> None:
    program = f"""
import sys
from virtiofs_sandbox.launcher import LaunchError, Zygote
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_packages_offer_all_their_names() -> None:
    program = """
import virtiofs_sandbox.confine as confine, virtiofs_sandbox.launcher as launcher
for package in (confine, launcher):
    for name in package.__all__:
        value = getattr(package, name)
        assert value.__name__ == name, (name, value)
        assert callable(value), name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
