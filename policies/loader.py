"""From policy files to policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtiofs_sandbox.policies.checks import check
from virtiofs_sandbox.policies.document import DEFAULT_WARM
from virtiofs_sandbox.policies.layers import merge, read_layers, read_source
from virtiofs_sandbox.policies.overlaps import conflicts
from virtiofs_sandbox.policies.places import default_directory, defaults_file, files, find, is_there
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import Origin, PolicyError, Problem
from virtiofs_sandbox.policies.settling import settle
from virtiofs_sandbox.policies.share import Tier
from virtiofs_sandbox.policies.values import MetricsAddress, metrics_address

__all__ = ["PolicyError", "Site", "default_directory", "find", "load", "load_directory", "site", "survey"]


@dataclass(frozen=True)
class Site:
    """What defaults.toml says of the whole machine; *origins* as in Policy. *warm*: how many shares of one supervisor
    keep a worker warm. *minimum* is the default of sandbox.minimum, None where it is not said. *metrics*: where
    they are told.
    """

    require_policy: bool = False
    warm: int = DEFAULT_WARM
    minimum: Tier | None = None
    metrics: MetricsAddress | None = None
    origins: dict[str, Origin] = field(default_factory=dict)


def load(file: Path, directory: Path | None = None) -> Policy:
    """The policy in *file*, over the site defaults beside *directory* (the caller's own if there is none given).

    Whether its directories exist is not asked. Raises PolicyError with every problem there is.
    """
    layers = read_layers(file, defaults_file(directory or default_directory()))
    policy = settle(file, merge(layers))
    contradictions = conflicts([policy])
    if contradictions:
        raise PolicyError(contradictions)
    return policy


def load_directory(directory: Path) -> tuple[Policy, ...]:
    """All policies in *directory*, by name; none when it is not there. Raises PolicyError with every problem of all."""
    policies, problems = survey(directory)
    problems = [*problems, *conflicts(policies)]
    if problems:
        raise PolicyError(dict.fromkeys(problems))
    return policies


def survey(directory: Path) -> tuple[tuple[Policy, ...], Sequence[Problem]]:
    """The policies in *directory* that load, and what is wrong with the others."""
    policies: list[Policy] = []
    problems: list[Problem] = []
    for file in files(directory):
        try:
            policies.append(load(file, directory))
        except PolicyError as error:
            problems += error.problems
    return tuple(policies), problems


def site(directory: Path) -> Site:
    """What holds for the whole machine, from defaults.toml beside *directory*. Raises PolicyError."""
    file = defaults_file(directory)
    if not is_there(file):
        return Site()
    source = read_source(file)
    problems = check(source)
    if problems:
        raise PolicyError(problems)
    table = source.table.get("site", {})
    minimum = source.table.get("sandbox", {}).get("minimum")
    return Site(
        require_policy=table.get("require_policy", False),
        warm=table.get("warm", DEFAULT_WARM),
        minimum=None if minimum is None else Tier(minimum),
        metrics=metrics_address(table["metrics"]) if "metrics" in table else None,
        origins={f"site.{key}": source.origin(("site", key)) for key in table},
    )
