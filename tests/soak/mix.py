"""What happens to a site under soak: one step after the other, chosen by a seed, each checked for what it must do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from virtiofs_sandbox.cli.asking import RefusedError
from virtiofs_sandbox.cli.status import Status
from virtiofs_sandbox.ipc import requests
from virtiofs_sandbox.ipc.requests import Done, Limits, Listing, ListShares, Reload, Reloaded, Standing

from tests.guest.service import PROGRAM, alive
from tests.guest.vring import RingError
from tests.soak.client import Client
from tests.soak.site import Policy, Site

BROKEN = ("[share\n", '[share]\nsource = "relative"\n', '[share]\ntag = "x"\nunheard = 1\n', "\xff\n")
_STORM = 8
_ABOVE = "900MiB/s"
_LIMITS = (("read", "none"), ("read", "100MiB/s"), ("read", _ABOVE), ("metadata-ops", "3000/s"))
_COMMANDS = (["status"], ["status", "--json"], ["top", "--once"], ["policy", "list"])
# The worker's connection is closed, the supervisor's copy of it too.
_ENDED = (ConnectionError, RingError, BrokenPipeError)


@dataclass
class Share:
    """*policy* is in force; *removed* and *stopped*: it accepts nobody."""

    name: str
    policy: Policy
    client: Client | None = None
    removed: bool = False
    stopped: bool = False
    broken: bool = False

    @property
    def in_service(self) -> bool:
        return not self.removed and not self.stopped


class Mix:
    """Steps on *site*, with its own *shares* and chance."""

    def __init__(self, site: Site, shares: int, chance: random.Random) -> None:
        """Every fourth share has control groups."""
        self.site = site
        self.chance = chance
        self.done: Counter[str] = Counter()
        self.killed = 0
        self.shares = []
        for number in range(shares):
            name = f"share{number:03}"
            site.add(name)
            share = Share(
                name, dataclasses.replace(self._policy(), control=site.allowed.limits if number % 4 == 0 else "")
            )
            site.write(name, share.policy)
            self.shares.append(share)
        self._steps: dict[Callable[[], None], int] = {
            self.connect: 24,
            self.storm: 2,
            self.use: 24,
            self.fly: 12,
            self.land: 12,
            self.leave: 14,
            self.leave_in_flight: 5,
            self.kill_worker: 3,
            self.kill_keeper: 2,
            self.kill_warm: 1,
            self.kill_zygote: 1,
            self.edit: 5,
            self.edit_now: 1,
            self.break_policy: 2,
            self.mend_policy: 2,
            self.remove: 1,
            self.bring_back: 2,
            self.hang_up_the_line: 3,
            self.limit: 4,
            self.ask: 6,
            self.ask_for_figures: 2,
            self.scrape: 1,
            self.command: 1,
            self.restart: 2,
            self.stop_share: 1,
            self.crowd: 2,
            self.keep_company: 3,
        }

    def step(self) -> None:
        """One of them, if there is something for it to be done to."""
        (action,) = self.chance.choices(list(self._steps), list(self._steps.values()))
        action()
        self.done[action.__name__] += 1

    # Clients.

    def connect(self) -> None:
        share = self._any(lambda share: share.in_service and share.client is None)
        if share is not None:
            self._enter(share).begin()

    def storm(self) -> None:
        """Many at the same time, before any of them says a word."""
        clients = []
        for _ in range(_STORM):
            share = self._any(lambda share: share.in_service and share.client is None)
            if share is not None:
                clients.append(self._enter(share))
        for client in clients:
            client.begin()

    def use(self) -> None:
        def work(client: Client) -> None:
            client.look()
            client.change()

        self._with_client(work)

    def fly(self) -> None:
        self._with_client(Client.send)

    def land(self) -> None:
        self._with_client(Client.collect)

    def leave(self) -> None:
        share = self._any(lambda share: share.client is not None)
        if share is not None:
            self._let_go(share)

    def leave_in_flight(self) -> None:
        share = self._with_client(Client.send)
        if share is not None and share.client is not None:
            self._let_go(share)

    def hang_up_the_line(self) -> None:
        """Connects and leaves before anybody can have served it."""
        share = self._any(lambda share: share.in_service)
        if share is not None:
            self._visitor(share).close()

    def crowd(self) -> None:
        """Second monitors on a share that has one: they wait, and give up."""
        share = self._any(lambda share: share.in_service and share.client is not None)
        if share is not None:
            for visitor in [self._visitor(share) for _ in range(3)]:
                visitor.close()

    def keep_company(self) -> None:
        """A second monitor on a share that takes two, each in a jail of its own."""
        share = self._any(lambda share: share.in_service and share.client is not None and share.policy.several)
        if share is not None:
            company = self._visitor(share)
            company.begin()
            company.look()
            company.change()
            company.close()

    # Deaths.

    def kill_worker(self) -> None:
        self._kill_jail(lambda keeper, workers: workers[0])

    def kill_keeper(self) -> None:
        self._kill_jail(lambda keeper, workers: keeper)

    def kill_warm(self) -> None:
        """A jail that nobody uses."""
        busy = {share.name for share in self.shares if share.client is not None}
        idle = [keeper for keeper, _ in self.site.jails() if self.site.share_of(keeper) not in busy]
        if idle:
            self._kill(self.chance.choice(idle))

    def kill_zygote(self) -> None:
        for pid in self.site.zygotes():
            self._kill(pid)

    def kill_supervisor(self) -> float:
        """Its jails go with it; the next one finds its sockets and control groups. Returns how long that one took."""
        self.site.kill()
        for share in self.shares:
            if share.client is not None:
                share.client.doomed = "the supervisor was killed"
                self._see_it_end(share)
            share.stopped = False
            if share.broken:
                # What was in force is forgotten, its socket with it; a mistake leaves the share out.
                share.removed = True
                self.site.forget_socket(share.name)
        self.done["kill_supervisor"] += 1
        return self.site.start()

    # The policies.

    def edit(self) -> None:
        self._edit(now=False)

    def edit_now(self) -> None:
        self._edit(now=True)

    def break_policy(self) -> None:
        """Nothing changes, whoever asks."""
        share = self._any(lambda share: share.in_service and not share.broken)
        if share is None:
            return
        self.site.write(share.name, self.chance.choice(BROKEN))
        share.broken = True
        self._expect_refusal(Reload(share=share.name), Status.FAILED)

    def mend_policy(self) -> None:
        share = self._any(lambda share: share.broken)
        if share is not None:
            self._take_up(share, share.policy, now=False)

    def remove(self) -> None:
        share = self._any(lambda share: not share.removed and not share.broken)
        if share is not None:
            self.site.write(share.name, None)
            share.removed = True
            self._reload()

    def bring_back(self) -> None:
        share = self._any(lambda share: not share.in_service and not share.broken)
        if share is not None:
            self._take_up(share, share.policy, now=False)

    # Questions.

    def limit(self) -> None:
        share = self._any(lambda share: share.in_service)
        if share is None:
            return
        key, wanted = self.chance.choice(_LIMITS)
        request = requests.SetLimits(share=share.name, set={key: wanted})
        if wanted == _ABOVE and share.policy.read is not None:
            self._expect_refusal(request, Status.WIDENS)
        else:
            self.site.ask(request, Limits)

    def ask(self) -> None:
        share = self.chance.choice(self.shares)
        if self.chance.random() < 0.3:
            names = {one.share for one in self.site.ask(ListShares(), Listing).shares}
            missing = {share.name for share in self.shares if not share.removed} - names
            if missing:
                raise AssertionError(f"`list` leaves out {missing}")
        elif not share.removed:
            standing = self.site.ask(requests.ReadStatus(share=share.name), Standing)
            if share.client is not None and share.client.doomed is None and standing.client is None:
                raise AssertionError(f"{share.name} has a client, and `status` says {standing}")

    def ask_for_figures(self) -> None:
        """Of what has happened, in numbers and in lines."""
        figures = self.site.ask(requests.ReadFigures(), requests.Figures)
        known = {share.name for share in self.shares}
        if strangers := {one.share for one in figures.shares} - known:
            raise AssertionError(f"figures of shares that are none: {strangers}")
        share = self.chance.choice(self.shares)
        lines = self.site.ask(requests.ReadLog(share=share.name, lines=20), requests.Log).lines
        if any(line.share != share.name for line in lines):
            raise AssertionError(f"lines of other shares in the log of {share.name}: {lines}")

    def scrape(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.site.metrics))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        if not answer.startswith(b"HTTP/1.1 200 ") or b"\nvirtiofs_sandbox_shares " not in answer:
            raise AssertionError(f"metrics: {answer[:200]!r}")

    def command(self) -> None:
        """As a person asks."""
        command = self.chance.choice(_COMMANDS)
        about_policies = command[0] == "policy"
        place = f"--policy-dir={self.site.policies}" if about_policies else f"--control-dir={self.site.control}"
        done = subprocess.run([str(PROGRAM), *command, place], capture_output=True, text=True, timeout=60, check=False)
        broken = any(share.broken for share in self.shares)
        if done.returncode and not (broken and about_policies):
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr}")

    def restart(self) -> None:
        share = self._any(lambda share: share.in_service)
        if share is None:
            return
        now = self.chance.random() < 0.3
        self.site.ask(requests.Restart(share=share.name, now=now), Done)
        if now and share.client is not None:
            share.client.doomed = "restarted, and its client was not to be waited for"
            self._see_it_end(share)

    def stop_share(self) -> None:
        share = self._any(lambda share: share.in_service and not share.broken)
        if share is not None:
            self.site.ask(requests.Stop(share=share.name), Done)
            share.stopped = True

    # The end.

    def wind_up(self) -> None:
        """Everybody leaves, every policy is as it should be, and nothing is stopped."""
        for share in self.shares:
            if share.client is not None:
                self._let_go(share)
            if share.broken or not share.in_service or share.policy.socket != Policy.socket:
                share.policy = dataclasses.replace(share.policy, socket=Policy.socket)
                self.site.write(share.name, share.policy)
                share.broken = share.removed = share.stopped = False
        refused = self._reload().refused
        if refused:
            raise AssertionError(f"policies that were mended are refused: {refused}")

    def visit_all(self) -> None:
        """Each share serves a client as its policy says, and lets it go."""
        for share in self.shares:
            client = self._enter(share)
            client.begin()
            client.look()
            client.change()
            self._let_go(share)

    # Inside.

    def _policy(self) -> Policy:
        chance = self.chance
        return Policy(
            readonly=chance.random() < 0.3,
            several=chance.random() < 0.3,
            cache=chance.choice(("auto", "never", "metadata")),
            log_level=chance.choice(("info", "warning", "debug")),
            hide=chance.choice(((), (), ("secret",), ("**/secret",))),
            read=chance.choice((None, None, "200MiB/s")),
        )

    def _any(self, fit: Callable[[Share], bool]) -> Share | None:
        found = [share for share in self.shares if fit(share)]
        return self.chance.choice(found) if found else None

    def _enter(self, share: Share) -> Client:
        share.client = self._visitor(share)
        return share.client

    def _visitor(self, share: Share) -> Client:
        policy, name = share.policy, share.name
        place = self.site.sockets / f"{name}.{policy.socket}"
        readonly, hidden = policy.readonly, bool(policy.hide)
        return Client(name, self.site.source(name), place, readonly=readonly, hidden=hidden)

    def _with_client(self, work: Callable[[Client], None]) -> Share | None:
        """Has a client do something; the share, if it has one still. A connection may end only if it was ended."""
        share = self._any(lambda share: share.client is not None)
        if share is None or share.client is None:
            return None
        try:
            work(share.client)
        except _ENDED:
            if share.client.doomed is None:
                raise
            self._let_go(share)
            return None
        return share

    def _let_go(self, share: Share) -> None:
        assert share.client is not None
        share.client.close()
        share.client = None

    def _see_it_end(self, share: Share) -> None:
        assert share.client is not None
        if not share.client.is_closed():
            raise AssertionError(f"{share.name}: {share.client.doomed}, and the monitor's connection stays open")
        self._let_go(share)

    def _kill_jail(self, whom: Callable[[int, tuple[int, ...]], int]) -> None:
        """One that serves, and its client sees it; with requests in flight as likely as not."""
        share = self._any(lambda share: share.client is not None)
        if share is None or share.client is None:
            return
        jails = [jail for jail in self.site.jails() if self.site.share_of(jail[0]) == share.name and jail[1]]
        if len(jails) != 1:
            # One that was replaced is still going.
            return
        ((keeper, workers),) = jails
        if self.chance.random() < 0.5:
            share.client.send()
        share.client.doomed = "its jail was killed"
        self._kill(whom(keeper, workers))
        self._see_it_end(share)

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed += 1
        self.site.wait(lambda: not alive(pid), f"reap {pid}")

    def _edit(self, *, now: bool) -> None:
        share = self._any(lambda share: not share.removed and not share.broken)
        if share is None:
            return
        moved = self.chance.random() < 0.2
        place = self.chance.choice(("fs.sock", "other.sock")) if moved else share.policy.socket
        self._take_up(share, dataclasses.replace(self._policy(), control=share.policy.control, socket=place), now=now)

    def _take_up(self, share: Share, policy: Policy, *, now: bool) -> None:
        """What a client in place sees of the new policy depends on when it takes it over: it is let go."""
        self.site.write(share.name, policy)
        if share.client is not None:
            share.client.send()
        self.site.ask(Reload(share=share.name, now=now), Reloaded)
        share.policy, share.broken, share.removed, share.stopped = policy, False, False, False
        if share.client is None:
            return
        with contextlib.suppress(*_ENDED if now else ()):
            share.client.collect()
        self._let_go(share)

    def _reload(self) -> Reloaded:
        """All policies, by signal and by request; what was stopped comes back by it."""
        if self.chance.random() < 0.5:
            self.site.process.send_signal(signal.SIGHUP)
        outcome = self.site.ask(Reload(), Reloaded)
        for share in self.shares:
            share.stopped = False
        return outcome

    def _expect_refusal(self, request: requests.Request, status: Status) -> None:
        try:
            self.site.ask(request, object)
        except RefusedError as error:
            if error.status is status:
                return
            raise
        raise AssertionError(f"{request} was carried out")
