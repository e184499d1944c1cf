"""What path rules say of one path: the worker's judgement, foretold."""

from __future__ import annotations

from dataclasses import dataclass

from virtiofs_sandbox.policies.patterns import Coverage, Pattern
from virtiofs_sandbox.policies.share import Case, PathRules


@dataclass(frozen=True)
class Judgement:
    """*hidden* of what is on the way to something allowed is said for a directory: anything else there is hidden."""

    hidden: bool
    frozen: bool


@dataclass(frozen=True)
class Matcher:
    """The rules of one share, parsed."""

    hide: tuple[Pattern, ...]
    readonly: tuple[Pattern, ...]
    allow: tuple[Pattern, ...]

    @classmethod
    def of(cls, rules: PathRules) -> Matcher:
        """Raises PatternError."""

        def parsed(patterns: tuple[str, ...]) -> tuple[Pattern, ...]:
            insensitive = rules.case is Case.INSENSITIVE
            return tuple(Pattern.parse(pattern, insensitive=insensitive) for pattern in patterns)

        return cls(parsed(rules.hide), parsed(rules.readonly), parsed(rules.allow))

    def judge(self, path: tuple[str, ...]) -> Judgement:
        """*path*: the components below the share's root, which itself is () and never hidden."""
        hidden = _covers(self.hide, path) or bool(self.allow and not _leads_to(self.allow, path))
        return Judgement(hidden=bool(path) and hidden, frozen=_covers(self.readonly, path))


def _covers(patterns: tuple[Pattern, ...], path: tuple[str, ...]) -> bool:
    return any(pattern.coverage(path) is Coverage.WHOLE for pattern in patterns)


def _leads_to(patterns: tuple[Pattern, ...], path: tuple[str, ...]) -> bool:
    return any(pattern.coverage(path) is not Coverage.NONE for pattern in patterns)
