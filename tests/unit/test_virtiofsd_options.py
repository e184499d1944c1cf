"""virtiofsd's command line: every option of the real one is known in both forms, and has one of three outcomes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.narrowed import POLICIES, gives_no_more
from virtiofs_sandbox.compat import command
from virtiofs_sandbox.compat.meaning import Caller, Meaning
from virtiofs_sandbox.compat.options import OPTIONS, Outcome
from virtiofs_sandbox.compat.parsing import UsageError, items, parse
from virtiofs_sandbox.compat.recognition import is_virtiofsd
from virtiofs_sandbox.policies.machines import Machine
from virtiofs_sandbox.policies.narrowing import CHOOSING, OF_VIRTIOFSD, ROWS, Arguments, WideningError, narrow
from virtiofs_sandbox.policies.policy import Policy
from virtiofs_sandbox.policies.share import CacheMode, LogLevel, SeccompAction, ShareError, Tier

ROOT_CALLER, USER = Caller(0, 0, maps_all=True), Caller(1002, 1002, maps_all=False)
DONE, WARNED, REFUSED = Outcome.CARRIED_OUT, Outcome.WARNING, Outcome.REFUSAL

# virtiofsd 1.13.2 --help, with the deprecated ones, each with values and what becomes of it.
STOCK: dict[str, dict[str | None, Outcome]] = {
    "--shared-dir": {"/": DONE},
    "--socket-path": {"/run/s": DONE},
    "--socket": {"/run/s": DONE},
    "--fd": {"3": DONE},
    "--socket-group": {"0": DONE, "root": DONE},
    "--tag": {"t": DONE},
    "--thread-pool-size": {"0": DONE, "64": DONE},
    "--xattr": {None: DONE},
    "--posix-acl": {None: WARNED},
    "--xattrmap": {":map::user.virtiofsd.:": WARNED},
    "--security-label": {None: WARNED},
    "--sandbox": {"namespace": DONE, "chroot": DONE, "none": DONE, "None": DONE},
    "--seccomp": {"none": WARNED, "kill": DONE, "log": DONE, "trap": DONE},
    "--readonly": {None: DONE},
    "--announce-submounts": {None: DONE},
    "--no-announce-submounts": {None: WARNED},
    "--inode-file-handles": {"never": DONE, "prefer": WARNED, "fallback": WARNED, "mandatory": REFUSED},
    "--cache": {"auto": DONE, "always": DONE, "never": DONE, "metadata": DONE, "Never": DONE},
    "--allow-mmap": {None: WARNED},
    "--no-readdirplus": {None: WARNED},
    "--writeback": {None: DONE},
    "--allow-direct-io": {None: WARNED},
    "--killpriv-v2": {None: WARNED},
    "--no-killpriv-v2": {None: DONE},
    "--preserve-noatime": {None: WARNED},
    "--modcaps": {"-mknod:-setuid": DONE, "+sys_admin": WARNED, "+CAP_MKNOD": WARNED},
    "--log-level": {"error": DONE, "warn": DONE, "info": DONE, "debug": DONE, "trace": DONE, "off": DONE},
    "--syslog": {None: WARNED},
    "--rlimit-nofile": {"0": DONE, "65536": DONE},
    "--uid-map": {":0:0:1:": DONE, ":0:100000:65536:": REFUSED, ":1:100000:65536:": REFUSED},
    "--gid-map": {":0:0:1:": DONE, ":1:100000:65536:": REFUSED},
    "--translate-uid": {
        "map:5:5:10": DONE,
        "host:107:0:1": WARNED,
        "squash-host:0:0:9": WARNED,
        "guest:0:5:1": REFUSED,
    },
    "--translate-gid": {"map:5:5:10": DONE, "host:107:0:1": WARNED, "forbid-guest:0:9": REFUSED, "map:0:5:1": REFUSED},
    "--migration-mode": {"find-paths": WARNED, "file-handles": WARNED},
    "--migration-on-error": {"abort": WARNED, "guest-error": WARNED},
    "--migration-verify-handles": {None: WARNED},
    "--migration-confirm-paths": {None: WARNED},
    "--print-capabilities": {None: DONE},
    "-d": {None: DONE},
    "-f": {None: DONE},
    "-h": {None: DONE},
    "--help": {None: DONE},
    "-V": {None: DONE},
    "--version": {None: DONE},
}
# The same for the list of -o, with what libvirt says that virtiofsd no longer takes.
LEGACY = {
    "source=/": DONE,
    "cache=auto": DONE,
    "cache=always": DONE,
    "cache=none": DONE,
    "cache=metadata": DONE,
    "loglevel=debug": DONE,
    "loglevel=err": DONE,
    "sandbox=namespace": DONE,
    "sandbox=chroot": DONE,
    "xattrmap=:map::user.:": WARNED,
    "modcaps=-mknod": DONE,
    "xattr": DONE,
    "no_xattr": DONE,
    "readdirplus": DONE,
    "no_readdirplus": WARNED,
    "writeback": DONE,
    "no_writeback": DONE,
    "allow_direct_io": WARNED,
    "no_allow_direct_io": DONE,
    "announce_submounts": DONE,
    "killpriv_v2": WARNED,
    "no_killpriv_v2": DONE,
    "posix_acl": WARNED,
    "no_posix_acl": DONE,
    "security_label": WARNED,
    "no_security_label": DONE,
    "posix_lock": WARNED,
    "no_posix_lock": DONE,
    "flock": WARNED,
    "no_flock": DONE,
}
CASES = [(name, value, outcome) for name, values in STOCK.items() for value, outcome in values.items()]


def settled(arguments: list[str], caller: Caller = ROOT_CALLER) -> Meaning:
    meaning = parse(arguments)
    meaning.settle(caller)
    return meaning


def arguments_of(*said: str, caller: Caller = ROOT_CALLER) -> Arguments:
    return command.request_of(parse(said), caller).arguments


@pytest.mark.parametrize(("name", "value", "outcome"), CASES)
def test_every_option_of_virtiofsd_has_its_outcome_in_both_forms(
    name: str, value: str | None, outcome: Outcome
) -> None:
    for said in [[name]] if value is None else [[f"{name}={value}"], [name, value]]:
        meaning = settled(said)
        told = (len(meaning.warnings), len(meaning.refusals))
        assert told == {DONE: (0, 0), WARNED: (1, 0), REFUSED: (0, 1)}[outcome]
        for sentence in (*meaning.warnings, *meaning.refusals):
            assert name in sentence.partition(": ")[0].split(", ")


@pytest.mark.parametrize(("item", "outcome"), LEGACY.items())
def test_every_word_of_the_old_list_has_its_outcome(item: str, outcome: Outcome) -> None:
    for said in (["-o", item], [f"-o{item}"], [f"-o={item}"]):
        meaning = settled(said)
        told = (len(meaning.warnings), len(meaning.refusals))
        assert told == {DONE: (0, 0), WARNED: (1, 0)}[outcome]


def test_the_table_has_what_virtiofsd_has_and_marks_what_is_ours() -> None:
    theirs = [option for option in OPTIONS if not option.ours]
    assert {name for option in theirs for name in option.names} == set(STOCK)
    assert {word for option in theirs for word in option.legacy} == {item.partition("=")[0] for item in LEGACY}
    names = [name for option in OPTIONS for name in (*option.names, *option.legacy)]
    assert len(names) == len(set(names))


def test_an_outcome_is_one_of_those_the_table_admits() -> None:
    admitted = {name: set(option.outcomes) for option in OPTIONS for name in option.names}
    shared = {("--gid-map", REFUSED): "--uid-map", ("--translate-gid", WARNED): "--translate-uid"}
    shared[("--translate-gid", REFUSED)] = "--translate-uid"
    for name, _, outcome in CASES:
        assert outcome in admitted[shared.get((name, outcome), name)], name


def test_what_an_option_can_do_to_a_policy_has_a_row() -> None:
    rows = {row.argument for row in (*CHOOSING, *ROWS, *OF_VIRTIOFSD)}
    assert {option.row for option in OPTIONS if option.row is not None} <= rows
    assert {row.argument for row in OF_VIRTIOFSD} <= {option.row for option in OPTIONS}


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (["--cache", "sometimes"], "--cache sometimes: never, auto, metadata, always are accepted"),
        (["--cahce=never"], "--cahce: virtiofsd has no such option; did you mean --cache?"),
        (["--cache"], "--cache needs a value"),
        (["--cache", "--xattr"], "--cache needs a value"),
        (["--xattr=yes"], "--xattr takes no value"),
        (["share"], "share: every argument of virtiofsd begins with -"),
        (["--fd", "three"], "--fd three: a number is accepted"),
        (["--tag", "t" * 37], "37 bytes: 1 to 36 are accepted"),
        (["--rlimit-nofile=100"], "0 for no change, or 512 and more"),
        (["--uid-map=0:0:1"], "three numbers, as in :0:100000:65536:, are accepted"),
        (["--uid-map=:0:4294967295:2:"], "ids from 0 to 4294967295"),
        (["--translate-uid=turn:0:0:1"], "map:0:100000:65536, are accepted"),
        (["--modcaps=+flying"], "names of capabilities"),
        (["--socket-group", "no such group"], "group of this machine"),
        (["-o", "cache=never"], "-o cache never: auto, always, none, metadata are accepted"),
        (["-o", "cache"], "-o cache needs a value"),
        (["-o", "xattr=on"], "-o xattr takes no value"),
        (["-o", "xatr"], "-o xatr: there is no such word; did you mean xattr?"),
        (["-o"], "-o needs a value"),
    ],
)
def test_what_virtiofsd_would_not_take_is_told_in_a_sentence(said: list[str], complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(said)
    assert complaint in str(caught.value)


def test_libvirts_two_forms_say_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "a,b"
    directory.mkdir()
    listed = str(directory).replace(",", ",,")
    old = arguments_of(
        "--fd=21", "-o", f"source={listed},cache=none,sandbox=chroot,xattr,no_flock,no_posix_lock", "-d",
        "--thread-pool-size=8",
    )  # fmt: skip
    new = arguments_of(
        "--fd=21", "--shared-dir", str(directory), "--cache", "never", "--sandbox", "chroot", "--xattr",
        "--thread-pool-size=8", "--log-level", "debug",
    )  # fmt: skip
    assert dataclasses.replace(old, spelling={}) == dataclasses.replace(new, spelling={})
    assert (new.cache, new.tolerated, new.xattr) == (CacheMode.NEVER, Tier.BARE, True)
    assert (new.fd, new.log_level, new.directory) == (21, LogLevel.DEBUG, directory)
    assert new.machine == Machine()


def test_the_last_of_several_counts_and_the_old_list_after_everything() -> None:
    assert (
        arguments_of("--shared-dir=/x", "--cache=never", "--cache=always", "--shared-dir=/").cache is CacheMode.ALWAYS
    )
    assert arguments_of("-o", "source=/,cache=none", "--cache=always").cache is CacheMode.NEVER
    assert settled(["--inode-file-handles=mandatory", "--inode-file-handles=never"]).refusals == []
    assert settled(["--seccomp=none", "--seccomp=kill"]).warnings == []
    assert settled(["--modcaps=-chown", "--modcaps=-mknod"]).dropped == 1 << 27
    with pytest.raises(UsageError, match="--cache sometimes"):
        parse(["--cache=sometimes", "--cache=never"])


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a,b", ["a", "b"]), ("a,,b", ["a,b"]), ("a,,,b", ["a,", "b"]), ("", []), ("a,", ["a"]), (",,", [","])],
)
def test_a_comma_of_a_value_is_written_twice(text: str, parts: list[str]) -> None:
    assert items(text) == parts


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(lambda part: "," not in part)))
def test_what_is_joined_by_commas_comes_apart_again(parts: list[str]) -> None:
    assert items(",".join(parts)) == parts


def test_all_of_migration_is_one_line() -> None:
    warnings = settled(["--migration-on-error=guest-error", "--migration-mode=find-paths"]).warnings
    assert [line.partition(": ")[0] for line in warnings] == ["--migration-on-error, --migration-mode"]


def test_names_that_cannot_be_mapped_are_refused_only_where_the_guest_would_see_them() -> None:
    alone = settled(["--xattrmap", ":map::user.:"])
    assert (alone.fields, len(alone.warnings), alone.refusals) == ({"no_xattr": True}, 1, [])
    assert len(settled(["--xattrmap", ":map::user.:", "--xattr"]).refusals) == 1


def test_what_the_worker_does_without_is_a_mask_and_a_bound() -> None:
    meaning = settled(["--modcaps=-chown:-cap_setuid", "--rlimit-nofile=1000"])
    assert (meaning.dropped, meaning.nofile) == (1 << 0 | 1 << 7, 1000)
    assert settled(["--rlimit-nofile=0"]).nofile is None


def test_a_socket_made_here_is_for_its_owner_unless_a_group_is_named() -> None:
    assert arguments_of("--shared-dir=/", "--socket-path=/run/s").private
    assert not arguments_of("--shared-dir=/", "--socket-path=/run/s", "--socket-group=0").private
    assert not arguments_of("--shared-dir=/", "--fd=3").private


@pytest.mark.parametrize("said", [["--fd=3", "--socket-path=/s"], ["--fd=3", "--socket-group=0"]])
def test_a_socket_is_either_inherited_or_made(said: list[str]) -> None:
    with pytest.raises(UsageError, match="--fd does not go with"):
        arguments_of("--shared-dir=/", *said)


def test_seccomp_none_leaves_the_filter_as_it_is() -> None:
    assert arguments_of("--shared-dir=/", "--seccomp=none").seccomp is None
    assert arguments_of("--shared-dir=/", "--seccomp=trap").seccomp is SeccompAction.KILL


@pytest.mark.parametrize(
    ("program", "arguments", "recognised"),
    [
        ("/usr/bin/virtiofs-sandbox", ["--fd=3"], True),
        ("/usr/bin/virtiofs-sandbox", ["-o", "source=/"], True),
        ("/usr/bin/virtiofs-sandbox", ["--version"], False),
        ("/usr/bin/virtiofs-sandbox", ["--help"], False),
        ("/usr/bin/virtiofs-sandbox", ["run", "--fd=3"], False),
        ("/usr/bin/virtiofs-sandbox", [], False),
        ("/usr/libexec/virtiofsd", [], True),
        ("virtiofsd", ["--version"], True),
    ],
)
def test_a_command_line_is_recognised_by_its_first_word_or_its_program(
    program: str, arguments: list[str], recognised: bool
) -> None:
    assert is_virtiofsd(program, arguments) == recognised


def test_capabilities_are_told_before_anything_is_loaded() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom virtiofs_sandbox.cli.main import main\n"
        "assert main(['--fd=7', '--print-capabilities']) == 0\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == '{\n  "type": "fs",\n  "features": [\n    "separate-options"\n  ]\n}\n'
    assert not {"argparse", "asyncio", "ctypes", "dataclasses", "json", "msgspec", "socket"} & set(done.stderr.split())
    ours = {name for name in done.stderr.split() if name.startswith("virtiofs_sandbox.")}
    assert ours <= {
        f"virtiofs_sandbox.{name}" for name in ("cli", "cli.main", "cli.text", "compat", "compat.recognition")
    }


# By far the most of what may be said together, each option with a value that it takes.
SAID = st.lists(
    st.sampled_from(
        [name if value is None else f"{name}={value}" for name, value, _ in CASES if name not in ("-h", "-V")]
        + [f"-o{item}" for item in LEGACY]
    ),
    max_size=5,
)


@given(POLICIES, SAID, st.sampled_from([ROOT_CALLER, USER]))
def test_no_command_line_gives_more_than_the_policy(allowed: Policy, said: list[str], caller: Caller) -> None:
    try:
        share, socket = narrow(allowed, arguments_of("--shared-dir=/", *said, caller=caller))
    except (UsageError, command.RefusedError, WideningError):
        return
    gives_no_more(allowed, share, socket)


VALUES = st.sampled_from([value for values in STOCK.values() for value in values if value is not None]) | st.text()
WORDS = st.one_of(
    st.sampled_from(list(STOCK)),
    st.builds("{}={}".format, st.sampled_from(list(STOCK)), VALUES),
    st.builds("-o{}".format, st.lists(st.sampled_from(list(LEGACY)) | st.text()).map(",".join)),
    VALUES,
    st.text(),
)


@given(st.lists(WORDS, max_size=8), st.sampled_from([ROOT_CALLER, USER]))
def test_whatever_is_said_is_understood_or_told_in_a_sentence(said: list[str], caller: Caller) -> None:
    try:
        arguments_of(*said, caller=caller)
    except (UsageError, command.RefusedError, ShareError) as error:
        assert str(error)
        assert str(error).isprintable() or not isinstance(error, UsageError)
