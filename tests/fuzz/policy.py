"""Policy files under libFuzzer: bytes that nobody meant as a policy load, or are refused with sentences.

    python -m tests.fuzz.policy WORK [libFuzzer's arguments]

WORK is a directory to write to; `make fuzz-policy` makes it, and puts the shipped examples in as a start.
"""

from __future__ import annotations

import dataclasses
import sys
import tomllib
from pathlib import Path

import atheris

from tests.unit.test_policy_positions import paths

with atheris.instrument_imports(include=["virtiofs_sandbox.policies", "tomllib"]):
    from virtiofs_sandbox.policies.display import as_toml
    from virtiofs_sandbox.policies.layers import read_source
    from virtiofs_sandbox.policies.loader import load
    from virtiofs_sandbox.policies.positions import key_lines
    from virtiofs_sandbox.policies.problems import PolicyError


def main() -> None:
    work = Path(sys.argv[1])
    file = work / "shares.d/x.toml"
    file.parent.mkdir(parents=True, exist_ok=True)

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        check_lines(file)
        try:
            policy = load(file, file.parent)
        except PolicyError as error:
            assert error.problems
            assert all(line.isprintable() for line in str(error).splitlines())
            return
        file.write_text(as_toml(policy, origins=True), encoding="utf-8")
        again = load(file, file.parent)
        assert dataclasses.replace(again, origins={}) == dataclasses.replace(policy, origins={})

    atheris.Setup([sys.argv[0], *sys.argv[2:]], attempt)
    atheris.Fuzz()


def check_lines(file: Path) -> None:
    """Every key that tomllib finds has a line, and no other."""
    try:
        source = read_source(file)
    except PolicyError:
        return
    text = file.read_bytes().decode()
    assert set(key_lines(text)) == paths(tomllib.loads(text)) == set(source.lines)


if __name__ == "__main__":
    main()
