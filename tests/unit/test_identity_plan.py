"""Whom a worker acts as: every identity a policy may choose, on every host that matters."""

from __future__ import annotations

import dataclasses
import errno

import pytest
from tests.unit.test_launch_plan import NO_NAMESPACES, ROOT, USER
from virtiofs_sandbox.confine import CannotConfineError, HostProbe, Tier, identity
from virtiofs_sandbox.policies.share import Identity, IdMap

RANGED = dataclasses.replace(USER, subuid=((300_000, 65_536),), subgid=((400_000, 1000),))
CONTAINER = dataclasses.replace(ROOT, uid_map=b"0 100000 65536\n", gid_map=b"0 100000 65536\n")
BARE_ROOT = dataclasses.replace(ROOT, userns_errno=errno.EPERM)


def resolve(wanted: Identity, host: HostProbe) -> identity.Ids:
    return identity.resolve(wanted, host, Tier.BARE if host.userns_errno else Tier.FULL)


def test_root_squashes_to_any_id_and_takes_the_mounts_first() -> None:
    who = resolve(Identity(IdMap.SQUASH, uid=1234, gid=1235), ROOT)
    assert (who.uid_map, who.gid_map, who.become) == (b"1234 1234 1\n", b"1235 1235 1\n", (1234, 1235))
    assert (who.ids, who.early_mounts, who.deny_setgroups) == ("self", True, False)


def test_squash_to_oneself_needs_nobody_s_right_and_warns_of_nothing() -> None:
    who = resolve(Identity(IdMap.SQUASH), USER)
    assert (who.uid_map, who.gid_map, who.become, who.warning) == (b"1000 1000 1\n", b"100 100 1\n", None, None)


def test_root_s_range_is_the_policy_s_own() -> None:
    who = resolve(Identity(IdMap.RANGE, first=200_000, count=1000, idmapped=True), ROOT)
    assert who.uid_map == who.gid_map == b"0 200000 1000\n"
    assert (who.ids, who.become, who.early_mounts, who.idmapped) == ("caller", (0, 0), True, True)


def test_root_s_range_without_numbers_is_what_the_files_grant_root() -> None:
    who = resolve(Identity(IdMap.RANGE), dataclasses.replace(ROOT, subuid=((7, 9),), subgid=((11, 13),)))
    assert (who.uid_map, who.gid_map) == (b"0 7 9\n", b"0 11 13\n")


def test_a_user_s_range_is_its_own_id_and_then_what_the_files_grant() -> None:
    who = resolve(Identity(IdMap.RANGE), RANGED)
    assert who.uid_map == b"0 1000 1\n1 300000 65536\n"
    assert who.gid_map == b"0 100 1\n1 400000 1000\n"
    assert who.map_helpers is not None
    assert [path.rpartition(b"/")[2] for path in who.map_helpers] == [b"newuidmap", b"newgidmap"]
    assert (who.become, who.early_mounts) == (None, False)


def test_a_user_may_ask_for_less_than_is_granted() -> None:
    who = resolve(Identity(IdMap.RANGE, count=10), RANGED)
    assert (who.uid_map, who.gid_map) == (b"0 1000 1\n1 300000 10\n", b"0 100 1\n1 400000 10\n")


def test_without_a_namespace_root_of_a_container_can_still_become_somebody() -> None:
    who = resolve(Identity(IdMap.SQUASH, uid=1234, gid=1235), BARE_ROOT)
    assert (who.uid_map, who.become, who.early_mounts) == (b"", (1234, 1235), False)


@pytest.mark.parametrize(
    ("wanted", "host", "sentence"),
    [
        (
            Identity(idmapped=True),
            ROOT,
            'identity.idmapped translates the ids of a range: set identity.map = "range" too',
        ),
        (
            Identity(IdMap.IDENTITY),
            USER,
            'identity.map = "identity" needs all ids, and uid 1000 may not map them (Operation not permitted): run as '
            'root with CAP_SETUID, CAP_SETGID and CAP_SETFCAP, or choose "squash", or "range" with ids of /etc/subuid',
        ),
        (
            Identity(IdMap.SQUASH, uid=5, gid=6),
            USER,
            "identity.uid and gid are 5 and 6, and uid 1000, gid 100 may map only its own ids: run as root, or squash "
            "to 1000 and 100",
        ),
        (
            Identity(IdMap.SQUASH, uid=70_000, gid=6),
            CONTAINER,
            "identity.uid: there is no id 70000 in this user namespace; see /proc/self/uid_map",
        ),
        (
            Identity(IdMap.RANGE, first=1000, count=65_536),
            CONTAINER,
            "identity.first and count: there is no id 1000 to 66535 in this user namespace; see /proc/self/uid_map",
        ),
        (
            Identity(IdMap.RANGE),
            ROOT,
            'identity.map = "range" without first and count takes them from /etc/subuid, which has no line for uid 0: '
            "add one (usermod --add-subuids, --add-subgids), or set identity.first and identity.count",
        ),
        (
            Identity(IdMap.RANGE, first=1, count=5, idmapped=True),
            dataclasses.replace(ROOT, idmapped_errno=errno.EPERM),
            "identity.idmapped: no mount can be id-mapped here (Operation not permitted): run as root of the host, on "
            "a kernel whose file systems support it",
        ),
        (
            Identity(IdMap.RANGE, idmapped=True),
            RANGED,
            "identity.idmapped: only root of the host may id-map a mount, and this is uid 1000: leave it out",
        ),
        (
            Identity(IdMap.RANGE),
            dataclasses.replace(RANGED, newuidmap=False),
            'identity.map = "range" takes newuidmap and newgidmap for uid 1000, which are not installed or may gain no '
            'rights here (no_new_privs): install the package uidmap, or choose "squash"',
        ),
        (
            Identity(IdMap.RANGE),
            dataclasses.replace(RANGED, subgid=()),
            'identity.map = "range" without first and count takes them from /etc/subgid, which has no line for uid '
            "1000: add one (usermod --add-subuids, --add-subgids), or set identity.first and identity.count",
        ),
        (
            Identity(IdMap.RANGE, first=300_000, count=65_537),
            RANGED,
            "identity.first and count are ids 300000 to 365536, which /etc/subuid does not grant uid 1000: choose from "
            "what it grants, or have them added (usermod --add-subuids, --add-subgids)",
        ),
        (
            Identity(IdMap.RANGE),
            NO_NAMESPACES,
            'identity.map = "range" needs a user namespace, which cannot be had here: choose "squash", whose files all '
            "belong to one id",
        ),
        (
            Identity(IdMap.IDENTITY),
            BARE_ROOT,
            'identity.map = "identity" needs a user namespace, which cannot be had here: choose "squash", whose files '
            "all belong to one id",
        ),
        (
            Identity(IdMap.SQUASH, uid=5, gid=6),
            NO_NAMESPACES,
            "identity.uid and gid are 5 and 6, and uid 1000, gid 100 may not become them: grant CAP_SETUID and "
            "CAP_SETGID, or squash to 1000 and 100",
        ),
    ],
)
def test_an_identity_that_cannot_be_had_is_refused_in_one_sentence(
    wanted: Identity, host: HostProbe, sentence: str
) -> None:
    with pytest.raises(CannotConfineError) as refused:
        resolve(wanted, host)
    assert str(refused.value) == sentence
