"""Which mounts a share becomes: itself or its children, and those that hold its exact path rules (rules 22 to 25)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from virtiofs_sandbox.confine.plan import ChildMount, HeldRule, RuleMount
from virtiofs_sandbox.confine.rules import exact
from virtiofs_sandbox.confine.tiers import CannotConfineError
from virtiofs_sandbox.policies.share import Access, Case, Share, Tier
from virtiofs_sandbox.syscalls import mounts
from virtiofs_sandbox.syscalls.base import SyscallError

# One message carries a descriptor for each (SCM_MAX_FD, 253, less the binary and /dev/null).
MAX_CHILDREN = 250
# What rules and children may take of the one message in which a plan goes to the zygote.
_MAX_RULE_BYTES = 64 * 1024
_MAX_CHILD_BYTES = 64 * 1024


def share_attributes(access: Access) -> int:
    """MOUNT_ATTR_*. No symbolic link of a share is ever followed by the kernel: guests follow links themselves."""
    attributes = (
        mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC | mounts.MOUNT_ATTR_NOSYMFOLLOW
    )
    return attributes | mounts.MOUNT_ATTR_RDONLY if access is Access.READ_ONLY else attributes


def children(share: Share, tier: Tier) -> tuple[ChildMount, ...]:
    """The directories of a tree share. Raises CannotConfineError where they cannot be brought together."""
    if not share.children:
        return ()
    if tier is Tier.BARE:
        raise CannotConfineError(
            f"share {share.name} is a tree of {len(share.children)} directories, which takes mounts of its own, "
            "and this host allows none: share each directory under a tag of its own"
        )
    made = tuple(
        ChildMount(
            name=os.fsencode(child.name),
            source=os.fsencode(child.source.absolute()),
            attributes=share_attributes(Access.READ_ONLY if share.access is Access.READ_ONLY else child.access),
        )
        for child in share.children
    )
    if len(made) > MAX_CHILDREN or sum(len(child.name) + len(child.source) for child in made) > _MAX_CHILD_BYTES:
        raise CannotConfineError(
            f"share {share.name} is a tree of {len(made)} directories: {MAX_CHILDREN} are accepted, "
            f"with paths of {_MAX_CHILD_BYTES} bytes in all"
        )
    return made


def rule_mounts(share: Share, tier: Tier) -> tuple[tuple[RuleMount, ...], tuple[HeldRule, ...]]:
    """The mounts that hold rules, in the order in which they are made, and for each rule whether a mount holds it now.

    What does not exist at launch cannot be mounted over; it may exist at the next one, so its mount stays planned.
    """
    planned: list[RuleMount] = []
    said: list[HeldRule] = []
    room = _MAX_RULE_BYTES
    for hide, pattern in [(False, p) for p in share.paths.readonly] + [(True, p) for p in share.paths.hide]:
        path = exact(pattern)
        why_not = _never(share, tier, path)
        if path is None or why_not:
            said.append(HeldRule(pattern, False, why_not or ""))
        elif not hide and share.access is Access.READ_ONLY:
            said.append(HeldRule(pattern, True, "the whole share is mounted read-only"))
        elif len(path) > room:
            said.append(HeldRule(pattern, False, f"more than {_MAX_RULE_BYTES} bytes of exact rules"))
        else:
            room -= len(path)
            planned.append(RuleMount(path, hide))
            said.append(_now(share, pattern, path, hide))
    said += [HeldRule(pattern, False, "what is allowed is no subtree to mount over") for pattern in share.paths.allow]
    # Frozen before hidden, upper before lower: what is hidden inside a frozen subtree is mounted on top of it.
    planned.sort(key=lambda rule: (rule.hide, rule.path.count(b"/")))
    return tuple(planned), tuple(said)


def _never(share: Share, tier: Tier, path: bytes | None) -> str | None:
    if tier is Tier.BARE:
        return "no mounts of its own in this tier"
    if share.paths.case is Case.INSENSITIVE:
        return "names are compared without regard to case"
    if path is None:
        return "it has wildcards"
    return None


def _now(share: Share, pattern: str, path: bytes, hide: bool) -> HeldRule:
    place, rest = _located(share, path)
    if place is None:
        return HeldRule(pattern, False, "no directory of this tree has that name")
    try:
        os.close(_reach(place, rest))
    except OSError as error:
        why = {
            errno.ENOENT: "it does not exist now",
            errno.ENOTDIR: "it does not exist now",
            errno.ELOOP: "a symbolic link is on the way",
        }
        return HeldRule(pattern, False, why.get(error.errno or 0, f"it cannot be reached ({error.strerror})"))
    return HeldRule(pattern, True, "an empty mount hides it" if hide else "a read-only mount holds it")


def _located(share: Share, path: bytes) -> tuple[Path | None, bytes]:
    """The directory on the host that *path* of the share is below, and the rest of the path."""
    if share.source is not None:
        return share.source, path
    first, _, rest = path.partition(b"/")
    found = [child.source for child in share.children if os.fsencode(child.name) == first]
    return (found[0] if found else None), rest or b"."


def _reach(directory: Path, path: bytes) -> int:
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mounts.open_beneath(root, path)
    except SyscallError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error
    finally:
        os.close(root)
