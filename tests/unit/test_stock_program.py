"""What a policy comes to for a stock virtiofsd: its options, its files, and the system calls that it is left."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest
from tests.guest.stock import LIBRARIES, LOADER, PROGRAM
from tests.unit.test_launch_plan import ROOT
from tests.unit.test_seccomp_filters import (
    CLONE3,
    KEY,
    KILLED,
    NEEDS,
    NEWEST_NUMBER,
    REFUSED,
    UNFILTERED,
    forms,
    number,
    wrong,
)
from tests.verdicts import Attempt, Verdict, verdicts
from virtiofs_sandbox.confine import (
    CannotConfineError,
    calls,
    foreign,
    lessening,
    prepare,
    seccomp,
    stockcalls,
)
from virtiofs_sandbox.confine.account import Launch, account
from virtiofs_sandbox.confine.account.program import FALLEN_AWAY
from virtiofs_sandbox.confine.calls import Needs
from virtiofs_sandbox.confine.capabilities import Capability, mask
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Child,
    Identity,
    IdMap,
    LogLevel,
    Program,
    Sandbox,
    SeccompAction,
    Share,
    Tier,
)

EVERYTHING = mask(*(capability for capability in Capability if capability is not Capability.DAC_READ_SEARCH))
STOCK = Program(PROGRAM, LOADER, (LIBRARIES,))
SHARE = Share("data", Path("/srv/data"), "data", queues=1, stuck_after=None, program=STOCK)
fetched = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not there: make peer fetches it")


def options(share: Share, as_one: tuple[int, int] | None = None, kept: int = EVERYTHING) -> list[str]:
    return [option.decode() for option in foreign.arguments(share, as_one=as_one, kept=kept)]


def but(**fields: object) -> Share:
    return dataclasses.replace(SHARE, **fields)  # type: ignore[arg-type]


def test_its_own_confinement_is_off_where_ours_holds_already() -> None:
    assert options(SHARE) == [
        "--fd=3",
        "--shared-dir=/share",
        "--sandbox=none",
        "--seccomp=kill",
        "--rlimit-nofile=0",
        "--inode-file-handles=never",
        "--log-level=info",
        "--tag=data",
        "--cache=auto",
    ]


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (but(access=Access.READ_ONLY), "--readonly"),
        (but(cache=CacheMode.METADATA), "--cache=metadata"),
        (but(writeback=True), "--writeback"),
        (but(xattr=True), "--xattr"),
        (but(tag="two words"), "--tag=two words"),
        (but(log_level=LogLevel.WARNING), "--log-level=warn"),
        (but(log_level=LogLevel.DEBUG), "--log-level=debug"),
        (but(sandbox=Sandbox(seccomp=SeccompAction.LOG)), "--seccomp=log"),
        (but(program=dataclasses.replace(STOCK, arguments=("--allow-mmap",))), "--allow-mmap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_key_that_it_can_carry_out_is_an_option(share: Share, wanted: str) -> None:
    (option,) = set(options(share)) - set(options(SHARE)) or {wanted}
    assert option == wanted
    assert wanted in options(share)


def test_it_asks_for_no_capability_that_it_was_not_given() -> None:
    assert "--modcaps=-mknod:-setfcap" in options(SHARE, kept=EVERYTHING & ~mask(Capability.MKNOD, Capability.SETFCAP))


def test_one_owner_of_everything_is_a_translation_of_every_id() -> None:
    made = options(SHARE, as_one=(1000, 100))
    assert "--translate-uid=squash-guest:0:1000:4294967295" in made
    assert "--translate-gid=squash-guest:0:100:4294967295" in made


@fetched
def test_the_plan_is_that_of_the_same_share_by_our_own_worker_but_for_the_program() -> None:
    by_us = prepare(but(program=None), ROOT, worker=Path("/usr/bin/virtiofs-worker"))
    by_it = prepare(SHARE, ROOT, worker=None)
    changed = {
        field.name
        for field in dataclasses.fields(by_us)
        if getattr(by_us, field.name) != getattr(by_it, field.name) and field.name != "exec_key"
    }
    assert changed == {"worker", "capabilities", "seccomp", "seccomp_unlogged", "filters", "attached", "program"}
    assert by_it.capabilities == by_us.capabilities | mask(Capability.SETPCAP)
    assert by_it.program is not None
    assert by_it.worker == bytes(LOADER)
    assert (bytes(PROGRAM), b"/program") in by_it.program.files
    assert (bytes(LIBRARIES / "libc.so.6"), b"/lib/libc.so.6") in by_it.program.files
    # Files are read, none of them written; nothing but the loader can be executed.
    assert {rights for _, rights in by_it.program.readable} == {4, 8, 4 | 8}


@fetched
def test_what_the_caller_takes_from_it_it_does_not_ask_for() -> None:
    plan = lessening.lessened(prepare(SHARE, ROOT, worker=None), dropped=mask(Capability.CHOWN, Capability.SETPCAP))
    assert plan.program is not None
    assert b"--modcaps=-chown:-mknod:-setfcap" in plan.program.arguments
    assert len([argument for argument in plan.program.arguments if argument.startswith(b"--modcaps")]) == 1
    assert not plan.capabilities & mask(Capability.CHOWN)
    # Without this one it does not start; it drops it itself.
    assert plan.capabilities & mask(Capability.SETPCAP)


@fetched
def test_an_ordinary_user_has_it_act_as_himself() -> None:
    user = dataclasses.replace(ROOT, uid=1000, gid=100, capabilities=0, identity_errno=errno.EPERM)
    plan = prepare(SHARE, user, worker=None)
    assert plan.program is not None
    assert b"--translate-uid=squash-guest:0:1000:4294967295" in plan.program.arguments
    assert not plan.capabilities & mask(Capability.SETPCAP)


def test_without_mounts_of_its_own_there_is_no_jail_for_it() -> None:
    pod = dataclasses.replace(ROOT, mounts_errno=errno.EPERM, mounts_call="unshare")
    with pytest.raises(CannotConfineError, match="takes a root of its own"):
        prepare(but(sandbox=Sandbox(minimum=Tier.BARE), identity=Identity(map=IdMap.SQUASH)), pod, worker=None)


def test_a_program_that_is_not_there_is_refused_by_the_policys_key() -> None:
    with pytest.raises(CannotConfineError, match=r"^worker\.program: /nonexistent/virtiofsd: No such file"):
        prepare(but(program=Program(Path("/nonexistent/virtiofsd"))), ROOT, worker=None)


def test_without_a_worker_installed_a_share_that_names_no_program_is_refused() -> None:
    with pytest.raises(CannotConfineError, match=r"install with the worker .*worker\.program"):
        prepare(but(program=None), ROOT, worker=None)


@fetched
def test_directories_and_libraries_share_the_room_of_one_message() -> None:
    children = tuple(Child(f"d{index}", Path("/srv")) for index in range(250))
    with pytest.raises(CannotConfineError, match="together fewer than"):
        prepare(but(source=None, children=children), ROOT, worker=None)


# System calls.


@pytest.mark.parametrize("needs", NEEDS, ids=str)
def test_it_may_call_what_its_table_says_and_no_neighbour(needs: Needs) -> None:
    assert wrong([seccomp.stock_program(KEY, needs)], (*stockcalls.allowed(needs), calls.execveat(KEY))) == []


def test_whatever_else_has_a_number_is_refused_or_deadly() -> None:
    named = {number(call.name) for call in (*stockcalls.allowed(Needs()), calls.execveat(KEY))}
    deadly = {number(name) for name in stockcalls.DEADLY}
    others = [other for other in range(NEWEST_NUMBER) if other not in named | UNFILTERED | {CLONE3}]
    found = verdicts([seccomp.stock_program(KEY)], [Attempt(other) for other in others])
    assert {o: v for o, v in zip(others, found, strict=True) if v != (KILLED if o in deadly else REFUSED)} == {}
    # Nothing that is deadly to our own worker is open to it beyond what it cannot do without.
    assert set(calls.KILLED) - set(stockcalls.DEADLY) == {"capset", "setresuid", "setresgid", "setgroups", "unshare"}


def test_a_namespace_of_its_own_and_another_real_uid_are_refused() -> None:
    new_user_namespace, every_bit = 0x10000000, 0xFFFFFFFF
    attempts = [
        Attempt(number("unshare"), (new_user_namespace, 0, 0, 0, 0, 0)),
        Attempt(number("setresuid"), (0, every_bit, every_bit, 0, 0, 0)),
        Attempt(number("clone"), (new_user_namespace, 0, 0, 0, 0, 0)),
        Attempt(number("mmap"), (0, 4096, 7, 0x22, every_bit, 0)),
        Attempt(number("mprotect"), (0, 4096, 5, 0, 0, 0)),
        Attempt(number("execve")),
    ]
    found = verdicts([seccomp.stock_program(KEY)], attempts)
    assert found == [REFUSED] * 5 + [KILLED]


def test_a_share_that_is_not_changed_has_no_call_that_changes_files() -> None:
    reading = {call.name for call in stockcalls.allowed(NEEDS[2])}
    assert not reading & {"mkdirat", "unlinkat", "pwritev2", "fchownat", "setresuid", "fsetxattr", "ftruncate"}
    assert {call.name for call in stockcalls.allowed(Needs())} >= reading


def test_the_program_that_waits_looks_at_the_one_call_and_lets_all_others_pass() -> None:
    allowed = [call for call in stockcalls.allowed(Needs()) if call.name != "accept4"]
    tried = [(call.name, arguments) for call in allowed for arguments in forms(call)]
    found = verdicts([seccomp.waiting_program()], [Attempt(number(name), arguments) for name, arguments in tried])
    assert set(found) == {Verdict()}


@fetched
def test_explain_names_the_files_it_gets_and_every_promise_that_falls_away() -> None:
    plan = prepare(SHARE, ROOT, worker=None)
    sections = {section.key: section.statements for section in account(Launch(SHARE, None, None, plan, ROOT))}
    said = " ".join(statement.text for statement in sections["program"])
    assert all(sentence in said for sentence in FALLEN_AWAY.values())
    assert f"{LIBRARIES / 'libc.so.6'} as /lib/libc.so.6" in " ".join(one.text for one in sections["mounts"])
    assert [one.key for one in sections["descriptors"]] == ["0", "1", "2", "3", "others"]
