"""Virtual machines by name, and which of them a policy is for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

# virDomainDefGetShortName of libvirt leaves so many characters of a name in the paths it makes.
CUT = 20


@dataclass(frozen=True)
class Machine:
    """The virtual machine that a share is for. *name* None: it cannot be seen; *cut*: only its first CUT characters."""

    name: str | None = None
    cut: bool = False

    def is_one_of(self, patterns: Iterable[str]) -> bool:
        """A cut name is held against patterns that are cut where it is."""
        if self.name is None:
            return False
        return any(
            matches(self.name, pattern) or (self.cut and matches(self.name, pattern[:CUT])) for pattern in patterns
        )


def matches(name: str, pattern: str) -> bool:
    """Whether *name* is *pattern*, in which * stands for any characters and ? for any one."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def apart(patterns: Iterable[str], others: Iterable[str]) -> bool:
    """Whether, as far as can be told, no name matches both of these; false where one of them is for any machine."""
    pairs = [(one, other) for one in patterns for other in others]
    return bool(pairs) and not any(matches(one, other) or matches(other, one) for one, other in pairs)
