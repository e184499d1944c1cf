"""Whose policy counts: by the directory, and by what can be seen of the virtual machine."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

import pytest
from tests.unit.policy_world import World
from virtiofs_sandbox.compat.idmaps import extent, of_namespace, of_rules, rule
from virtiofs_sandbox.compat.machine import Seen, address_of, instance, seen
from virtiofs_sandbox.policies.loader import load_directory
from virtiofs_sandbox.policies.machines import Machine, apart
from virtiofs_sandbox.policies.narrowing import Arguments, WideningError
from virtiofs_sandbox.policies.places import default_directory
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import Access, Identity, IdMap, Share, Tier, tag_of

SHARE = '[share]\nsource = "@/srv/data"\ntag = "data"\n'
SYSTEM = "/var/lib/libvirt/qemu"
LOGS = "/var/log/libvirt/qemu"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "root", monkeypatch)


@pytest.mark.parametrize(
    ("address", "log", "machine", "device"),
    [
        (f"{SYSTEM}/domain-3-web1/fs0-fs.sock", "pipe:[77]", Machine("web1"), "fs0"),
        ("/home/u/.config/libvirt/qemu/lib/domain-1-a-b/fs12-fs.sock", "", Machine("a-b"), "fs12"),
        (f"{SYSTEM}/domain-3-web1/ua-data-fs.sock", "/dev/null", Machine("web1"), "ua-data"),
        (
            f"{SYSTEM}/domain-3-a-name-of-twenty-cha/fs0-fs.sock",
            "pipe:[1]",
            Machine("a-name-of-twenty-cha", cut=True),
            "fs0",
        ),
        (
            f"{SYSTEM}/domain-3-a-name-of-twenty-cha/fs0-fs.sock",
            f"{LOGS}/a-name-of-twenty-characters-fs0-virtiofsd.log",
            Machine("a-name-of-twenty-characters"),
            "fs0",
        ),
        (f"{SYSTEM}/domain-3-web1/fs0-fs.sock", f"{LOGS}/db-fs0-virtiofsd.log", Machine("web1"), "fs0"),
        ("/run/vm1/fs.sock", f"{LOGS}/db-fs1-virtiofsd.log", Machine("db"), "fs1"),
        ("/run/vm1/fs.sock", "/dev/pts/0", Machine(), None),
        ("", "", Machine(), None),
    ],
)
def test_a_machine_is_known_by_its_socket_or_its_log(
    address: str, log: str, machine: Machine, device: str | None
) -> None:
    assert seen(address, log) == Seen(machine, device)


def test_the_address_of_an_inherited_socket_is_asked_of_the_kernel_and_the_socket_kept(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "s"))
        assert address_of(listening.fileno(), None) == os.fspath(tmp_path / "s")
        assert listening.getsockname() == os.fspath(tmp_path / "s")
    assert address_of(listening.fileno(), None) == ""
    assert address_of(None, Path("/run/s")) == "/run/s"


def test_each_daemon_of_a_policy_has_a_name_of_its_own() -> None:
    assert instance("data", Seen(Machine("web1"), "fs0")) == "data@web1-fs0"
    assert instance("data", Seen(Machine("we\nb"), "fs0")) == "data@we?b-fs0"
    assert instance("data", Seen(Machine())) == f"data@{os.getpid()}"


@pytest.mark.parametrize(
    ("machine", "patterns", "belongs"),
    [
        (Machine("web1"), ["web*"], True),
        (Machine("web1"), ["db", "web?"], True),
        (Machine("web1"), ["web"], False),
        (Machine("we[b]"), ["we[b]"], True),
        (Machine("web"), ["we[b]"], False),
        (Machine("a-name-of-twenty-cha", cut=True), ["a-name-of-twenty-characters"], True),
        (Machine("a-name-of-twenty-cha", cut=True), ["a-name-of-twenty-chapters"], True),
        (Machine("a-name-of-twenty-characters"), ["a-name-of-twenty-chapters"], False),
        (Machine("a-name-of-twenty-cha"), ["a-name-of-twenty-characters"], False),
        (Machine("a-name-of-twenty-cha", cut=True), ["another-name"], False),
        (Machine(), ["*"], False),
    ],
)
def test_a_name_that_was_cut_is_held_against_what_is_cut_where_it_is(
    machine: Machine, patterns: list[str], belongs: bool
) -> None:
    assert machine.is_one_of(patterns) == belongs


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        (["a"], ["b"], True),
        (["web*"], ["db*"], True),
        (["web*"], ["web1"], False),
        (["x", "a?"], ["ab"], False),
        (["a"], [], False),
        ([], [], False),
    ],
)
def test_policies_are_apart_when_no_machine_can_be_of_both(one: list[str], other: list[str], differ: bool) -> None:
    assert apart(one, other) == apart(other, one) == differ


def test_the_policy_of_the_machine_counts(world: World) -> None:
    world.write(
        {
            "web.toml": f'{SHARE}vms = ["web*"]\naccess = "read-only"\n',
            "db.toml": f'{SHARE}vms = ["db"]\n',
        }
    )
    assert world.by_directory("srv/data", Arguments(machine=Machine("web1"))).share.access is Access.READ_ONLY
    assert world.by_directory("srv/data/inside", Arguments(machine=Machine("db"))).share.name == "db"
    for stranger in (Machine("mail"), Machine()):
        with pytest.raises(WideningError) as caught:
            world.by_directory("srv/data/inside", Arguments(machine=stranger, tag="t"))
        assert str(caught.value).count("is for other machines") == 2


def test_said_for_some_machines_is_nearer_than_said_for_any(world: World) -> None:
    world.write({"any.toml": SHARE, "web.toml": SHARE.replace('"data"', '"web"') + 'vms = ["web*"]\n'})
    assert world.by_directory("srv/data", Arguments(machine=Machine("web1"))).share.name == "web"
    assert world.by_directory("srv/data", Arguments(machine=Machine("db"))).share.name == "any"
    assert world.by_directory("srv/data", Arguments(machine=Machine())).share.name == "any"


def test_a_policy_of_another_machine_is_no_part_of_a_policy_around_it(world: World) -> None:
    inside = '[share]\nsource = "@/srv/data/inside"\ntag = "in"\nvms = ["web*"]\n'
    world.write({"any.toml": SHARE, "web.toml": inside})
    assert world.by_directory("srv/data/inside", Arguments(machine=Machine("web1"))).share.name == "web"
    with pytest.raises(WideningError, match=r"web\.toml:4: share\.vms: .*inside/deep is for other machines"):
        world.by_directory("srv/data/inside/deep", Arguments(machine=Machine("db")))


def test_where_nothing_is_said_of_machines_every_policy_has_its_say(world: World) -> None:
    world.write({"web.toml": f'{SHARE}vms = ["web*"]\n'})
    assert world.by_directory("srv/data", Arguments()).share.name == "web"
    assert world.by_policy(Arguments(), "web.toml").share.name == "web"


def test_policies_of_different_machines_may_say_different_things_of_one_directory(world: World) -> None:
    web, db = f'{SHARE}vms = ["web*"]\naccess = "read-only"\n', f'{SHARE}vms = ["db"]\n'
    world.write({"web.toml": web, "db.toml": db})
    assert len(load_directory(world.policies)) == 2
    world.write({"db.toml": db.replace('"db"', '"web1"')})
    with pytest.raises(PolicyError, match="one access is accepted"):
        load_directory(world.policies)


def test_without_a_policy_the_caller_says_how_little_of_a_jail_will_do(world: World) -> None:
    said = Arguments(machine=Machine(), fd=3, tolerated=Tier.BARE)
    assert world.by_directory("srv/other", said).share.sandbox.minimum is Tier.BARE
    assert world.by_directory("srv/other", Arguments(machine=Machine(), fd=3)).share.sandbox.minimum is Tier.USERNS
    world.write({"../defaults.toml": '[sandbox]\nminimum = "full"\n'})
    assert world.by_directory("srv/other", said).share.sandbox.minimum is Tier.FULL
    world.write({"../defaults.toml": "", "data.toml": SHARE})
    assert world.by_directory("srv/data", said).share.sandbox.minimum is Tier.USERNS


def test_where_a_policy_is_required_the_argument_is_named_as_it_was_written(world: World) -> None:
    world.write({"../defaults.toml": "[site]\nrequire_policy = true\n"})
    said = Arguments(machine=Machine(), fd=3, spelling={"DIR": "-o source"})
    with pytest.raises(WideningError, match=r"^-o source would widen the site's settings: "):
        world.by_directory("srv/other", said)


def test_a_share_without_a_tag_has_its_directorys_name(world: World) -> None:
    assert world.by_directory("srv/other", Arguments(machine=Machine(), fd=3)).share.tag == "other"
    for name in ("x" * 40, "ü" * 30, "a\nb", "\udcff"):
        assert Share("x", Path("/"), tag_of(Path("/srv") / name)).tag
    assert tag_of(Path("/")) == "root"


def test_a_pods_user_without_account_and_home_has_no_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000650000)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert default_directory() == Path("/.config/virtiofs-sandbox/shares.d")


SUBUID = Identity(map=IdMap.RANGE, first=165536, count=65536)


@pytest.mark.parametrize(
    ("uids", "gids", "as_root", "as_user"),
    [
        ([":0:1002:1:", ":1:165536:65536:"], [":0:1002:1:", ":1:165536:65536:"], None, SUBUID),
        ([":0:1002:1:", ":1:165536:65536:"], [":0:1002:1:", ":1:265536:65536:"], None, None),
        (
            [":0:1002:1:"],
            [":0:1002:1:"],
            Identity(map=IdMap.RANGE, first=1002, count=1),
            Identity(map=IdMap.SQUASH),
        ),
        ([":1002:1002:1:"], [], None, Identity(map=IdMap.SQUASH)),
        ([":0:100000:65536:"], [":0:100000:65536:"], Identity(map=IdMap.RANGE, first=100000, count=65536), None),
        ([":0:0:1:"], [":0:0:1:"], Identity(map=IdMap.SQUASH), None),
        ([":0:0:4294967295:"], [":0:0:4294967295:"], Identity(map=IdMap.IDENTITY), None),
        ([":0:0:65536:"], [":0:0:65536:"], None, None),
        ([":5:100000:65536:"], [":5:100000:65536:"], None, None),
        ([":0:100000:65536:"], [], None, None),
    ],
)
def test_maps_that_the_jail_can_have_are_found(
    uids: list[str], gids: list[str], as_root: Identity | None, as_user: Identity | None
) -> None:
    maps = [extent(text) for text in uids], [extent(text) for text in gids]
    assert of_namespace(*maps, uid=1002, gid=1002, maps_all=False) == as_user
    assert of_namespace(*maps, uid=0, gid=0, maps_all=True) == as_root


def test_a_translation_both_ways_from_0_on_is_a_range() -> None:
    both = [rule("map:0:100000:65536")]
    assert of_rules(both, both) == Identity(map=IdMap.RANGE, first=100000, count=65536)
    assert of_rules(both, [rule("map|0|5|65536")]) is None
    assert of_rules([rule("guest:0:100000:65536")], both) is None
    assert of_rules(both, []) is None
