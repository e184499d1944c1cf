"""What a supervisor must not have loaded while it only serves: it stays for months, and there is one on every host."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER_USED = ("ssl", "_hashlib", "http", "email", "xml", "importlib.metadata", "prometheus_client")
# Reports are made by commands that end.
OTHER_COMMANDS = ("virtiofs_sandbox.confine.preflight", "virtiofs_sandbox.confine.account")


def loaded(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("resident", ["cli.foreground", "cli.serving", "compat.command"])
def test_a_supervisor_loads_neither_tls_nor_what_other_commands_need(resident: str) -> None:
    program = f"""
import sys
from virtiofs_sandbox.cli import main
main.parser()
from virtiofs_sandbox.supervisor import footprint
footprint.load_asyncio()
import virtiofs_sandbox.{resident}
print(*(name for name in {NEVER_USED + OTHER_COMMANDS!r} if name in sys.modules))
"""
    assert loaded(program) == []


def test_whoever_needs_tls_afterwards_can_have_it() -> None:
    program = """
from virtiofs_sandbox.supervisor import footprint
footprint.load_asyncio()
import asyncio, ssl
print(asyncio.sslproto.ssl is None, ssl.OPENSSL_VERSION_INFO[0] > 0)
"""
    assert loaded(program) == ["True", "True"]
