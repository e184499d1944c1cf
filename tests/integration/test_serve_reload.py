"""Policies that come, go and change under a `serve`: what each share takes over when, and what stays as it was."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.serving import Policies, Serving

ME = f"pid {os.getpid()} (uid {os.geteuid()})"
NEVER = '[cache]\nmode = "never"'
HIDDEN = '[paths]\nhide = ["secret"]'


@pytest.fixture
def policies(tmp_path: Path) -> Policies:
    found = Policies(tmp_path)
    for name in ("one", "two"):
        found.put(name)
    return found


@pytest.fixture
def serving(policies: Policies) -> Iterator[Serving]:
    with Serving(policies.place) as running:
        yield running.ready()


def test_shares_are_added_removed_and_changed_and_the_others_do_not_notice(
    serving: Serving, policies: Policies
) -> None:
    caller = serving.client("one")
    policies.put("three")
    policies.remove("two")
    policies.put("one", HIDDEN)
    assert serving.said("reload") == ["two: removed", "one: paths.hide gains 'secret'", "three: added"]
    assert serving.states() == {"one": "serving", "three": "warm"}
    assert not (policies.place / "two.sock").exists()
    assert serving.client("three")
    # The same by signal.
    policies.remove("three")
    policies.put("two")
    serving.process.send_signal(signal.SIGHUP)
    serving.until(lambda: serving.states() == {"one": "serving", "two": "warm"}, "follow")
    assert caller.served()
    assert serving.said("reload") == ["nothing changed"]
    assert serving.stop() == 0
    serving.nobody_left()


def test_a_client_of_a_removed_share_stays_until_it_leaves_and_the_share_may_come_back(
    serving: Serving, policies: Policies
) -> None:
    caller = serving.client("one")
    policies.remove("one")
    later = f"takes effect when the client leaves: one: it ends when {ME} has left"
    assert serving.said("reload") == ["one: removed", later]
    assert not (policies.place / "one.sock").exists()
    assert serving.reason("one") == "its policy is gone"
    policies.put("one", HIDDEN)
    assert serving.said("reload") == ["one: paths.hide gains 'secret'", "one: accepting connections again"]
    assert serving.reason("one") == ""
    assert caller.served()
    policies.remove("one")
    serving.said("reload", "one")
    caller.close()
    serving.until(lambda: serving.states() == {"two": "warm"}, "forget it with its client")


def test_now_ends_the_client_of_what_is_removed_or_needs_a_new_jail_and_no_other(
    serving: Serving, policies: Policies
) -> None:
    policies.put("three")
    serving.said("reload")
    gone, changed, other = (serving.client(name) for name in ("one", "two", "three"))
    policies.remove("one")
    policies.put("two", NEVER)
    policies.put("three", HIDDEN)
    assert serving.said("reload", "--now") == [
        "one: removed",
        "three: paths.hide gains 'secret'",
        "two: cache auto -> never",
    ]
    assert gone.closed()
    assert changed.closed()
    assert other.served()
    again = serving.client("two")
    assert serving.states() == {"three": "serving", "two": "serving"}
    assert again.served()


def test_what_needs_a_new_jail_waits_for_the_client_without_now(serving: Serving, policies: Policies) -> None:
    caller = serving.client("one")
    policies.put("one", NEVER, tag='"other"')
    said = serving.said("reload", "one")
    assert said == [
        "tag 'one' -> 'other'",
        "cache auto -> never",
        "takes effect when the client leaves: tag 'one' -> 'other'",
        "takes effect when the client leaves: cache auto -> never",
    ]
    assert caller.served()
    assert serving.standings()["one"].generation == 1
    caller.close()
    serving.until(lambda: serving.states()["one"] == "warm", "launch another")
    assert serving.standings()["one"].tag == "other"


def test_a_broken_file_loses_nothing_and_takes_nobody_with_it(serving: Serving, policies: Policies) -> None:
    caller = serving.client("one")
    policies.write("one", "[share]\nsourc = 1\n")
    policies.write("three", "nonsense")
    policies.put("two", HIDDEN)
    done = serving.ask("reload")
    assert (done.returncode, done.stdout) == (1, "two: paths.hide gains 'secret'\n")
    complaints = done.stderr.splitlines()
    assert [line.split(":")[1].strip() for line in complaints if line.startswith("virtiofs-sandbox")] == [
        "one",
        "three",
    ]
    # A rule may take another jail.
    serving.until(lambda: serving.states() == {"one": "serving", "three": "failed", "two": "warm"}, "settle")
    assert serving.reason("one").startswith("served by what its policy said before this mistake: ")
    assert caller.served()
    assert serving.ask("reload", "one").returncode == 1
    serving.logged("sourc: unknown key")
    policies.put("one", HIDDEN)
    policies.remove("three")
    assert serving.said("reload") == ["one: paths.hide gains 'secret'"]
    assert serving.reason("one") == ""


def test_a_policy_that_contradicts_one_in_service_is_refused_and_that_one_stays(
    serving: Serving, policies: Policies
) -> None:
    caller = serving.client("one")
    # Before it by name, and as good a policy.
    policies.put("another", tag='"one"')
    done = serving.ask("reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "has the tag 'one' already" in done.stderr
    assert serving.states() == {"another": "failed", "one": "serving", "two": "warm"}
    assert caller.served()


def test_a_source_that_is_gone_leaves_the_share_as_it_was(serving: Serving, policies: Policies) -> None:
    caller = serving.client("one")
    policies.put("one", source="elsewhere")
    (policies.place / "elsewhere").rmdir()
    done = serving.ask("reload", "one")
    assert (done.returncode, done.stdout) == (1, "")
    assert "elsewhere: No such file or directory" in done.stderr
    assert caller.served()
    assert serving.client("two")


def test_a_socket_moves_and_whoever_is_served_stays(serving: Serving, policies: Policies) -> None:
    caller = serving.client("one")
    new = policies.place / "moved.sock"
    policies.put("one", socket=f'"{new}"')
    assert serving.said("reload", "one") == [f"socket {policies.place}/one.sock -> {new}"]
    assert not (policies.place / "one.sock").exists()
    assert caller.served()
    caller.close()
    assert serving.connect(new).served()
    # Its mode only: there is a socket at every moment.
    policies.put("one", socket=f'{{ path = "{new}", mode = "0600" }}')
    serving.said("reload", "one")
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    serving.until(lambda: serving.connect(new).served(), "serve there")


def test_a_socket_that_cannot_be_made_leaves_the_one_there_is(serving: Serving, policies: Policies) -> None:
    taken = policies.place / "taken"
    taken.touch()
    policies.put("one", HIDDEN, socket=f'"{taken}"')
    done = serving.ask("reload", "one")
    assert done.stdout == "paths.hide gains 'secret'\n"
    assert "the socket stays: " in done.stderr
    assert serving.client("one")
    taken.unlink()
    assert serving.said("reload", "one") == [f"socket {policies.place}/one.sock -> {taken}"]


def test_a_socket_may_take_the_place_of_one_that_moves_away(serving: Serving, policies: Policies) -> None:
    policies.put("one", socket=f'"{policies.place}/two.sock"')
    policies.put("two", socket=f'"{policies.place}/three.sock"')
    serving.said("reload")
    sockets = {name: share.socket for name, share in serving.standings().items()}
    assert sockets == {"one": f"{policies.place}/two.sock", "two": f"{policies.place}/three.sock"}
    assert serving.client("two")


def test_a_renamed_file_is_a_share_that_goes_and_one_that_comes(serving: Serving, policies: Policies) -> None:
    caller = serving.client("one")
    (policies.directory / "one.toml").rename(policies.directory / "uno.toml")
    said = serving.said("reload")
    assert said[:2] == ["one: removed", "uno: added"]
    assert serving.states() == {"one": "serving", "two": "warm", "uno": "warm"}
    assert serving.client("one")
    assert caller.served()


def test_only_the_share_that_is_named_follows_its_policy(serving: Serving, policies: Policies) -> None:
    policies.put("one", HIDDEN)
    policies.put("two", HIDDEN)
    policies.put("three")
    assert serving.said("reload", "three") == ["added"]
    assert serving.said("reload", "one") == ["paths.hide gains 'secret'"]
    assert serving.said("reload", "two") == ["paths.hide gains 'secret'"]
    policies.remove("three")
    assert serving.said("reload", "three") == ["removed"]
    unknown = serving.ask("reload", "three")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no such policy" in unknown.stderr


def test_broken_site_defaults_leave_everything_as_it_was(serving: Serving, policies: Policies) -> None:
    (policies.place / "defaults.toml").write_text("[share]\naccess = 1\n")
    policies.put("three")
    assert serving.ask("reload").returncode == 1
    assert serving.states() == {"one": "warm", "three": "failed", "two": "warm"}
    assert serving.client("one")
    (policies.place / "defaults.toml").unlink()
    assert serving.said("reload") == ["three: added"]
