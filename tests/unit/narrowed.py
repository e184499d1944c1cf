"""Policies of every kind, and what it means that nobody gets more than they allow (I3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import Origin
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Identity,
    IdMap,
    Sandbox,
    SeccompAction,
    Share,
    Tier,
)

HERE = Path("/etc/x.toml")


def policy(
    socket: Socket | None = None, said: tuple[str, ...] = (), persistent: bool | None = None, **share: Any
) -> Policy:
    made = Share(name="x", tag="x", **{"source": Path("/srv"), **share})
    origins = {key: Origin(HERE, 1) for key in said}
    return Policy(made, socket or Socket(Path("/run/x.sock")), HERE, origins, persistent=persistent)


POLICIES = st.builds(
    policy,
    socket=st.builds(Socket, st.just(Path("/run/x")), st.integers(0, 0o777), st.none() | st.integers(0, 2)),
    said=st.lists(
        st.sampled_from(["share.socket.path", "share.socket.mode", "share.socket.group", "identity.map"])
    ).map(tuple),
    persistent=st.none() | st.booleans(),
    access=st.sampled_from(Access),
    cache=st.sampled_from(CacheMode),
    writeback=st.booleans(),
    xattr=st.booleans(),
    sandbox=st.builds(Sandbox, minimum=st.sampled_from(Tier), seccomp=st.sampled_from(SeccompAction)),
    identity=st.builds(Identity, map=st.none() | st.sampled_from(IdMap)),
)


def gives_no_more(allowed: Policy, share: Share, socket: Socket) -> None:
    """Whoever gets *share* on *socket* gets nothing that *allowed* does not."""
    before, order = allowed.share, list(CacheMode)
    assert share.access is Access.READ_ONLY or before.access is Access.READ_WRITE
    assert order.index(share.cache) <= order.index(before.cache)
    assert share.writeback <= before.writeback
    assert share.xattr <= before.xattr
    assert share.sandbox.minimum.rank <= before.sandbox.minimum.rank
    strictness = [SeccompAction.LOG, SeccompAction.ERRNO, SeccompAction.KILL]
    assert strictness.index(share.sandbox.seccomp) >= strictness.index(before.sandbox.seccomp)
    assert share.identity == before.identity or "identity.map" not in allowed.origins
    assert not socket.mode & ~allowed.socket.mode
    assert socket.group == allowed.socket.group
    kept = {"name", "source", "queues", "children", "paths", "program", "max_clients"}
    assert {name: getattr(share, name) for name in kept} == {name: getattr(before, name) for name in kept}
