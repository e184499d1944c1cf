"""The layers of a jail, one by one: a launch plan with only some of them."""

from __future__ import annotations

import dataclasses
import enum
import errno
from collections.abc import Iterable
from pathlib import Path

from virtiofs_sandbox.confine import LaunchPlan, calls, prepare, seccomp, stockcalls
from virtiofs_sandbox.confine.calls import Call, Needs, Where
from virtiofs_sandbox.confine.host import HostProbe
from virtiofs_sandbox.confine.seccomp import Refusal
from virtiofs_sandbox.policies.share import Share, Tier

ALLOW_EVERYTHING = bytes.fromhex("060000000000ff7f")
EVERY_CAPABILITY = (1 << 41) - 1
# The most a host allows is no limit a test could reach.
OPEN_FILES = 512


class Layer(enum.Enum):
    """no_new_privs is none of them: without it an ordinary user gets neither Landlock nor seccomp."""

    NAMESPACES = "namespaces"
    CAPABILITIES = "capabilities"
    LANDLOCK = "landlock"
    SECCOMP = "seccomp"
    LIMITS = "limits"


ALL = frozenset(Layer)


def columns(layers: Iterable[Layer], inside: frozenset[Layer] = frozenset()) -> dict[str, frozenset[Layer]]:
    """The sets of *layers* that the table compares, by name: none, each alone, all but each, all.

    Those *inside* mean nothing without namespaces, and are alone in them.
    """
    every = tuple(layers)
    alone = {layer.value: frozenset({layer, Layer.NAMESPACES} if layer in inside else {layer}) for layer in every}
    but = {f"all but {layer.value}": frozenset(every) - {layer} for layer in every}
    return {"none": frozenset(), **alone, **but, "all": frozenset(every)}


def plan_with(layers: frozenset[Layer], share: Share, host: HostProbe, worker: Path) -> LaunchPlan:
    """The plan of a jail that has exactly *layers*, as far as this host has them."""
    # Refusals answer with an errno. Where they trap, an attacker's own handler would do the same.
    host = dataclasses.replace(host, audit_errno=0)
    if Layer.NAMESPACES not in layers:
        host = dataclasses.replace(host, userns_errno=errno.EPERM)
    plan = prepare(share, host, worker=worker)
    replace = dataclasses.replace
    if Layer.CAPABILITIES not in layers:
        held = host.capabilities if plan.tier is Tier.BARE else EVERY_CAPABILITY
        plan = replace(plan, capabilities=held, securebits=0)
    if Layer.LANDLOCK not in layers:
        plan = replace(plan, landlock=None)
    if Layer.SECCOMP not in layers:
        plan = replace(plan, seccomp=ALLOW_EVERYTHING, seccomp_unlogged=ALLOW_EVERYTHING, filters=None)
    if Layer.LIMITS not in layers:
        return replace(plan, limits=(), process_limit=None, nofile=(host.nofile_hard, host.nofile_hard))
    return replace(plan, nofile=(OPEN_FILES, OPEN_FILES))


def with_calls_of_stock(plan: LaunchPlan) -> LaunchPlan:
    """*plan* with the one filter of a stock virtiofsd, and what the prober needs besides to make its attempts."""
    prober = (
        Call("clone", "a process for each attempt", ((Where(0, calls.CLONE_FILES | calls.SIGCHLD, calls.WORD),),)),
        Call("wait4", "its end"),
        Call("sendto", "what came of it", ((Where(0, calls.CONTROL_SOCKET), Where(4, 0, calls.WORD)),)),
    )
    program = seccomp.stock_program(plan.exec_key, Needs(), Refusal.ERRNO, besides=prober)
    unlogged = seccomp.unlogged_program((stockcalls.UNKNOWN,))
    return dataclasses.replace(plan, seccomp=program, seccomp_unlogged=unlogged, filters=None)
