"""What the README shows is what the commands say."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sysconfig.get_path("scripts")) / "virtiofs-sandbox"


@pytest.mark.parametrize("command", ["run", "status", "reload", "limit"])
def test_the_reference_is_the_command_s_own_help(command: str) -> None:
    """After a change of the options: COLUMNS=100 virtiofs-sandbox run --help, pasted under "Reference"."""
    environment = os.environ | {"COLUMNS": "100"}
    done = subprocess.run(
        [COMMAND, command, "--help"], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    reference = (ROOT / "README.md").read_text().partition("## Reference")[2]
    assert done.stdout.strip() in reference


def test_every_file_the_documents_name_is_there() -> None:
    """Links between documents, and paths of the project in backticks."""
    documents = [ROOT / "README.md", ROOT / "ipc/README.md", *sorted((ROOT / "docs").glob("*.md"))]
    missing = []
    for document in documents:
        text = document.read_text()
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        missing += [f"{document.name}: {link}" for link in links if not (document.parent / link).exists()]
        paths = re.findall(r"`((?:sandbox|worker|ipc|policies|tests|docs|packaging)/[\w./-]*)`", text)
        missing += [f"{document.name}: {path}" for path in paths if not (ROOT / path).exists()]
    assert missing == []
