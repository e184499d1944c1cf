"""From the mounts a jail has to those a newer plan says: always there, one change at a time, and in a safe order."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.launching import PLAN
from virtiofs_sandbox.confine.plan import ChildMount, HeldRule, MountAction, MountChange, RuleMount
from virtiofs_sandbox.supervisor.jailmounts import JailMounts, leaving, next_change, next_loosening
from virtiofs_sandbox.syscalls.mounts import MOUNT_ATTR_RDONLY

A, B = ChildMount(b"a", b"/srv/a", 0), ChildMount(b"b", b"/srv/b", MOUNT_ATTR_RDONLY)
CHILDREN = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c"]),
    st.tuples(st.sampled_from([b"/srv/1", b"/srv/2"]), st.sampled_from([0, MOUNT_ATTR_RDONLY])),
).map(lambda found: frozenset(ChildMount(name, *where) for name, where in found.items()))


@st.composite
def jail_mounts(draw: st.DrawFn) -> JailMounts:
    """A tree share with rules inside its children: one that is not there has none."""
    children = draw(CHILDREN)
    paths = [child.name + end for child in children for end in (b"/x", b"/x/y")]
    rules = (
        st.frozensets(st.builds(RuleMount, st.sampled_from(paths), st.booleans())) if paths else st.just(frozenset())
    )
    return JailMounts(children, draw(rules))


def access(mounts: JailMounts) -> set[tuple[bytes, bytes, bool]]:
    """Of each child its name, its source, and whether it can be written to."""
    covered = {cover.path for cover in mounts.covers}
    return {
        (child.name, child.source, not child.attributes & MOUNT_ATTR_RDONLY and child.name not in covered)
        for child in mounts.children
    }


def inner(mounts: JailMounts) -> set[RuleMount]:
    return {cover for cover in mounts.covers if b"/" in cover.path}


def made(now: JailMounts, wanted: JailMounts) -> list[MountChange]:
    done: list[MountChange] = []
    while (change := next_change(now, wanted, ())) is not None:
        assert len(done) < 100
        check(now, change)
        done.append(change)
        now = now.after(change)
    assert access(now) == access(wanted)
    assert inner(now) == inner(wanted)
    return done


def check(now: JailMounts, change: MountChange) -> None:
    """What the launcher relies on: it takes off the uppermost mount at a path, whatever that is."""
    children = {child.name for child in now.children}
    covers = {(cover.path, cover.hide) for cover in now.covers}
    match change.action:
        case MountAction.ATTACH:
            assert change.path not in children
        case MountAction.DETACH:
            assert change.path in children
            assert (change.path, False) not in covers
        case MountAction.THAW | MountAction.UNMASK:
            assert (change.path, change.action is MountAction.UNMASK) in covers
        case MountAction.FREEZE | MountAction.MASK:
            assert (change.path, change.action is MountAction.MASK) not in covers
            assert change.path.partition(b"/")[0] in children


@given(jail_mounts(), jail_mounts())
def test_every_way_ends_where_it_should(now: JailMounts, wanted: JailMounts) -> None:
    made(now, wanted)


@given(jail_mounts(), jail_mounts())
def test_what_gives_back_can_all_be_made_first(now: JailMounts, wanted: JailMounts) -> None:
    while (change := next_loosening(now, wanted, ())) is not None:
        assert change.action in {MountAction.THAW, MountAction.UNMASK}
        now = now.after(change)
    assert not {change.action for change in made(now, wanted)} & {MountAction.THAW, MountAction.UNMASK}


@given(jail_mounts(), jail_mounts())
def test_a_change_that_cannot_be_made_does_not_stop_the_others(now: JailMounts, wanted: JailMounts) -> None:
    first = next_change(now, wanted, ())
    if first is None:
        return
    while (change := next_change(now, wanted, {first})) is not None:
        assert change != first
        now = now.after(change)


def test_a_child_that_lies_elsewhere_is_detached_before_the_other_is_attached() -> None:
    now = JailMounts(frozenset({A}), frozenset())
    moved = dataclasses.replace(A, source=b"/srv/other")
    assert made(now, JailMounts(frozenset({moved}), frozenset())) == [
        MountChange(MountAction.DETACH, b"a"),
        MountChange(MountAction.ATTACH, b"a", b"/srv/other"),
    ]


def test_a_childs_access_changes_without_another_seeing_it() -> None:
    now = JailMounts(frozenset({A, B}), frozenset())
    wanted = JailMounts(
        frozenset({dataclasses.replace(A, attributes=MOUNT_ATTR_RDONLY), dataclasses.replace(B, attributes=0)}),
        frozenset(),
    )
    # A read-only mount lies over a writable one and can be taken off; what is one itself is made anew.
    assert made(now, wanted) == [
        MountChange(MountAction.DETACH, b"b"),
        MountChange(MountAction.ATTACH, b"b", b"/srv/b"),
        MountChange(MountAction.FREEZE, b"a"),
    ]
    assert leaving(now, wanted) == ("b",)


def test_a_child_that_was_frozen_live_is_thawed_by_taking_that_mount_off() -> None:
    now = JailMounts(frozenset({A}), frozenset({RuleMount(b"a", False)}))
    assert made(now, JailMounts(frozenset({A}), frozenset())) == [MountChange(MountAction.THAW, b"a")]
    frozen = JailMounts(frozenset({dataclasses.replace(A, attributes=MOUNT_ATTR_RDONLY)}), frozenset())
    assert made(now, frozen) == []


def test_what_found_nothing_to_be_mounted_over_is_not_there_and_not_asked_for() -> None:
    plan = dataclasses.replace(
        PLAN,
        rule_mounts=(RuleMount(b"here", True), RuleMount(b"nowhere", True)),
        rules=(HeldRule("here", True, ""), HeldRule("nowhere", False, "it does not exist now")),
    )
    assert JailMounts.built(plan, (b"nowhere",)) == JailMounts.wanted(plan)


def test_rules_inside_a_child_go_with_it_and_come_after_it() -> None:
    rules = frozenset({RuleMount(b"a/secret", True), RuleMount(b"a/kept", False)})
    full, empty = JailMounts(frozenset({A}), rules), JailMounts(frozenset({B}), frozenset())
    assert [change.action for change in made(full, empty)][-2:] == [MountAction.DETACH, MountAction.ATTACH]
    assert [change.action for change in made(empty, full)] == [
        MountAction.DETACH,
        MountAction.ATTACH,
        MountAction.FREEZE,
        MountAction.MASK,
    ]
