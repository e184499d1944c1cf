"""What the other policies of the directory say against this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.policies.loader import survey
from virtiofs_sandbox.policies.overlaps import conflicts
from virtiofs_sandbox.policies.policy import Policy


def neighbours(policy: Policy, directory: Path) -> Iterator[Finding]:
    """Contradictions with each other policy in *directory*, and files there that do not load."""
    others, problems = survey(directory)
    for other in others:
        if other.file.resolve() == policy.file.resolve():
            continue
        for problem in conflicts([other, policy]):
            yield Finding(
                Severity.ERROR,
                "policies-contradict",
                problem.sentence,
                f"change {policy.file} or {other.file}",
                problem.key,
                str(problem.file),
            )
    for problem in problems:
        if problem.file.resolve() != policy.file.resolve():
            yield Finding(
                Severity.WARNING,
                "policy-not-loaded",
                f"another policy does not load: {problem}",
                "correct it: contradictions with it are not found before",
                None,
                str(problem.file),
            )
