"""Every refusal of a policy or an argument, as a person reads it: snapshots/policy_messages.txt, line by line.

UPDATE=1 writes the file anew; read the difference before you commit it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.unit.generated import holds
from tests.unit.policy_world import World
from virtiofs_sandbox import policies
from virtiofs_sandbox.policies.loader import find, load, load_directory
from virtiofs_sandbox.policies.machines import Machine
from virtiofs_sandbox.policies.narrowing import Arguments, WideningError
from virtiofs_sandbox.policies.offer import MissingArgumentError
from virtiofs_sandbox.policies.ownership import MAX_BYTES
from virtiofs_sandbox.policies.patterns import PatternError, split
from virtiofs_sandbox.policies.problems import PolicyError
from virtiofs_sandbox.policies.share import CacheMode, SeccompAction, Tier
from virtiofs_sandbox.policies.values import Refused, absolute_path

SNAPSHOT = Path(__file__).with_name("snapshots") / "policy_messages.txt"
SHARE = '[share]\nsource = "@/srv/data"\ntag = "data"\n'
READ_ONLY = f'{SHARE}access = "read-only"\n'
OTHER = '[share]\nsource = "@/srv/other"\ntag = "other"\n'
OTHERS_UID = 4_000_000_000
# What makes a refusal out of a sentence.
MAKERS = {
    "HiddenError",
    "MissingArgumentError",
    "PatternError",
    "Problem",
    "Refused",
    "Verdict",
    "WideningError",
    "_problem",
    "_refuse",
    "_report",
    "of_file",
    "widening",
}

Action = Callable[[World], object]


def loaded(name: str = "data.toml") -> Action:
    return lambda world: load(world.file(name), world.policies)


def all_loaded(world: World) -> object:
    return load_directory(world.policies)


def by_policy(name: str = "data.toml", **said: Any) -> Action:
    return lambda world: world.by_policy(Arguments(**said), name)


def by_directory(directory: str, policies: str | None = None, **said: Any) -> Action:
    def action(world: World) -> object:
        where = None if policies is None else world.root / policies
        return world.by_directory(directory, Arguments(**said), where)

    return action


@dataclass(frozen=True)
class Case:
    title: str
    files: Mapping[str, str] = field(default_factory=dict)
    action: Action = field(default_factory=loaded)
    prepare: Callable[[World], object] = lambda world: None


def single(title: str, text: str) -> Case:
    return Case(title, {"data.toml": text})


def lines(count: int) -> str:
    return ", ".join(f'"p{number}"' for number in range(count))


def chown(name: str) -> Callable[[World], object]:
    return lambda world: os.chown(world.file(name), OTHERS_UID, OTHERS_UID)


def for_a_foreign_group(world: World) -> None:
    os.chown(world.file("data.toml"), -1, OTHERS_UID)
    world.file("data.toml").chmod(0o664)


FILES = [
    Case("a policy that is not there, and none else", action=lambda world: find("data", world.policies)),
    Case(
        "a policy that is not there, and one like it",
        {"data.toml": SHARE},
        lambda world: find("date", world.policies),
    ),
    Case(
        "a policy that is not there, and others",
        {"data.toml": SHARE},
        lambda world: find("xyz", world.policies),
    ),
    Case("a file that is not there", action=lambda world: find(os.fspath(world.file("x.toml")), world.policies)),
    Case("a file that is not there any more"),
    Case(
        "a directory of policies that is none",
        action=lambda world: load_directory(world.file("data.toml")),
        prepare=lambda world: world.file("data.toml").touch(),
    ),
    Case(
        "symbolic links in a circle",
        prepare=lambda world: world.file("data.toml").symlink_to("data.toml"),
    ),
    Case("a directory for a file", prepare=lambda world: world.file("data.toml").mkdir()),
    Case("a FIFO for a file", prepare=lambda world: os.mkfifo(world.file("data.toml"))),
    Case("too long", {"data.toml": "#" * (MAX_BYTES + 1)}),
    Case("no UTF-8", {"data.toml": f"{SHARE}# \udcff\n"}),
    Case("writable by everybody", {"data.toml": SHARE}, prepare=lambda world: world.file("data.toml").chmod(0o666)),
    Case(
        "a directory above writable by everybody",
        {"data.toml": SHARE},
        prepare=lambda world: world.policies.chmod(0o777),
    ),
    Case("a file of somebody else", {"data.toml": SHARE}, prepare=chown("data.toml")),
    Case("a directory of somebody else", {"data.toml": SHARE}, prepare=chown(".")),
    Case(
        "writable by a foreign group",
        {"data.toml": SHARE},
        prepare=for_a_foreign_group,
    ),
    Case(
        "a name that cannot be printed",
        {"da\tta.toml": SHARE},
        loaded("da\tta.toml"),
    ),
]

SYNTAX = [
    single("no value", "[share]\nsource = \n"),
    single("an end too early", '[share]\nsource = "x'),
    single("a key twice", "[share]\nxattr = true\nxattr = false\n"),
    single("nested too deeply", f"x = {'[' * 5000}{']' * 5000}\n"),
]

KEYS = [
    single("nothing", ""),
    single("only a tag", '[share]\ntag = "t"\n'),
    single("no tag", '[share]\nsource = "/srv"\n'),
    single("a typo", '[share]\nsorce = "/srv"\ntag = "t"\n'),
    single("a key of another table", SHARE + 'hide = ["x"]\n'),
    single("a typo in a table's name", f"{SHARE}[path]\nhide = []\n"),
    single("an unknown table", f"{SHARE}[wonder]\nx = 1\n"),
    single("an unknown key of a socket", SHARE + 'socket = { pth = "/run/x" }\n'),
    single("an unknown key that cannot be printed", f'{SHARE}"a\\nb" = 1\n'),
    single("a value for a table", f'cache = "auto"\n{SHARE}'),
    single("numbers for text", "[share]\ntag = 1\nsource = 1.5\n"),
    single("a date", "[share]\ntag = 2020-01-01\nsource = true\n"),
    single("a list for text", '[share]\ntag = ["t"]\nsource = { x = 1 }\n'),
    single("text for a flag", SHARE + 'xattr = "yes"\n'),
    single("a flag for a number", f"{SHARE}[worker]\nqueues = true\n"),
    single("a number in a list", f'{SHARE}[paths]\nhide = ["ok", 1]\n'),
    single("a word like one that is known", SHARE + 'access = "readonly"\n'),
    single("a word like none", SHARE + 'access = "maybe"\n'),
]

VALUES = [
    single("a relative path", '[share]\nsource = "data"\ntag = "t"\n'),
    single("a path with NUL", '[share]\nsource = "/a\\u0000"\ntag = "t"\n'),
    single("a long tag", '[share]\nsource = "/srv"\ntag = "ttttttttttttttttttttttttttttttttttttt"\n'),
    single("a tag that cannot be printed", '[share]\nsource = "/srv"\ntag = "a\\nb"\n'),
    single("an empty tag", '[share]\nsource = "/srv"\ntag = ""\n'),
    single("a mode in decimal", SHARE + 'socket = { mode = "999" }\n'),
    single("a setuid mode", SHARE + 'socket = { mode = "4660" }\n'),
    single("no such group", SHARE + 'socket = { group = "no such group" }\n'),
    single("a group out of range", SHARE + "socket = { group = -1 }\n"),
    single("a duration without unit", f'{SHARE}[cache]\ntimeout = "1"\n'),
    single("a duration as a number", f"{SHARE}[cache]\ntimeout = 1\n"),
    single("an unknown unit", f'{SHARE}[cache]\ntimeout = "5 parsecs"\n'),
    single("a duration too fine", f'{SHARE}[cache]\ntimeout = "0.5ms"\n'),
    single("a duration too long", f'{SHARE}[cache]\ntimeout = "25h"\n'),
    single("rates of nothing and without a time", f'{SHARE}[limits.requests]\nread = "200MiB"\nwrite = "0MiB/s"\n'),
    *(
        single(f"a rate: {key} = {value}", f"{SHARE}[limits.requests]\n{key} = {value}\n")
        for key, value in [
            ("read", '"-1MiB/s"'),
            ("read", '"1mb/s"'),
            ("write", '"2TiB/s"'),
            ("write", '"15KiB/s"'),
            ("write", '"16384.5B/s"'),
            ("read", "1000000"),
            ("read-ops", '"0/s"'),
            ("write-ops", '"10MiB/s"'),
            ("metadata-ops", '"1.5/s"'),
            ("metadata-ops", '"9999999999999/s"'),
            ("metadata_ops", '"1/s"'),
            ("burst", '"0s"'),
            ("burst", '"61s"'),
            ("max-delay", '"0ms"'),
            ("max-delay", '"forever"'),
        ]
    ),
    single("limits without a rate", f'{SHARE}[limits.requests]\nburst = "1s"\nmax-delay = "1s"\n'),
    single("text for a table", f'{SHARE}[limits]\nrequests = "200MiB/s"\n'),
    single("a rate beside the table for it", f'{SHARE}[limits]\nread = "200MiB/s"\n'),
    *(
        single(f"a limit of control groups: {table}.{key} = {value}", f"{SHARE}[limits.{table}]\n{key} = {value}\n")
        for table, key, value in [
            ("disk", "read", '"0MiB/s"'),
            ("disk", "read", '"-1MiB/s"'),
            ("disk", "write", '"20MiB"'),
            ("disk", "write", '"20Mb/s"'),
            ("disk", "write", "20"),
            ("disk", "read-ops", '"0/s"'),
            ("disk", "write-ops", '"-5/s"'),
            ("disk", "write_ops", '"5/s"'),
            ("disk", "weight", "0"),
            ("disk", "weight", "10001"),
            ("disk", "latency", '"5"'),
            ("disk", "latency", '"2m"'),
            ("disk", "latencies", '"5ms"'),
            ("memory", "max", '"1GiB/s"'),
            ("memory", "max", '"0B"'),
            ("memory", "max", '"31MiB"'),
            ("memory", "high", '"2000TiB"'),
            ("memory", "high", '"33554432.5B"'),
            ("cpu", "max", '"0%"'),
            ("cpu", "max", '"999999%"'),
            ("cpu", "max", '"half"'),
            ("cpu", "max", '"0.5ms/100ms"'),
            ("cpu", "max", '"20ms/2000ms"'),
            ("cpu", "max", "1"),
            ("cpu", "weight", "-1"),
            ("pids", "max", "31"),
            ("pids", "max", '"100"'),
        ]
    ),
    single("a number for the table of limits", f"limits = 0\n{SHARE}"),
    single("a choice that is none", f'{SHARE}[limits]\nunenforceable = "ignore"\n'),
    single("text for a table", f'{SHARE}[limits]\ndisk = "20MiB/s"\n'),
    single("a disk's rate beside the table for it", f'{SHARE}[limits]\nwrite = "20MiB/s"\n'),
    single("no owner", f'{SHARE}[identity]\nmap = "squash"\nowner = "1000"\n'),
    single("no such user", f'{SHARE}[identity]\nmap = "squash"\nowner = "no such user:0"\n'),
    single("an owner out of range", f'{SHARE}[identity]\nmap = "squash"\nowner = "4294967295:99999999999"\n'),
    single("too many queues", f"{SHARE}[worker]\nqueues = 9\n"),
    single("a range of nothing", f'{SHARE}[identity]\nmap = "range"\nrange = {{ first = 0, count = 0 }}\n'),
    single("a word for a range", f'{SHARE}[identity]\nmap = "range"\nrange = "subgid"\n'),
    single(
        "names in a tree",
        '[share]\ntag = "t"\n[share.tree]\n"a/b" = "/a"\n".." = "/b"\n"a\\tb" = "/c"\n"" = "/d"\n'
        f'"{"é" * 128}" = "/e"\n',
    ),
    single("values in a tree", '[share]\ntag = "t"\n[share.tree]\na = 1\nb = "b"\nc = { sorce = "/c" }\nd = {}\n'),
    single(
        "what is no pattern",
        f"{SHARE}[paths]\nhide = [\n"
        + "".join(
            f"  {pattern},\n"
            for pattern in (
                '""',
                '"/"',
                '"/a"',
                '"a//b"',
                '"./a"',
                '"a/.."',
                '"a**"',
                '"[a"',
                '"[z-a]"',
                "'a\\'",
                '"a\\u0000"',
                f'"{"a" * 1025}"',
            )
        )
        + "]\n",
    ),
]

# What TOML cannot say, but a caller in Python can.
VALUES += [
    Case("a path in no encoding", action=lambda world: absolute_path("/\ud800")),
    Case("a pattern in no encoding", action=lambda world: split("\ud800")),
]

RESERVED = [
    single("known but not yet: a table", f"{SHARE}[limits.open_files]\nmax = 5\n"),
    single(
        "known but not yet: keys",
        f"{SHARE}posix_acl = true\nxattrmap = []\n[cache]\ndirect_io = true\n"
        "[identity]\ntranslate = []\n[sandbox]\nuser_namespace = false\n[worker]\npoll-budget = 1\n",
    ),
]

CLIENTS = [
    single("several clients and a cache for one", f'{SHARE}max_clients = 2\n[cache]\nintent = "exclusive"\n'),
    single("several clients and writeback", f"{SHARE}max_clients = 2\n[cache]\nwriteback = true\n"),
    single(
        "several clients and limits too low for each",
        f'{SHARE}max_clients = 64\n[limits.requests]\nread = "512KiB/s"\nwrite-ops = "63/s"\n[limits.pids]\nmax = 64\n',
    ),
    single("a socket for nobody, with no label", SHARE + 'socket = { owner = "no-such-user", label = "x y" }\n'),
    single("no number of clients", f"{SHARE}max_clients = 0\n"),
    single("no time to be stuck after", f'{SHARE}[worker]\nstuck_after = "1s"\n'),
]

PROGRAM = 'program = "/usr/libexec/virtiofsd"\n'
PROGRAMS = [
    single(
        "what a stock virtiofsd cannot carry out",
        f'{SHARE}[cache]\ntimeout = "5s"\n[paths]\nhide = ["x"]\nstrict_links = true\n[identity]\nunmapped = "squash"\n'
        f'[limits.requests]\nread = "1MiB/s"\nburst = "2s"\n[worker]\nqueues = 2\nstuck_after = "10s"\n{PROGRAM}',
    ),
    single("a program by its name", f'{SHARE}[worker]\nprogram = "virtiofsd"\n'),
    single(
        "options that would change the jail",
        f"{SHARE}[worker]\nprogram = {{ path = '/x', arguments = ['--sandbox'] }}\n",
    ),
    single(
        "too many threads", f"{SHARE}[worker]\nprogram = {{ path = '/x', arguments = ['--thread-pool-size=33'] }}\n"
    ),
    single("a table without the program", f"{SHARE}[worker]\nprogram = {{ arguments = [] }}\n"),
    single("a loader without libraries", f"{SHARE}[worker]\nprogram = {{ path = '/x', loader = '/l' }}\n"),
    Case(
        "a group with a budget of requests",
        {
            "../defaults.toml": '[groups.disk1.requests]\nread = "10MiB/s"\n',
            "data.toml": f'{SHARE}[limits.group]\nname = "disk1"\n[worker]\n{PROGRAM}',
        },
        loaded(),
    ),
]

DISK1 = '[groups.disk1.requests]\nread = "10MiB/s"\nmetadata-ops = "500/s"\n[groups.disk1.disk]\nwrite = "5MiB/s"\n'
DEFAULTS = "../defaults.toml"

GROUPS = [
    Case(
        "a group that is not there",
        {DEFAULTS: DISK1 + "[groups.slow]\n", "data.toml": f'{SHARE}[limits.group]\nname = "disk2"\n'},
        loaded(),
    ),
    single("a group where there is none", f'{SHARE}[limits.group]\nname = "disk1"\n'),
    Case(
        "a group without a budget",
        {DEFAULTS: "[groups.slow]\n", "data.toml": f'{SHARE}[limits.group]\nname = "slow"\n'},
        loaded(),
    ),
    Case(
        "limits above the parent's",
        {
            DEFAULTS: DISK1,
            "data.toml": f'{SHARE}[limits.group]\nname = "disk1"\n[limits.requests]\nread = "20MiB/s"\n'
            'metadata-ops = "501/s"\nwrite = "1GiB/s"\n[limits.disk]\nwrite = "5.5MiB/s"\n',
        },
        loaded(),
    ),
    single("a weight in no group, and no weight", f"{SHARE}[limits.group]\nweight = 0\n"),
    single("a weight in no group", f"{SHARE}[limits.group]\nweight = 100\n"),
    single("no name of a group", f'{SHARE}[limits.group]\nname = "a/b"\n'),
    single("a budget in a policy", SHARE + DISK1),
    Case(
        "budgets that say what they cannot",
        {
            DEFAULTS: '[groups."a b".requests]\nread = "0MiB/s"\nburst = "1s"\n[groups]\nx = 1\n'
            '[groups.y.disk]\nmetadata-ops = "1/s"\nwrites = "1/s"\n',
            "data.toml": SHARE,
        },
        loaded(),
    ),
]

TOGETHER = [
    single("a mark above the end", f'{SHARE}[limits.memory]\nhigh = "2GiB"\nmax = "1GiB"\n'),
    single("a control group of the site", f'{SHARE}[limits]\nparent = "/machine.slice"\n'),
    single("a directory and a tree", SHARE + 'tree = { a = "/a" }\n'),
    single("nobody's", f"{SHARE}vms = []\n"),
    single("a machine that has no name", f'{SHARE}vms = ["a", "b\\n"]\n'),
    single("an empty tree", '[share]\ntag = "t"\ntree = {}\n'),
    single(
        "a tree that may more than the share",
        '[share]\ntag = "t"\naccess = "read-only"\n[share.tree]\na = { source = "/a", access = "read-write" }\n',
    ),
    single(
        "one directory in a tree twice, writable and not",
        '[share]\ntag = "t"\n[share.tree]\na = "@/srv/data"\n'
        'b = { source = "@/srv/data/inside", access = "read-only" }\n',
    ),
    single("intent and mode", f'{SHARE}[cache]\nintent = "exclusive"\nmode = "auto"\n'),
    single("writeback with a shared intent", f'{SHARE}[cache]\nintent = "shared-read"\nwriteback = true\n'),
    single("writeback without a cache", f'{SHARE}[cache]\nmode = "never"\nwriteback = true\n'),
    single("an owner without squash", f'{SHARE}[identity]\nowner = "0:0"\n'),
    single("a range without range", f'{SHARE}[identity]\nmap = "identity"\nrange = "subuid"\nidmapped = true\n'),
    single("half a range", f'{SHARE}[identity]\nmap = "range"\nrange = {{ first = 1 }}\n'),
    single(
        "a range beyond the end",
        f'{SHARE}[identity]\nmap = "range"\nrange = {{ first = 4294967294, count = 2 }}\n',
    ),
    single("too many patterns", f"{SHARE}[paths]\nhide = [{lines(200)}]\nreadonly = [{lines(57)}]\n"),
    single(
        "too many patterns with those of a tree",
        '[share]\ntag = "t"\n[share.tree]\na = { source = "/a", access = "read-only" }\n'
        f"[paths]\nhide = [{lines(256)}]\n",
    ),
    single(
        "a range of letters that small letters turn around", f'{SHARE}[paths]\ncase = "insensitive"\nhide = ["[A-_]"]\n'
    ),
]

SEVERAL = [
    Case(
        "a tag twice",
        {"a.toml": SHARE, "b.toml": OTHER.replace('"other"', '"data"')},
        all_loaded,
    ),
    Case(
        "a socket twice",
        {"a.toml": f'{SHARE}socket = "/run/s"\n', "b.toml": f'{OTHER}socket = {{ path = "/run/s" }}\n'},
        all_loaded,
    ),
    Case(
        "one directory, writable and not",
        {"a.toml": SHARE, "b.toml": READ_ONLY.replace('"data"', '"b"')},
        all_loaded,
    ),
    Case(
        "a directory inside another, writable and not",
        {"a.toml": READ_ONLY, "b.toml": '[share]\nsource = "@/srv/data/inside"\ntag = "b"\n'},
        all_loaded,
    ),
    Case(
        "a directory around another, writable and not",
        {"a.toml": READ_ONLY, "b.toml": '[share]\nsource = "@/srv"\ntag = "b"\n'},
        all_loaded,
    ),
    Case("everything wrong with several files", {"a.toml": "x = 1\n", "b.toml": "[share]\n"}, all_loaded),
    Case(
        "a policy that contradicts another, by name",
        {"data.toml": SHARE, "b.toml": READ_ONLY.replace('"data"', '"b"')},
        by_policy(),
    ),
    Case("site settings in a policy", {"data.toml": f"{SHARE}[site]\nrequire_policy = true\n"}),
    Case("a share in the defaults", {"../defaults.toml": f'{SHARE}socket = "/run/s"\n', "data.toml": SHARE}),
    Case(
        "a control group by its place in the file system",
        {"../defaults.toml": '[limits]\nparent = "machine.slice/../x"\n', "data.toml": SHARE},
    ),
    Case("a mistake in the defaults", {"../defaults.toml": "[cache]\nmode = 1\n", "data.toml": SHARE}),
    Case(
        "a mistake in the defaults, without a policy",
        {"../defaults.toml": "[site]\nrequire_policy = 1\n"},
        by_directory("srv/data", tag="t", socket=Path("/run/s")),
    ),
    Case("metrics for other machines", {"../defaults.toml": '[site]\nmetrics = "0.0.0.0:9100"\n', "data.toml": SHARE}),
    Case("an include that is not there", {"data.toml": f'include = ["x.toml"]\n{SHARE}'}),
    Case("includes that are no relative paths", {"data.toml": f'include = ["/etc/x.toml", "", 1]\n{SHARE}'}),
    Case(
        "an include of links in a circle",
        {"data.toml": f'include = ["loop"]\n{SHARE}'},
        prepare=lambda world: world.file("loop").symlink_to("loop"),
    ),
    Case("an include of itself", {"data.toml": f'include = ["data.toml"]\n{SHARE}'}),
    Case(
        "includes in a circle",
        {"data.toml": f'include = ["../a"]\n{SHARE}', "../a": 'include = ["b"]\n', "../b": 'include = ["a"]\n'},
    ),
    Case(
        "includes too deep",
        {
            "data.toml": f'include = ["../1"]\n{SHARE}',
            **{f"../{number}": f'include = ["{number + 1}"]\n' for number in range(1, 6)},
            "../6": "",
        },
    ),
    Case("a share in an include", {"data.toml": f'include = ["../a"]\n{SHARE}', "../a": '[share]\ntag = "x"\n'}),
]

ARGUMENTS = [
    Case(
        "arguments that widen",
        {
            "data.toml": f'{SHARE}[share.socket]\npath = "/run/s"\nmode = "0600"\ngroup = 0\n'
            '[sandbox]\nminimum = "full"\n'
        },
        by_policy(
            socket=Path("/tmp/s"),  # noqa: S108 - named, not made
            socket_mode=0o660,
            socket_group=1,
            cache=CacheMode.ALWAYS,
            xattr=True,
            minimum=Tier.BARE,
            worker=Path("/bin/true"),
        ),
    ),
    Case(
        "a descriptor where the file names a socket",
        {"data.toml": f'{SHARE}socket = {{ mode = "0600" }}\n'},
        by_policy(fd=3),
    ),
    Case("a group where the file names none", {"data.toml": SHARE}, by_policy(socket_group=1)),
    Case(
        "more cache than the intent has",
        {"data.toml": f'{SHARE}[cache]\nintent = "shared-write"\n'},
        by_policy(cache=CacheMode.AUTO),
    ),
    Case(
        "more than the policy has, by virtiofsd's command line",
        {"data.toml": f'{SHARE}listen = "once"\n'},
        by_directory(
            "srv/data",
            writeback=True,
            seccomp=SeccompAction.LOG,
            persistent=True,
            cache=CacheMode.ALWAYS,
            spelling={"--cache": "-o cache"},
        ),
    ),
    Case(
        "a directory of another machine's policy",
        {"data.toml": f'{SHARE}vms = ["web*"]\n'},
        by_directory("srv/data/inside", machine=Machine("db")),
    ),
    Case(
        "a directory of a machine's policy where no machine is known",
        {"data.toml": f'{SHARE}vms = ["web*"]\n'},
        by_directory("srv/data", machine=Machine()),
    ),
    Case("a directory around one of a policy", {"data.toml": SHARE}, by_directory("srv", tag="t")),
    Case(
        "a directory that the policy hides",
        {"data.toml": f'{SHARE}[paths]\nhide = ["inside"]\n'},
        by_directory("srv/data/inside/deep"),
    ),
    Case(
        "a directory that the policy does not allow",
        {"data.toml": f'{SHARE}[paths]\nallow = ["public"]\n'},
        by_directory("srv/data/inside"),
    ),
    Case(
        "a directory with too many patterns below",
        {
            "data.toml": f"{SHARE}[paths]\nhide = ["
            + ", ".join(f'"**/inside/**/inside/p{number}"' for number in range(200))
            + "]\n"
        },
        by_directory("srv/data/inside"),
    ),
    Case(
        "a directory of two policies",
        {"a.toml": SHARE, "b.toml": SHARE.replace('"data"', '"b"')},
        by_directory("srv/data", tag="t"),
    ),
    Case(
        "a directory without a policy where one is required",
        {"../defaults.toml": "[site]\nrequire_policy = true\n"},
        by_directory("srv/other", tag="t", socket=Path("/run/s")),
    ),
    Case(
        "another directory of policies where one is required",
        {"../defaults.toml": "[site]\nrequire_policy = true\n"},
        by_directory("srv/other", "elsewhere/shares.d", tag="t", socket=Path("/run/s")),
    ),
    Case(
        "another directory of policies, to get around one",
        {"data.toml": READ_ONLY},
        by_directory("srv/data/inside", "elsewhere/shares.d", tag="t", socket=Path("/run/s")),
    ),
    Case(
        "a file from elsewhere, to get around a policy",
        {"data.toml": READ_ONLY, "../../../elsewhere/x.toml": SHARE},
        by_policy("../../../elsewhere/x.toml"),
    ),
    Case(
        "a file from elsewhere where a policy is required",
        {"../defaults.toml": "[site]\nrequire_policy = true\n", "../../../elsewhere/x.toml": SHARE},
        by_policy("../../../elsewhere/x.toml"),
    ),
    Case("neither policy nor tag", {}, by_directory("srv/other")),
    Case("neither policy nor socket", {}, by_directory("srv/other", tag="t")),
]

SECTIONS = {
    "Finding and reading a file": FILES,
    "Syntax": SYNTAX,
    "Keys and types": KEYS,
    "Values": VALUES,
    "Known, but not in this version": RESERVED,
    "Clients and their socket": CLIENTS,
    "Another program as the worker": PROGRAMS,
    "What does not go together": TOGETHER,
    "Budgets of several shares": GROUPS,
    "Several files": SEVERAL,
    "Arguments": ARGUMENTS,
}


def refusal(case: Case, world: World) -> str:
    world.write(case.files)
    case.prepare(world)
    with pytest.raises((PolicyError, WideningError, MissingArgumentError, Refused, PatternError)) as caught:
        case.action(world)
    return world.without_root(str(caught.value))


def messages(root: Path) -> Iterator[str]:
    for section, cases in SECTIONS.items():
        yield f"# {section}"
        for number, case in enumerate(cases):
            with pytest.MonkeyPatch.context() as monkeypatch:
                world = World(root / f"{section[:3]}{number}", monkeypatch)
                yield f"\n{case.title}:\n{refusal(case, world)}"
        yield ""


def sentences() -> Iterator[tuple[str, str]]:
    """Every piece of text in the package that becomes part of a refusal, and where it stands."""
    for file in sorted(Path(os.path.realpath(policies.__path__[0])).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                made = name in MAKERS
            else:
                made = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "sentence"
            for piece in ast.walk(node) if made else ():
                if isinstance(piece, ast.Constant) and isinstance(piece.value, str) and " " in piece.value.strip():
                    yield piece.value, f"{file.name}:{piece.lineno}"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners are made: needs root")
def test_every_refusal_reads_as_it_did_and_none_is_missing(tmp_path: Path) -> None:
    text = "\n".join(messages(tmp_path)) + "\n"
    holds(SNAPSHOT, text)
    assert [f"{place}: {piece}" for piece, place in sentences() if piece not in text] == []
