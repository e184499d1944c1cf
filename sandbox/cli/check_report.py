"""The report of `check`, as text and as data (docs/reports.md)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtiofs_sandbox.cli import planned
from virtiofs_sandbox.cli.page import hanging
from virtiofs_sandbox.confine.preflight import Bounds, Finding, Severity, Subject, check, neighbours
from virtiofs_sandbox.policies.problems import Origin, PolicyError

SHAPE = 1
_LABEL = 11


@dataclass(frozen=True)
class Report:
    """*origins* has the lines of the policy's keys; *tier* None: no jail can be built, or the policy does not load."""

    policy: str
    tier: str | None
    findings: tuple[Finding, ...]
    origins: Mapping[str, Origin]


def made(options: argparse.Namespace) -> Report:
    """Loads the policy, plans its launch, looks. Raises NotPlannedError."""
    try:
        launch = planned.plan(options)
    except PolicyError as error:
        return _refused(options.policy, error)
    policy, plan = launch.policy, launch.plan
    bounds = Bounds(options.entries, float(options.seconds))
    if options.guest_ids:
        bounds = Bounds(options.entries, float(options.seconds), tuple(options.guest_ids))
    groups = frozenset(os.getgroups())
    subject = Subject(policy.share, launch.host, plan, launch.refusal, policy.socket, groups, bounds)
    findings = (*check(subject), *neighbours(policy, launch.directory))
    ordered = tuple(sorted(findings, key=lambda finding: finding.severity.rank))
    return Report(str(policy.file), None if plan is None else plan.tier.value, ordered, policy.origins)


def data(report: Report) -> dict[str, Any]:
    return {
        "shape": SHAPE,
        "policy": report.policy,
        "tier": report.tier,
        "errors": _count(report, Severity.ERROR),
        "warnings": _count(report, Severity.WARNING),
        "notes": _count(report, Severity.NOTE),
        "findings": [
            {
                "severity": finding.severity.value,
                "kind": finding.kind,
                "what": finding.what,
                "todo": finding.todo,
                "key": finding.key,
                "file": _place(report, finding)[0],
                "line": _place(report, finding)[1],
                "path": finding.path,
            }
            for finding in report.findings
        ],
    }


def text(report: Report) -> str:
    blocks = [f"{report.policy}: {'no jail' if report.tier is None else f'jail of tier {report.tier}'}"]
    for finding in report.findings:
        blocks.append(
            hanging(f"  {finding.severity.value}", f"{finding.what}{_where(report, finding)}", _LABEL)
            + "\n"
            + hanging(" " * _LABEL + "to do", finding.todo, _LABEL + 7)
        )
    blocks.append(", ".join(_counted(report, severity) for severity in Severity))
    return "\n\n".join(blocks)


def _counted(report: Report, severity: Severity) -> str:
    count = _count(report, severity)
    return f"{count or 'no'} {severity.value}{'' if count == 1 else 's'}"


def _where(report: Report, finding: Finding) -> str:
    """The key and its line; the file too, where it is another than the policy's."""
    if finding.key is None:
        return ""
    file, line = _place(report, finding)
    if line is None:
        return f" [{finding.key}]"
    return f" [{finding.key}, line {line}]" if file == report.policy else f" [{finding.key}, {file}:{line}]"


def _refused(name: str, error: PolicyError) -> Report:
    findings = tuple(
        Finding(
            Severity.ERROR,
            "policy",
            problem.sentence,
            "correct the policy; virtiofs-sandbox policy schema has what is accepted",
            problem.key,
            str(problem.file),
        )
        for problem in error.problems
    )
    places = {
        problem.key: Origin(Path(problem.file), problem.line) for problem in error.problems if problem.key is not None
    }
    return Report(name, None, findings, places)


def _place(report: Report, finding: Finding) -> tuple[str | None, int | None]:
    """File and line of the key, or of the nearest key above it that the policy has."""
    key = finding.key or ""
    while key and key not in report.origins:
        key = key.rpartition(".")[0]
    origin = report.origins.get(key, Origin())
    return (None if origin.file is None else str(origin.file)), origin.line


def _count(report: Report, severity: Severity) -> int:
    return sum(finding.severity is severity for finding in report.findings)
