"""I3: nothing a caller says widens what the policy allows. Without a policy the command line is all there is."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.narrowed import POLICIES, gives_no_more, policy
from tests.unit.policy_world import World
from virtiofs_sandbox.policies.matching import Matcher
from virtiofs_sandbox.policies.narrowing import OF_VIRTIOFSD, ROWS, Arguments, Effect, WideningError, narrow
from virtiofs_sandbox.policies.patterns import PatternError
from virtiofs_sandbox.policies.policy import Policy, Socket
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
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
from virtiofs_sandbox.policies.subtree import HiddenError, subtree

SHARE = '[share]\nsource = "@/srv/data"\ntag = "data"\n'


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "root", monkeypatch)


def test_without_arguments_a_policy_is_what_it_is() -> None:
    plain = policy()
    assert narrow(plain, Arguments()) == (plain.share, plain.socket)


def test_readonly_takes_write_access_from_the_share_and_everything_in_its_tree() -> None:
    tree = policy(source=None, children=(Child("a", Path("/a")), Child("b", Path("/b"), Access.READ_ONLY)))
    share, _ = narrow(tree, Arguments(readonly=True))
    assert {share.access, *(child.access for child in share.children)} == {Access.READ_ONLY}


@pytest.mark.parametrize(("allowed", "asked"), list(itertools.product(CacheMode, CacheMode)))
def test_a_cache_may_shrink_and_not_grow(allowed: CacheMode, asked: CacheMode) -> None:
    order = list(CacheMode)
    cached = policy(cache=allowed, writeback=True, timeout=9)
    if order.index(asked) > order.index(allowed):
        with pytest.raises(WideningError, match="--cache would widen"):
            narrow(cached, Arguments(cache=asked))
    else:
        share, _ = narrow(cached, Arguments(cache=asked))
        kept = asked is not CacheMode.NEVER
        assert (share.cache, share.writeback, share.timeout) == (asked, kept, 9 if kept else None)


@pytest.mark.parametrize(("allowed", "asked"), list(itertools.product(Tier, Tier)))
def test_a_minimum_may_rise_and_not_fall(allowed: Tier, asked: Tier) -> None:
    held = policy(sandbox=Sandbox(minimum=allowed))
    if asked.rank > allowed.rank:
        with pytest.raises(WideningError, match="--minimum would widen"):
            narrow(held, Arguments(minimum=asked))
    else:
        assert narrow(held, Arguments(minimum=asked))[0].sandbox.minimum is asked


def test_extended_attributes_are_the_policy_s_to_give() -> None:
    with pytest.raises(WideningError, match=r"--xattr would widen the policy: /etc/x\.toml"):
        narrow(policy(), Arguments(xattr=True))
    assert narrow(policy(xattr=True), Arguments(xattr=True))[0].xattr


def test_the_mode_of_a_socket_may_lose_bits_and_gain_none() -> None:
    socket = Socket(Path("/run/s"), 0o640)
    for mode in (0o640, 0o600, 0o400, 0):
        assert narrow(policy(socket), Arguments(socket_mode=mode))[1].mode == mode
    for mode in (0o660, 0o641, 0o777):
        with pytest.raises(WideningError, match="--socket-mode"):
            narrow(policy(socket), Arguments(socket_mode=mode))


def test_another_group_than_the_policy_s_is_other_people() -> None:
    assert narrow(policy(Socket(Path("/s"), group=5)), Arguments(socket_group=5))[1].group == 5
    for group in (None, 6):
        with pytest.raises(WideningError, match="--socket-group"):
            narrow(policy(Socket(Path("/s"), group=group)), Arguments(socket_group=5))


def test_a_socket_that_the_policy_places_stays_there(tmp_path: Path) -> None:
    placed = policy(Socket(tmp_path / "s"), ("share.socket.path",))
    (tmp_path / "link").symlink_to(".")
    for same in (tmp_path / "s", tmp_path / "link/s"):
        narrow(placed, Arguments(socket=same))
    with pytest.raises(WideningError, match=r"--socket would widen the policy: /etc/x\.toml:1: share\.socket\.path"):
        narrow(placed, Arguments(socket=tmp_path / "t"))
    assert narrow(policy(), Arguments(socket=tmp_path / "t"))[1].path == tmp_path / "t"


def test_a_listener_of_the_caller_s_is_taken_where_the_policy_says_nothing_of_the_socket() -> None:
    narrow(policy(), Arguments(fd=3))
    for key in ("share.socket.path", "share.socket.mode", "share.socket.group"):
        with pytest.raises(WideningError, match=f"--fd .* {key}"):
            narrow(policy(said=(key,)), Arguments(fd=3))


def test_whom_files_belong_to_is_the_policys_to_say_where_it_says_it() -> None:
    asked = Arguments(identity=Identity(map=IdMap.RANGE, first=100000, count=65536))
    squashed = policy(said=("identity.map",), identity=Identity(map=IdMap.SQUASH))
    assert narrow(squashed, asked)[0].identity == squashed.share.identity
    silent = policy(identity=Identity(unmapped=Unmapped.SQUASH))
    assert asked.identity is not None
    assert narrow(silent, asked)[0].identity == dataclasses.replace(asked.identity, unmapped=Unmapped.SQUASH)


def test_every_argument_that_widens_is_named() -> None:
    with pytest.raises(WideningError) as caught:
        narrow(policy(), Arguments(xattr=True, cache=CacheMode.ALWAYS, worker=Path("/bin/true")))
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["--cache", "--xattr", "--worker"]


ARGUMENTS = st.builds(
    Arguments,
    tag=st.none() | st.just("y"),
    socket=st.none() | st.sampled_from([Path("/run/x"), Path("/run/y")]),
    fd=st.none() | st.just(3),
    socket_mode=st.none() | st.integers(0, 0o777),
    socket_group=st.none() | st.integers(0, 2),
    readonly=st.booleans(),
    cache=st.none() | st.sampled_from(CacheMode),
    xattr=st.booleans(),
    log_level=st.none() | st.sampled_from(LogLevel),
    minimum=st.none() | st.sampled_from(Tier),
    worker=st.none() | st.just(Path("/bin/true")),
    no_xattr=st.booleans(),
    writeback=st.none() | st.booleans(),
    seccomp=st.none() | st.sampled_from(SeccompAction),
    tolerated=st.none() | st.sampled_from(Tier),
    identity=st.none() | st.just(Identity(map=IdMap.RANGE, first=100000, count=65536)),
    private=st.booleans(),
    persistent=st.booleans(),
)


@given(POLICIES, ARGUMENTS)
def test_no_combination_of_arguments_gives_more_than_the_policy(allowed: Policy, arguments: Arguments) -> None:
    try:
        share, socket = narrow(allowed, arguments)
    except WideningError:
        return
    gives_no_more(allowed, share, socket)
    assert not (arguments.persistent and allowed.persistent is False)
    assert arguments.worker is None


@given(POLICIES, ARGUMENTS)
def test_a_verdict_is_one_of_those_its_row_admits(allowed: Policy, arguments: Arguments) -> None:
    """What the documents say of an argument is all that it can do; the same value as the policy's is always neutral."""
    for row in (*ROWS, *OF_VIRTIOFSD):
        verdict = row.judge(arguments, allowed)
        if verdict is not None:
            assert verdict.effect in {*row.effects, Effect.NEUTRAL}, row.argument


def test_a_directory_of_a_policy_is_shared_by_that_policy(world: World) -> None:
    world.write({"data.toml": f'{SHARE}access = "read-only"\n[cache]\nmode = "never"\n'})
    wanted = world.by_directory("srv/data", Arguments(log_level=LogLevel.DEBUG))
    assert wanted.share == dataclasses.replace(
        Share("data", world.root / "srv/data", "data"),
        access=Access.READ_ONLY,
        cache=CacheMode.NEVER,
        log_level=LogLevel.DEBUG,
    )
    assert wanted.policy is not None
    assert wanted.policy.file == world.file("data.toml")


def test_a_symbolic_link_is_no_way_around_a_policy(world: World) -> None:
    world.write({"data.toml": f'{SHARE}access = "read-only"\n'})
    (world.root / "link").symlink_to("srv/data/inside")
    wanted = world.by_directory("link", Arguments(tag="t", socket=Path("/run/t")))
    assert (wanted.share.access, wanted.share.source) == (Access.READ_ONLY, world.root / "srv/data/inside")


def test_inside_a_policy_s_directory_its_patterns_are_said_from_there(world: World) -> None:
    world.write(
        {
            "data.toml": f"{SHARE}[paths]\n"
            'hide = ["inside/secret", "**/.env", "elsewhere"]\nreadonly = ["*/deep"]\nallow = ["inside", "other"]\n'
        }
    )
    share = world.by_directory("srv/data/inside", Arguments()).share
    assert share.paths == PathRules(hide=("secret", "**/.env"), readonly=("deep",))
    assert world.by_directory("srv/data/inside/deep", Arguments()).share.access is Access.READ_ONLY


def test_a_directory_of_a_tree_is_shared_as_it_is_in_the_tree(world: World) -> None:
    world.write(
        {
            "data.toml": '[share]\ntag = "t"\n[share.tree]\na = "@/srv/data"\n'
            'b = { source = "@/srv/other", access = "read-only" }\n[paths]\nhide = ["a/inside/deep", "b/x"]\n'
        }
    )
    first = world.by_directory("srv/data/inside", Arguments()).share
    assert (first.access, first.paths.hide, first.children) == (Access.READ_WRITE, ("deep",), ())
    second = world.by_directory("srv/other", Arguments()).share
    assert (second.access, second.paths.hide) == (Access.READ_ONLY, ("x",))


def test_the_nearest_policy_counts(world: World) -> None:
    world.write({"data.toml": SHARE, "near.toml": '[share]\nsource = "@/srv/data/inside"\ntag = "near"\n'})
    wanted = world.by_directory("srv/data/inside/deep", Arguments())
    assert wanted.policy is not None
    assert wanted.policy.name == "near"


def test_of_two_policies_for_a_directory_the_tag_chooses(world: World) -> None:
    world.write({"a.toml": SHARE, "b.toml": SHARE.replace('"data"', '"b"')})
    assert world.by_directory("srv/data", Arguments(tag="b")).share.name == "b"
    with pytest.raises(PolicyError, match="several policies"):
        world.by_directory("srv/data", Arguments())


def test_a_directory_without_a_policy_is_shared_as_the_arguments_say(world: World) -> None:
    world.write({"data.toml": SHARE})
    wanted = world.by_directory(
        "srv/other", Arguments(tag="t", socket=Path("/run/t"), xattr=True, cache=CacheMode.ALWAYS, socket_mode=0o666)
    )
    assert wanted.policy is None
    assert wanted.share == Share("t", world.root / "srv/other", "t", xattr=True, cache=CacheMode.ALWAYS)
    assert wanted.socket == Socket(Path("/run/t"), 0o666)


def test_a_broken_policy_may_be_the_one_about_the_directory_so_nothing_is_shared(world: World) -> None:
    world.write({"data.toml": SHARE.replace("source", "sorce")})
    with pytest.raises(PolicyError, match="sorce"):
        world.by_directory("srv/data", Arguments(tag="t", socket=Path("/run/t")))


def test_a_broken_policy_keeps_no_other_from_being_run_by_its_name(world: World) -> None:
    world.write({"data.toml": SHARE, "broken.toml": "["})
    wanted = world.by_policy(Arguments())
    assert wanted.share.name == "data"
    assert [problem.file.name for problem in wanted.broken] == ["broken.toml"]


def test_another_directory_of_policies_serves_what_the_standing_ones_do_not_speak_of(world: World) -> None:
    world.write({"data.toml": SHARE, "../../../elsewhere/shares.d/other.toml": SHARE.replace("data", "other")})
    elsewhere = world.root / "elsewhere/shares.d"
    assert world.by_directory("srv/other", Arguments(), elsewhere).share.name == "other"


def test_a_standing_policy_may_be_a_symbolic_link(world: World) -> None:
    world.write({"../kept/real.toml": SHARE})
    world.file("data.toml").symlink_to("../kept/real.toml")
    assert world.by_policy(Arguments()).share.name == "data"


NAMES = st.text(alphabet="ab.", min_size=1, max_size=2).filter(lambda name: name not in (".", ".."))
PATTERNS = st.lists(
    st.lists(st.sampled_from(["**", "*", "a", "b", "a*", "[!a]"]), min_size=1, max_size=3).map("/".join), max_size=2
).map(tuple)


@given(
    st.builds(PathRules, hide=PATTERNS, readonly=PATTERNS, allow=PATTERNS),
    st.lists(NAMES, min_size=1, max_size=2).map(tuple),
    st.lists(NAMES, max_size=3).map(tuple),
)
def test_what_a_guest_sees_and_changes_is_the_same_from_a_directory_inside(
    rules: PathRules, above: tuple[str, ...], path: tuple[str, ...]
) -> None:
    share = Share("x", Path("/srv"), "x", paths=rules)
    try:
        whole = Matcher.of(rules)
    except PatternError:
        return
    try:
        inside = subtree(share, above, Path("/srv").joinpath(*above))
    except HiddenError:
        assert whole.judge(above).hidden
        return
    judged, expected = Matcher.of(inside.paths).judge(path), whole.judge((*above, *path))
    assert judged.hidden == expected.hidden
    assert (judged.frozen or inside.access is Access.READ_ONLY) == expected.frozen
