"""Policy files become shares: what they say, what they leave to others, and who may have written them."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path

import pytest
from tests.unit.policy_world import World
from virtiofs_sandbox.policies.loader import default_directory, find, load, load_directory, site
from virtiofs_sandbox.policies.places import socket_directory
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.problems import Origin, PolicyError
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Case,
    Child,
    Identity,
    IdMap,
    LogLevel,
    PathRules,
    Sandbox,
    SeccompAction,
    Share,
    Tier,
    Unmapped,
)
from virtiofs_sandbox.policies.sockets import make_directory

SHARE = '[share]\nsource = "@/srv/data"\ntag = "data"\n'


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "root", monkeypatch)


def loaded(world: World, text: str, **others: str) -> Policy:
    world.write({"data.toml": text, **{name.replace("__", "../"): content for name, content in others.items()}})
    return load(world.file("data.toml"), world.policies)


def test_three_lines_are_a_policy_and_the_rest_is_as_without_one(world: World) -> None:
    policy = loaded(world, SHARE)
    assert policy.share == Share(name="data", source=world.root / "srv/data", tag="data")
    assert policy.socket.path == world.root / "run" / (
        "data.sock" if os.geteuid() == 0 else "virtiofs-sandbox/data.sock"
    )
    assert (policy.socket.mode, policy.socket.group) == (0o660, None)
    assert set(policy.origins) == {"share.source", "share.tag"}
    assert policy.origin("share.tag") == Origin(world.file("data.toml"), 3)
    assert policy.origin("cache.mode") == Origin()


def test_every_key_reaches_the_share(world: World) -> None:
    policy = loaded(
        world,
        """\
[share]
tag = "t"
access = "read-write"
socket = { path = "/run/vm/../s", mode = "600", group = 7 }
xattr = true
log_level = "debug"
[share.tree]
plain = "@/srv/data"
frozen = { source = "@/srv/other/.", access = "read-only" }
[cache]
mode = "metadata"
writeback = true
timeout = "1.5s"
[identity]
map = "range"
range = { first = 100000, count = 65536 }
idmapped = true
unmapped = "squash"
[paths]
hide = ["a"]
readonly = ["b/"]
allow = ["**/c"]
case = "insensitive"
strict_links = true
[sandbox]
minimum = "bare"
seccomp = "kill"
[worker]
queues = 1
""",
    )
    assert policy.share == Share(
        name="data",
        source=None,
        tag="t",
        access=Access.READ_WRITE,
        cache=CacheMode.METADATA,
        timeout=1.5,
        writeback=True,
        xattr=True,
        queues=1,
        log_level=LogLevel.DEBUG,
        children=(
            Child("plain", world.root / "srv/data", Access.READ_WRITE),
            Child("frozen", world.root / "srv/other", Access.READ_ONLY),
        ),
        paths=PathRules(("a",), ("b/",), ("**/c",), Case.INSENSITIVE, strict_links=True),
        identity=Identity(IdMap.RANGE, first=100000, count=65536, idmapped=True, unmapped=Unmapped.SQUASH),
        sandbox=Sandbox(Tier.BARE, SeccompAction.KILL),
    )
    assert (policy.socket.path, policy.socket.mode, policy.socket.group) == (Path("/run/s"), 0o600, 7)


def test_a_key_left_out_means_the_same_as_in_the_share(world: World) -> None:
    """Defaults stand in policies/share.py and nowhere else; what differs here would differ from `run DIR`."""
    share = loaded(world, SHARE).share
    for known in dataclasses.fields(Share):
        if known.default is not dataclasses.MISSING:
            assert getattr(share, known.name) == known.default, known.name


@pytest.mark.parametrize(
    ("said", "mode", "writeback"),
    [
        ('intent = "exclusive"', CacheMode.ALWAYS, True),
        ('intent = "shared-read"', CacheMode.AUTO, False),
        ('intent = "shared-write"', CacheMode.NEVER, False),
        ('intent = "exclusive"\nwriteback = false', CacheMode.ALWAYS, False),
        ('mode = "always"', CacheMode.ALWAYS, False),
        ('mode = "always"\nwriteback = true', CacheMode.ALWAYS, True),
        ("", CacheMode.AUTO, False),
    ],
)
def test_an_intent_settles_mode_and_writeback(world: World, said: str, mode: CacheMode, *, writeback: bool) -> None:
    share = loaded(world, f"{SHARE}[cache]\n{said}\n").share
    assert (share.cache, share.writeback) == (mode, writeback)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("1s", 1), ("500ms", 0.5), ("0.001s", 0.001), ("2m", 120), ("24h", 86400)]
)
def test_durations_have_units(world: World, text: str, seconds: float) -> None:
    assert loaded(world, f'{SHARE}[cache]\ntimeout = "{text}"\n').share.timeout == seconds


def test_an_owner_is_named_or_numbered(world: World) -> None:
    for owner in ("root:root", "0:0", "root:0"):
        identity = loaded(world, f'{SHARE}[identity]\nmap = "squash"\nowner = "{owner}"\n').share.identity
        assert (identity.map, identity.uid, identity.gid) == (IdMap.SQUASH, 0, 0)


def test_a_read_only_share_makes_its_whole_tree_read_only(world: World) -> None:
    policy = loaded(world, '[share]\ntag = "t"\naccess = "read-only"\ntree = { a = "/a", b = { source = "/b" } }\n')
    assert [child.access for child in policy.share.children] == [Access.READ_ONLY, Access.READ_ONLY]


def test_a_source_behind_a_symbolic_link_is_the_directory_itself(world: World) -> None:
    (world.root / "link").symlink_to("srv/data")
    assert loaded(world, '[share]\nsource = "@/link"\ntag = "t"\n').share.source == world.root / "srv/data"


def test_the_policy_wins_over_what_it_includes_and_that_over_the_defaults(world: World) -> None:
    policy = loaded(
        world,
        f'include = ["../weak", "../strong"]\n{SHARE}xattr = true\n[paths]\nhide = ["own"]\n',
        __weak='[share]\nxattr = false\nlog_level = "error"\n[paths]\nhide = ["weak"]\nreadonly = ["weak"]\n',
        __strong='[share]\nlog_level = "warning"\n[worker]\nqueues = 2\n',
        **{"__defaults.toml": '[worker]\nqueues = 1\n[share]\nlog_level = "debug"\nsocket = { mode = "0600" }\n'},
    )
    share = policy.share
    assert (share.xattr, share.log_level, share.queues) == (True, LogLevel.WARNING, 2)
    assert (share.paths.hide, share.paths.readonly) == (("own",), ("weak",))
    assert policy.socket.mode == 0o600
    assert str(policy.origin("share.log_level")).endswith("strong:2")
    assert str(policy.origin("share.socket.mode")).endswith("virtiofs-sandbox/defaults.toml:5")


@pytest.mark.parametrize(
    ("defaults", "own", "expected"),
    [
        ('[cache]\nmode = "always"\nwriteback = true\n', 'intent = "shared-write"', (CacheMode.NEVER, False)),
        ('[cache]\nintent = "exclusive"\n', 'mode = "auto"', (CacheMode.AUTO, False)),
        ('[cache]\nintent = "exclusive"\n', 'timeout = "1s"', (CacheMode.ALWAYS, True)),
    ],
)
def test_what_settles_a_question_replaces_weaker_words_about_it(
    world: World, defaults: str, own: str, expected: tuple[CacheMode, bool]
) -> None:
    share = loaded(world, f"{SHARE}[cache]\n{own}\n", **{"__defaults.toml": defaults}).share
    assert (share.cache, share.writeback) == expected


def test_a_path_and_a_table_of_a_socket_go_together(world: World) -> None:
    text = f'{SHARE}socket = "/run/s"\n'
    policy = loaded(world, text, **{"__defaults.toml": "[share]\nsocket = { group = 5 }\n"})
    assert (policy.socket.path, policy.socket.group) == (Path("/run/s"), 5)


def test_all_problems_of_all_files_come_at_once(world: World) -> None:
    world.write({"a.toml": "x = 1\n[worker]\nqueues = 0\n", "b.toml": "[", "../defaults.toml": "[site]\ny = 1\n"})
    with pytest.raises(PolicyError) as caught:
        load_directory(world.policies)
    places = [(problem.file.name, problem.line, problem.key) for problem in caught.value.problems]
    assert places == [
        ("defaults.toml", 2, "site.y"),
        ("a.toml", 1, "x"),
        ("a.toml", 3, "worker.queues"),
        ("b.toml", 1, None),
    ]


def test_a_directory_that_is_not_there_has_no_policies(tmp_path: Path) -> None:
    assert load_directory(tmp_path / "none") == ()


def test_only_toml_files_are_policies(world: World) -> None:
    world.write({"data.toml": SHARE, "data.toml~": "[", ".data.toml": "[", "README": "["})
    assert [policy.name for policy in load_directory(world.policies)] == ["data"]


def test_policies_that_agree_may_share_one_directory(world: World) -> None:
    world.write(
        {
            "a.toml": f'{SHARE}access = "read-only"\n',
            "b.toml": '[share]\nsource = "@/srv/data/inside"\ntag = "b"\naccess = "read-only"\n',
            "c.toml": '[share]\nsource = "@/srv/other"\ntag = "c"\n',
        }
    )
    assert [policy.name for policy in load_directory(world.policies)] == ["a", "b", "c"]


def test_an_overlap_behind_a_symbolic_link_is_found(world: World) -> None:
    (world.root / "link").symlink_to("srv/data/inside")
    world.write({"a.toml": SHARE, "b.toml": '[share]\nsource = "@/link"\ntag = "b"\naccess = "read-only"\n'})
    with pytest.raises(PolicyError, match="inside"):
        load_directory(world.policies)


def test_a_policy_is_found_by_name_or_file(world: World) -> None:
    world.write({"data.toml": SHARE})
    file = world.file("data.toml")
    assert find("data", world.policies) == file
    assert find(os.fspath(file), Path("/nowhere")) == file


def test_the_site_may_require_policies(world: World) -> None:
    assert (site(world.policies).require_policy, site(world.policies).warm) == (False, 32)
    world.write({"../defaults.toml": "[site]\nrequire_policy = true\nwarm = 0\n"})
    assert (site(world.policies).require_policy, site(world.policies).warm) == (True, 0)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("/run/m.sock", Path("/run/m.sock")), ("127.0.0.1:9100", ("127.0.0.1", 9100)), ("[::1]:65535", ("::1", 65535))],
)
def test_the_site_says_where_metrics_are_told(world: World, said: str, meant: object) -> None:
    assert site(world.policies).metrics is None
    world.write({"../defaults.toml": f'[site]\nmetrics = "{said}"\n'})
    assert site(world.policies).metrics == meant


@pytest.mark.parametrize(
    "said", ["0.0.0.0:9100", "localhost:9100", "127.0.0.1:0", "127.0.0.1:65536", "[::]:9100", ":9100", "m.sock", ""]
)
def test_metrics_are_told_nowhere_else(world: World, said: str) -> None:
    world.write({"../defaults.toml": f'[site]\nmetrics = "{said}"\n'})
    with pytest.raises(PolicyError, match=r"site.metrics: .* 127.0.0.1:PORT and \[::1\]:PORT"):
        site(world.policies)


def test_the_directory_of_a_user_is_below_the_configuration_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert default_directory() == Path("/somewhere/virtiofs-sandbox/shares.d")
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_directory() == Path("/home/somebody/.config/virtiofs-sandbox/shares.d")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == Path("/etc/virtiofs-sandbox/shares.d")


def test_sockets_of_a_user_are_in_the_runtime_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere")
    assert socket_directory() == Path("/somewhere/virtiofs-sandbox")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert socket_directory() == Path("/run/user/1000/virtiofs-sandbox")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert socket_directory() == Path("/run/virtiofs-sandbox")


def test_a_file_that_another_user_s_link_leads_to_is_read_only_if_both_ways_are_safe(world: World) -> None:
    world.write({"../kept.toml": SHARE})
    world.file("data.toml").symlink_to("../kept.toml")
    assert load(world.file("data.toml"), world.policies).share.tag == "data"
    loose = world.root / "loose"
    loose.mkdir()
    (loose / "data.toml").symlink_to(world.policies.parent / "kept.toml")
    loose.chmod(0o777)
    with pytest.raises(PolicyError, match="loose above it can be written by everybody"):
        load(loose / "data.toml", world.policies)


def test_a_sticky_directory_above_is_accepted(world: World) -> None:
    world.write({"data.toml": SHARE})
    world.policies.parent.chmod(0o1777)
    assert load(world.file("data.toml"), world.policies).name == "data"


@pytest.mark.skipif(os.geteuid() != 0, reason="a file of another owner is made: needs root")
def test_a_user_s_policy_may_belong_to_root_or_the_user(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write({"data.toml": SHARE})
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    load(world.file("data.toml"), world.policies)
    os.chown(world.file("data.toml"), 4242, 4242)
    load(world.file("data.toml"), world.policies)
    os.chown(world.file("data.toml"), 4343, 4343)
    with pytest.raises(PolicyError, match="root or uid 4242"):
        load(world.file("data.toml"), world.policies)


def test_a_directory_for_sockets_is_made_and_one_that_others_write_to_refused(tmp_path: Path) -> None:
    directory = tmp_path / "sockets"
    make_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == (0o755 if os.geteuid() == 0 else 0o700)
    make_directory(directory)
    directory.chmod(0o777)
    with pytest.raises(PermissionError):
        make_directory(directory)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        make_directory(link)
