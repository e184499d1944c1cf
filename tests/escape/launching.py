#!/usr/bin/env python3
"""Launches by every kind of caller, identity and share, one scenario per process; the result as JSON on stdout.

tests/guard.py --work DIR -- [tests.environments NAME --work DIR --] launching.py SCENARIO DIR WORKER [OPTION=VALUE ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from virtiofs_sandbox.confine import LaunchPlan, MountAction, MountChange, mountplan, prepare, probe_host, seccomp
from virtiofs_sandbox.confine.rules import worker_rules
from virtiofs_sandbox.launcher import Jail, Launcher, LaunchError, Zygote, forking
from virtiofs_sandbox.policies.share import Access, Child, Identity, IdMap, PathRules, Sandbox, Share, Tier

from tests.escape import serving
from tests.escape.jailing import running
from tests.guest import fuse
from tests.guest.frontend import FrontEnd, FuseError
from tests.guest.fuse import Opcode

# Loaded before privileges are given up: their files may lie where only root reads.
assert forking and seccomp

Options = dict[str, str]
Result = dict[str, Any]
OPEN_SECONDS = 5.0
ZYGOTE_HOLDS = 4


class Work:
    """A directory with a share and a secret beside it, and a zygote of whoever runs this."""

    def __init__(self, work: Path, worker: Path) -> None:
        self.worker = worker
        self.share = work / "share"
        self.share.mkdir()
        (self.share / "file").write_text("of the share")
        self.secret = work / "secret"
        self.secret.write_text("of the host")
        self.zygote = Zygote.start()

    def plan(self, **changes: Any) -> LaunchPlan:
        return self.plan_of(self.share_of(**changes))

    def share_of(self, **changes: Any) -> Share:
        wanted: dict[str, Any] = {"source": self.share, "xattr": True, "sandbox": Sandbox(minimum=Tier.BARE)}
        return Share(name="probe", tag="tag", **(wanted | changes))

    def plan_of(self, share: Share) -> LaunchPlan:
        return prepare(share, probe_host(), worker=self.worker)


def serve(work: Path, worker: Path, options: Options) -> Result:
    """A real worker answers as the one the policy wants; whose file it is then on the host."""
    if "groups" in options:
        os.setgroups([int(group) for group in options["groups"].split(",")])
    place = Work(work, worker)
    if options.get("owner"):
        for path in (place.share, place.share / "file"):
            os.chown(path, int(options["owner"]), int(options["owner"]))
    if options.get("closed"):
        work.chmod(0o700)
    plan = place.plan(identity=_identity(options))
    caller = int(options.get("caller", "0"))

    async def run() -> Result:
        async with running(Launcher(place.zygote), plan, serving.document(plan)) as jail:
            with serving.connect(jail.control) as guest:
                guest.start(queues=3)
                guest.init()
                refused = guest.request(Opcode.CREATE, fuse.create(b"made", os.O_RDWR), uid=caller).error
                seen = _seen(jail.jail)
                read = _read(guest, b"file")
            os.set_blocking(jail.log, False)
            log = b""
            with contextlib.suppress(BlockingIOError):
                log = os.read(jail.log, 65536)
            made = place.share / "made"
            owner = [made.stat().st_uid, made.stat().st_gid] if made.exists() else None
            return seen | {"refused": refused, "owner": owner, "read": read, "log": log.decode()}

    return asyncio.run(run()) | {"tier": plan.tier.value, "warnings": plan.warnings}


def every_request(work: Path, worker: Path, options: Options) -> Result:
    """As in test_serving, in this environment."""
    place = Work(work, worker)
    plan = place.plan()

    async def run() -> Result:
        async with running(Launcher(place.zygote), plan, serving.document(plan)) as jail:
            answered = serving.every_request(jail.control, "client left")
            os.set_blocking(jail.log, False)
            with contextlib.suppress(BlockingIOError):
                answered["log"] = os.read(jail.log, 65536).decode()
            return answered

    return asyncio.run(run()) | {"tier": plan.tier.value}


def host(work: Path, worker: Path, options: Options) -> Result:
    """What this caller finds out about the host."""
    left_out = ("uid_map", "gid_map", "hierarchies")
    return {name: value for name, value in vars(probe_host()).items() if name not in left_out}


def nothing_survives(work: Path, worker: Path, options: Options) -> Result:
    """Kills the keeper of a jail at work, as the supervisor does, and looks for whoever is left of it."""
    place = Work(work, worker)
    plan = place.plan()

    async def run() -> list[int]:
        async with running(Launcher(place.zygote), plan, serving.document(plan)) as jail:
            with serving.connect(jail.control) as guest:
                guest.start(queues=3)
                guest.init()
                group = _group(jail.jail.pid)
            return group

    group = asyncio.run(run())
    deadline = time.monotonic() + OPEN_SECONDS
    while any(Path(f"/proc/{pid}").exists() for pid in group) and time.monotonic() < deadline:
        time.sleep(0.01)
    place.zygote.close()
    return {"group": len(group), "left": [pid for pid in group if Path(f"/proc/{pid}").exists()]}


def _group(leader: int) -> list[int]:
    """Everybody in the keeper's session, as this process sees them."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, ProcessLookupError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def held_rules(work: Path, worker: Path, options: Options) -> Result:
    """A share with exact rules, seen through the jail's own mounts by somebody who may do anything."""
    place = Work(work, worker)
    _furnish(place.share)
    rules = PathRules(
        readonly=("frozen", "open/frozen-file", "through-link/file", "not-there"), hide=("hidden", "*.key")
    )
    share = place.share_of(paths=rules, identity=_identity(options))
    plan = place.plan_of(share)

    async def run() -> Result:
        async with running(Launcher(place.zygote), plan, serving.document(plan, worker_rules(share))) as jail:
            inside = Path(f"/proc/{jail.jail.pid}/root/share")
            result = {
                "root": sorted(os.listdir(inside.parent)),
                "up": sorted(os.listdir(inside / "..")),
                "written_in_root": _write(inside.parent / "new"),
                "written": {name: _write(inside / name) for name in WRITTEN},
                "hidden": _hidden(inside),
                "unheld": [os.fsdecode(path) for path in jail.jail.unheld],
            }
            with serving.connect(jail.control) as guest:
                guest.start(queues=3)
                guest.init()
                result["read"] = [_read(guest, name) for name in (b"file", b"frozen/file")]
            return result

    return asyncio.run(run()) | {"rules": {rule.pattern: [rule.held, rule.why] for rule in plan.rules}}


WRITTEN = ("file", "frozen/file", "frozen/deep/file", "frozen/new", "open/file", "open/frozen-file")


def _furnish(share: Path) -> None:
    for folder in ("frozen/deep", "open", "hidden"):
        (share / folder).mkdir(parents=True)
        (share / folder / "file").write_text("of the share")
    (share / "frozen/file").write_text("of the share")
    (share / "open/frozen-file").write_text("of the share")
    (share / "through-link").symlink_to("open")


def _hidden(inside: Path) -> Result:
    return {"mode": (inside / "hidden").stat().st_mode & 0o7777, "entries": _entries(inside / "hidden")}


def _entries(directory: Path) -> list[str] | str:
    """Its entries; or the errno's name, which for an empty one that nobody may list is as good."""
    try:
        return os.listdir(directory)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def live_rules(work: Path, worker: Path, options: Options) -> Result:
    """Freezes, thaws, masks and unmasks below a running jail."""
    place = Work(work, worker)
    _furnish(place.share)
    plan = place.plan(paths=PathRules(readonly=("frozen",)), identity=_identity(options))

    async def run() -> Result:
        launcher = Launcher(place.zygote)
        async with running(launcher, plan, serving.document(plan)) as jail:
            inside = Path(f"/proc/{jail.jail.pid}/root/share")
            before = _write(inside / "open/file")
            await _adjust(launcher, jail.jail, MountAction.FREEZE, b"open")
            frozen = _write(inside / "open/file")
            await _adjust(launcher, jail.jail, MountAction.THAW, b"open")
            thawed = _write(inside / "open/file")
            await _adjust(launcher, jail.jail, MountAction.MASK, b"hidden")
            masked = _entries(inside / "hidden")
            await _adjust(launcher, jail.jail, MountAction.UNMASK, b"hidden")
            refused = [
                await _adjust(launcher, jail.jail, MountAction.FREEZE, path)
                for path in (b"through-link/file", b"not-there", b"../secret", b"/etc")
            ]
            refused.append(await _adjust(launcher, jail.jail, MountAction.THAW, b"open"))
            refused.append(await _adjust(launcher, jail.jail, MountAction.ATTACH, b"name"))
            return {
                "written": [before, frozen, thawed],
                "masked": masked,
                "unmasked": _entries(inside / "hidden"),
                "refused": refused,
            }

    return asyncio.run(run())


def tree(work: Path, worker: Path, options: Options) -> Result:
    """Two directories under one tag; a third comes and goes while the worker holds a file of it open."""
    place = Work(work, worker)
    for name in ("one", "two", "three"):
        (work / name).mkdir()
        (work / name / "file").write_text(f"of {name}")
    children = (Child("one", work / "one"), Child("two", work / "two", Access.READ_ONLY))
    share = place.share_of(source=None, children=children, identity=_identity(options))
    plan = place.plan_of(share)
    document = serving.document(plan, worker_rules(share), tree=True)

    async def run() -> Result:
        launcher = Launcher(place.zygote)
        async with running(launcher, plan, document) as jail:
            inside = Path(f"/proc/{jail.jail.pid}/root/share")
            result: Result = {
                "up": sorted(os.listdir(inside / "..")),
                "written": {name: _write(inside / name) for name in ("one/file", "two/file", "new")},
            }
            with serving.connect(jail.control) as guest:
                guest.start(queues=3)
                guest.init()
                result["listed"] = _listed(guest)
                result["read"] = [_read(guest, name) for name in (b"one/file", b"two/file")]
                attributes = mountplan.share_attributes(Access.READ_WRITE)
                change = MountChange(MountAction.ATTACH, b"three", os.fsencode(work / "three"), attributes)
                await launcher.adjust(jail.jail, (change,))
                result["listed_with_third"] = _listed(guest)
                node = guest.lookup(b"file", guest.lookup(b"three").node).node
                handle = guest.open(node)
                result["read_third"] = guest.read(node, handle, 0, 100).decode()
                result["written_third"] = _write(inside / "three/file")
                result["again"] = await _refusal(launcher, jail.jail, change)
                await _adjust(launcher, jail.jail, MountAction.DETACH, b"three")
                result["listed_without"] = _listed(guest)
                result["held_still_reads"] = guest.read(node, handle, 0, 100).decode()
                result["opened_after"] = guest.request(Opcode.OPEN, fuse.open_flags(os.O_RDONLY), node).error
                result["detached_again"] = await _adjust(launcher, jail.jail, MountAction.DETACH, b"three")
            return result

    return asyncio.run(run()) | {"tier": plan.tier.value}


def detached(work: Path, worker: Path, options: Options) -> Result:
    """A jail without exact rules, or without mounts at all: what the wish for a live change is answered."""
    place = Work(work, worker)
    plan = place.plan()

    async def run() -> str:
        launcher = Launcher(place.zygote)
        async with running(launcher, plan, serving.document(plan)) as jail:
            return await _adjust(launcher, jail.jail, MountAction.FREEZE, b"file")

    return {"sentence": asyncio.run(run())}


def foreign_namespace(work: Path, worker: Path, options: Options) -> Result:
    """An adjustment for a process that is not in the namespaces the jail was built with."""
    place = Work(work, worker)
    plan = place.plan(paths=PathRules(readonly=("file",)))

    async def run() -> Result:
        launcher = Launcher(place.zygote)
        async with running(launcher, plan, serving.document(plan)) as jail:
            real = jail.jail.place
            assert real is not None
            other = dataclasses.replace(jail.jail, place=dataclasses.replace(real, pid=os.getpid()))
            return {"sentence": await _adjust(launcher, other, MountAction.FREEZE, b"file")}

    return asyncio.run(run())


def repeated(work: Path, worker: Path, options: Options) -> Result:
    """Many launches in a row, and changes to their mounts; what is left in the zygote and here."""
    place = Work(work, worker)
    _furnish(place.share)
    paths = PathRules(readonly=("frozen",)) if options.get("rules") else PathRules()
    plan = place.plan(identity=_identity(options), paths=paths)

    def now() -> Result:
        return {
            "zygote": len(os.listdir(f"/proc/{place.zygote.pid}/fd")),
            "here": len(os.listdir("/proc/self/fd")),
            "children": len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
            "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        }

    async def run() -> None:
        launcher = Launcher(place.zygote)
        for _ in range(int(options["launches"])):
            async with running(launcher, plan, serving.document(plan)) as jail:
                if plan.attached:
                    await _adjust(launcher, jail.jail, MountAction.FREEZE, b"open")
                    await _adjust(launcher, jail.jail, MountAction.FREEZE, b"not-there")

    before = now()
    asyncio.run(run())
    after = now()
    return {"left": {name: after[name] - before[name] for name in before if after[name] != before[name]}}


def failure(work: Path, worker: Path, options: Options) -> Result:
    """One launch with a plan that cannot work in a tier or identity of its own."""
    place = Work(work, worker)
    plan = _broken(place.plan(identity=_identity(options)), options["broken"], work)

    async def run() -> Result:
        try:
            async with running(Launcher(place.zygote), plan, serving.document(plan)):
                return {"launched": True}
        except LaunchError as error:
            return {"call": error.call, "sentence": str(error)}

    tried = asyncio.run(run())
    deadline = time.monotonic() + OPEN_SECONDS
    while (held := len(os.listdir(f"/proc/{place.zygote.pid}/fd"))) > ZYGOTE_HOLDS and time.monotonic() < deadline:
        time.sleep(0.01)
    return tried | {"zygote": held}


def _broken(plan: LaunchPlan, what: str, work: Path) -> LaunchPlan:
    replace = dataclasses.replace
    return {
        "source": lambda: replace(plan, source=os.fsencode(work / "no-such-directory")),
        # A file system that has no id-mapped mounts; nobody gets as far as being handed it.
        "file-system": lambda: replace(plan, source=b"/sys/kernel"),
        "worker": lambda: replace(plan, worker=os.fsencode(work / "no-such-worker")),
        "become": lambda: replace(plan, become=(7, 7)),
        "map": lambda: replace(plan, uid_map=b"0 1 70000\n"),
        "helpers": lambda: replace(plan, map_helpers=(b"/no-such-newuidmap", b"/no-such-newgidmap")),
        "nofile": lambda: replace(plan, nofile=(1 << 40, 1 << 40)),
        "group": lambda: replace(plan, cgroups=(os.fsencode(work / "no-such-group"),)),
        "landlock": lambda: replace(plan, landlock=plan.landlock and replace(plan.landlock, handled_fs=1 << 60)),
        "seccomp": lambda: replace(plan, seccomp=b"\xff" * 8),
        "capabilities": lambda: replace(plan, capabilities=1 << 21),
    }[what]()


async def _adjust(launcher: Launcher, jail: Jail, action: MountAction, path: bytes) -> str:
    return await _refusal(launcher, jail, MountChange(action, path))


async def _refusal(launcher: Launcher, jail: Jail, change: MountChange) -> str:
    """Why *change* was refused, or nothing."""
    try:
        await launcher.adjust(jail, (change,))
    except LaunchError as error:
        return str(error)
    return ""


def _identity(options: Options) -> Identity:
    numbers = {key: int(options[key]) for key in ("uid", "gid", "first", "count") if key in options}
    kind = IdMap(options["map"]) if "map" in options else None
    return Identity(map=kind, idmapped="idmapped" in options, **numbers)  # type: ignore[arg-type]


def _seen(jail: Jail) -> Result:
    """The jail as the kernel tells the outside."""
    process = Path(f"/proc/{jail.pid}")
    status = dict(line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines())
    return {
        "uid": sorted(set(status["Uid"].split())),
        "gid": sorted(set(status["Gid"].split())),
        "groups": status["Groups"].split(),
        "uid_map": process.joinpath("uid_map").read_text().split(),
        "gid_map": process.joinpath("gid_map").read_text().split(),
        "capabilities": {name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")},
        "no_new_privs": status["NoNewPrivs"],
        "mounts": len(process.joinpath("mountinfo").read_text().splitlines()),
        "session": os.getsid(jail.pid) == jail.pid,
        "limits": _limits(process),
        "same_namespaces": sorted(
            name
            for name in ("user", "mnt", "pid", "net")
            if os.readlink(process / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")
        ),
    }


LIMITS = {
    "Max processes": "RLIMIT_NPROC",
    "Max data size": "RLIMIT_DATA",
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max core file size": "RLIMIT_CORE",
}


def _limits(process: Path) -> dict[str, list[int]]:
    """Soft and hard, from where everybody may read them: asking for another user's takes a capability."""
    lines = process.joinpath("limits").read_text().splitlines()
    found = {name: line.removeprefix(name).split()[:2] for line in lines for name in LIMITS if line.startswith(name)}
    return {LIMITS[name]: [int(value) if value.isdigit() else -1 for value in pair] for name, pair in found.items()}


def _listed(guest: FrontEnd) -> list[str]:
    return sorted(name.decode() for name in guest.list() if name not in (b".", b".."))


def _read(guest: FrontEnd, path: bytes) -> str:
    node = fuse.ROOT
    try:
        for name in path.split(b"/"):
            node = guest.lookup(name, node).node
        return guest.read(node, guest.open(node), 0, 100).decode()
    except FuseError as error:
        return str(error)


def _write(path: Path) -> str:
    """Opens *path* for writing, and makes it if it is not there; the errno's name, or nothing."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


SCENARIOS: dict[str, Callable[[Path, Path, Options], Result]] = {
    scenario.__name__: scenario
    for scenario in (
        serve,
        every_request,
        host,
        nothing_survives,
        held_rules,
        live_rules,
        tree,
        detached,
        foreign_namespace,
        repeated,
        failure,
    )
}

if __name__ == "__main__":
    name, work, worker, *rest = sys.argv[1:]
    print(json.dumps(SCENARIOS[name](Path(work), Path(worker), dict(pair.split("=", 1) for pair in rest))))
