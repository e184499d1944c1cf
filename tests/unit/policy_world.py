"""A machine with policies, below one directory: what stands in /etc, /srv and /run elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from virtiofs_sandbox.policies import places
from virtiofs_sandbox.policies.narrowing import Arguments
from virtiofs_sandbox.policies.offer import Offer, offer
from virtiofs_sandbox.policies.share import resolve_source


class World:
    """Files are named relative to the standing directory of policies; `@` in their text is what stands for the root."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root.resolve()
        self.policies = self.root / "etc/virtiofs-sandbox/shares.d"
        self.policies.mkdir(parents=True)
        for directory in ("srv/data/inside/deep", "srv/other", "elsewhere/shares.d"):
            (self.root / directory).mkdir(parents=True)
        monkeypatch.setattr(places, "SYSTEM", self.policies)
        monkeypatch.setattr(places, "SYSTEM_SOCKETS", self.root / "run")
        monkeypatch.setenv("XDG_CONFIG_HOME", os.fspath(self.root / "etc"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(self.root / "run"))

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            file = self.file(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text.replace("@", os.fspath(self.root)).encode(errors="surrogateescape"))

    def file(self, name: str) -> Path:
        return self.policies / name

    def by_policy(self, arguments: Arguments, name: str = "data.toml") -> Offer:
        return offer(arguments, self.file(name), self.policies)

    def by_directory(self, directory: str, arguments: Arguments, policies: Path | None = None) -> Offer:
        """*directory* is relative to the root."""
        source = resolve_source(self.root / directory)
        return offer(dataclasses.replace(arguments, directory=source), None, policies or self.policies)

    def without_root(self, text: str) -> str:
        return text.replace(os.fspath(self.root), "")
