"""What this host has, one feature each: tried, not guessed. Nothing is changed: every try ends with its process."""

from __future__ import annotations

from virtiofs_sandbox.confine.features import kernel, namespaces, privilege, surroundings
from virtiofs_sandbox.confine.features.feature import Answer, Feature, Probe, State, ask
from virtiofs_sandbox.confine.host import HostProbe

__all__ = ["Answer", "Feature", "Probe", "State", "ask", "probes", "survey"]


def probes(host: HostProbe) -> tuple[Probe, ...]:
    """Every question in the order in which it is shown; *host* answers those that the launcher has asked already."""
    return (*kernel.probes(host), *namespaces.probes(host), *privilege.probes(host), *surroundings.probes(host))


def survey(host: HostProbe) -> tuple[Feature, ...]:
    """Asks them all, one by one. Forks: to be called while the process has one thread."""
    return tuple(ask(probe) for probe in probes(host))
