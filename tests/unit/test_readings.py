"""All shares of a supervisor: told in parts, none missing and none twice, whatever workers claim."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.fakes.launching import PLAN, fake_launching
from virtiofs_sandbox.ipc.exits import Ending
from virtiofs_sandbox.ipc.requests import Figures, decode_reply, encode
from virtiofs_sandbox.ipc.stats import BUCKETS, WORDS, decode
from virtiofs_sandbox.policies.share import Share
from virtiofs_sandbox.supervisor.active import ActiveShare, Common
from virtiofs_sandbox.supervisor.denials import Denials
from virtiofs_sandbox.supervisor.events import Event, WorkerEnded
from virtiofs_sandbox.supervisor.metrics.exposition import Exposition
from virtiofs_sandbox.supervisor.metrics.table import PREFIX
from virtiofs_sandbox.supervisor.readings import figures
from virtiofs_sandbox.supervisor.spares import Spares
from virtiofs_sandbox.supervisor.tallies import Tallies
from virtiofs_sandbox.supervisor.timing import Timing
from virtiofs_sandbox.supervisor.zygotes import Zygotes

MOST = 2**64 - 1


def with_shares(tmp_path: Path, number: int, look: Callable[[list[ActiveShare]], Awaitable[None]]) -> None:
    """*look* gets shares that nobody uses and whose workers have claimed the most there is."""

    async def play() -> None:
        events: list[Event] = []
        tallies = Tallies(events.append)
        zygotes = Zygotes("all", fake_launching(), events.append)
        common = Common(zygotes, Denials(tallies.show), tallies.show, Timing(), tmp_path, (), Spares(0), tallies)
        shares = []
        for place in range(number):
            name = f"share-{place:03}"
            shares.append(ActiveShare(Share(name=name, source=tmp_path, tag="t"), PLAN, common))
            for _ in range(2):
                tallies.show(WorkerEnded(name, 1, None, Ending(0, None), True, decode([MOST] * WORDS)))
        try:
            await look(shares)
        finally:
            zygotes.close()

    asyncio.run(play())


def parts(shares: list[ActiveShare]) -> Iterator[Figures]:
    after = None
    while True:
        reply = decode_reply(encode(figures(shares, after))[4:])
        assert isinstance(reply, Figures)
        yield reply
        if not reply.more:
            return
        after = reply.shares[-1].share


def test_however_many_shares_and_whatever_they_claim_every_part_fits_and_none_is_missing(tmp_path: Path) -> None:
    async def look(shares: list[ActiveShare]) -> None:
        found = list(parts(shares[::-1]))
        assert len(found) > 1
        names = [one.share for reply in found for one in reply.shares]
        assert names == [share.name for share in shares]
        first = found[0].shares[0]
        assert (first.requests, first.latency["read"]) == (MOST, (MOST,) * BUCKETS)
        assert (first.state, first.client, first.inodes) == ("idle", None, 0)

    with_shares(tmp_path, 200, look)


def test_behind_the_last_name_there_is_nothing_more(tmp_path: Path) -> None:
    async def look(shares: list[ActiveShare]) -> None:
        reply = figures(shares, "share-001")
        assert ([one.share for one in reply.shares], reply.more) == (["share-002"], False)
        assert figures(shares, "z").shares == ()

    with_shares(tmp_path, 3, look)


def test_of_many_shares_each_metric_has_one_head_and_a_line_for_every_share(tmp_path: Path) -> None:
    async def look(shares: list[ActiveShare]) -> None:
        lines = (await Exposition().text(shares, 3)).decode().splitlines()
        heads = [line for line in lines if line.startswith("# TYPE")]
        assert len(heads) == len(set(heads))
        for name in ("read_bytes_total", "restarts_total", "disk_reads_total"):
            assert sum(line.startswith(f"# TYPE {PREFIX}{name} ") for line in lines) == 1
        told = [line for line in lines if line.startswith(f"{PREFIX}read_bytes_total{{")]
        assert len(told) == len(set(told)) == len(shares)
        assert f"{PREFIX}shares_absent 3.0" in lines

    with_shares(tmp_path, 40, look)


def test_while_metrics_are_written_the_loop_goes_on(tmp_path: Path) -> None:
    async def look(shares: list[ActiveShare]) -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        other = asyncio.ensure_future(others())
        await Exposition().text(shares, 0)
        other.cancel()
        assert turns > len(shares)

    with_shares(tmp_path, 40, look)
