"""Everything that takes a look at the files themselves, in one walk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from virtiofs_sandbox.confine.preflight import promises
from virtiofs_sandbox.confine.preflight.directories import directories
from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.confine.preflight.links import Links
from virtiofs_sandbox.confine.preflight.nodes import Nodes
from virtiofs_sandbox.confine.preflight.owners import Owners, Rights
from virtiofs_sandbox.confine.preflight.patterns import Patterns, in_another_case
from virtiofs_sandbox.confine.preflight.subject import Identities, Subject
from virtiofs_sandbox.confine.preflight.walk import Rules, Walk, walk


def tree(subject: Subject) -> Iterator[Finding]:
    share, plan = subject.share, subject.plan
    deadline = time.monotonic() + subject.bounds.seconds
    rules, progress = Rules(share.paths), Walk()
    nodes, patterns = Nodes(), Patterns(share, rules)
    frozen, hidden = Links("readonly"), Links("hide")
    identities = None if plan is None else Identities.of(plan, subject.host, subject.groups)
    owners: list[Owners | Rights] = [] if identities is None else [Owners(identities), Rights(identities)]
    for entry in walk(directories(share), rules, subject.bounds, progress):
        patterns.see(entry)
        frozen.see(entry)
        hidden.see(entry)
        if not entry.hidden:
            nodes.see(entry)
            for owner in owners:
                owner.see(entry)
    if progress.cut is not None:
        yield Finding(
            Severity.NOTE,
            "cut-short",
            f"the tree was looked at only in part: {progress.cut}",
            "a longer look: --entries and --seconds",
            "share.source",
        )
    for owner in owners:
        yield from owner.findings()
    yield from nodes.findings()
    left = dataclasses.replace(subject.bounds, seconds=max(0.0, deadline - time.monotonic()))
    yield from patterns.findings(progress, in_another_case(share, patterns.missed(), left))
    yield from frozen.findings(share.paths.strict_links)
    yield from hidden.findings(share.paths.strict_links)
    yield from promises.size(subject, progress)
