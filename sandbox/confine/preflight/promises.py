"""What the plan of the launch says of this share on this host: refused, weaker than it may seem, short of something."""

from __future__ import annotations

from collections.abc import Iterator

from virtiofs_sandbox.confine.landlock import READ
from virtiofs_sandbox.confine.plan import LaunchPlan
from virtiofs_sandbox.confine.preflight.finding import Finding, Severity
from virtiofs_sandbox.confine.preflight.subject import Subject
from virtiofs_sandbox.confine.preflight.walk import Walk
from virtiofs_sandbox.confine.rules import exact
from virtiofs_sandbox.policies.share import Access, Share
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY


def plan(subject: Subject) -> Iterator[Finding]:
    if subject.plan is None:
        refusal = subject.refusal or "no launch can be planned"
        of_program = refusal.startswith("worker.program")
        yield Finding(
            Severity.ERROR,
            "cannot-confine",
            refusal,
            "name a virtiofsd that is there with all its libraries, or leave the key out"
            if of_program
            else "see virtiofs-sandbox doctor; sandbox.minimum says how little is enough",
            "worker.program" if of_program else "sandbox.minimum",
        )
        return
    if subject.share.program is not None:
        yield Finding(
            Severity.NOTE,
            "another-program",
            f"{subject.share.program.path} serves it, not our own worker: a malformed request may end or hang it, and "
            "what a policy changes waits until the client leaves",
            "nothing, if that is wanted; virtiofs-sandbox explain has all that falls away",
            "worker.program",
        )
    for sentence in subject.plan.warnings:
        yield Finding(Severity.WARNING, "layer-missing", sentence, "see virtiofs-sandbox doctor", "sandbox.minimum")
    yield from _read_only(subject.share, subject.plan)
    yield from _rules(subject.share, subject.plan)


def read_only_ways(share: Share, made: LaunchPlan) -> tuple[str, ...]:
    """What keeps a read-only share from being changed: at most the mount, Landlock and the worker."""
    ways = []
    if made.tier.value != "bare" and made.share_attributes & MOUNT_ATTR_RDONLY:
        ways.append("the share's mount is read-only")
    if made.landlock is not None and not made.landlock.share_rights & ~int(READ):
        ways.append("Landlock grants no right to write")
    if share.access is Access.READ_ONLY:
        ways.append("the worker refuses every change with EROFS")
    return tuple(ways)


def size(subject: Subject, progress: Walk) -> Iterator[Finding]:
    """The tree against the descriptors that the worker may hold."""
    if subject.plan is None:
        return
    most = subject.plan.nofile[0]
    if progress.entries > most:
        atleast = "" if progress.cut is None else "at least "
        yield Finding(
            Severity.NOTE,
            "more-files-than-descriptors",
            f"{atleast}{progress.entries} entries, and {most} open files at once: "
            "a guest that keeps more open gets ENFILE",
            "raise the hard limit of open files (LimitNOFILE=), if the guest opens that many",
            "limits.open_files",
        )


def _read_only(share: Share, made: LaunchPlan) -> Iterator[Finding]:
    if share.access is not Access.READ_ONLY:
        return
    ways = read_only_ways(share, made)
    if len(ways) < 3:
        yield Finding(
            Severity.WARNING,
            "read-only-fewer-ways",
            f"read-only is kept {len(ways)} of 3 ways here: {'; '.join(ways)}",
            "see virtiofs-sandbox doctor for the layer that is missing",
            "share.access",
        )


def _rules(share: Share, made: LaunchPlan) -> Iterator[Finding]:
    """Of the rules that a mount could hold, those that the worker holds alone: a pattern with wildcards never could."""
    lists = [("readonly", text) for text in share.paths.readonly] + [("hide", text) for text in share.paths.hide]
    # In the order of the plan, which ends with the allow patterns.
    for (key, _), rule in zip(lists, made.rules, strict=False):
        if not rule.held and exact(rule.pattern) is not None:
            yield Finding(
                Severity.NOTE,
                "rule-without-mount",
                f"{key} {rule.pattern!r} is held by the worker alone: {rule.why}",
                "nothing, if the worker's word is enough; a mount holds only exact paths that exist, without links",
                f"paths.{key}",
            )
