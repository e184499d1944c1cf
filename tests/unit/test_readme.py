"""What the documents say is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_commands_is_what_they_say() -> None:
    """After a change of the options: make docs."""
    page = ROOT / "docs" / "commands.md"
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import runpy; print(runpy.run_path({str(page.with_suffix('.py'))!r})['page'](), end='')",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert made.stdout == page.read_text()


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
