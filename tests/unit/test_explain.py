"""What explain says is what the launch plan says: every field of it, and nothing that is not there."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import re
import resource
from pathlib import Path
from typing import Any, Literal

import pytest
from landlock import FSAccess
from tests.unit.generated import ROOT as REPOSITORY
from tests.unit.generated import holds
from tests.unit.test_launch_plan import ROOT
from virtiofs_sandbox.cli import explain_report
from virtiofs_sandbox.cli.main import main
from virtiofs_sandbox.cli.page import COLUMNS
from virtiofs_sandbox.confine import HostProbe, LaunchPlan, Tier, capabilities, prepare
from virtiofs_sandbox.confine.account import TOPICS, WITHHELD, Launch, account, jail
from virtiofs_sandbox.confine.account.promises import NOT_PROMISED
from virtiofs_sandbox.confine.plan import (
    ChildMount,
    ControlGroup,
    GroupSetting,
    HeldRule,
    ProgramPlan,
    RoleFilters,
    RuleMount,
)
from virtiofs_sandbox.launcher import stages
from virtiofs_sandbox.policies.policy import Socket
from virtiofs_sandbox.policies.share import (
    Access,
    CacheMode,
    Child,
    Identity,
    IdMap,
    Membership,
    PathRules,
    Rates,
    RequestLimits,
    Sandbox,
    SeccompAction,
    Share,
)
from virtiofs_sandbox.syscalls import mounts

SNAPSHOTS = Path(__file__).parent / "snapshots"
SHAPE = ["shape", "share", "kernel", "uid", "tier", "sections"]

USER = dataclasses.replace(
    ROOT, uid=1000, gid=100, capabilities=0, identity_errno=errno.EPERM, idmapped_errno=errno.EPERM, audit_errno=1
)
POD = dataclasses.replace(
    USER, uid=107, gid=107, userns_errno=errno.EPERM, mounts_errno=errno.EPERM, mounts_call="unshare", nofile_hard=1024
)
WORKSPACE = Share(
    "agent",
    Path("/nonexistent/agent"),
    "work",
    cache=CacheMode.METADATA,
    timeout=2.5,
    xattr=True,
    paths=PathRules(hide=("**/.env", "secrets/"), readonly=(".git/hooks",), strict_links=True),
    sandbox=Sandbox(minimum=Tier.FULL),
)
DATA = Share("data", Path("/nonexistent/data"), "data", access=Access.READ_ONLY, sandbox=Sandbox(minimum=Tier.BARE))


def launch(share: Share, host: HostProbe) -> Launch:
    plan = prepare(share, host, worker=Path("/usr/bin/virtiofs-worker"))
    where = Socket(Path("/run/virtiofs-sandbox") / f"{share.name}.sock", 0o660, 36)
    return Launch(share, where, Path(f"/etc/virtiofs-sandbox/shares.d/{share.name}.toml"), plan, host)


def text(made: Launch) -> str:
    """Without what is counted in filters: their length is the library's business, the table has tests of its own."""
    counted = r"\d+ (instructions|system calls|of them|calls that nothing honest)"
    return re.sub(counted, r"N \1", explain_report.text(made, account(made))) + "\n"


def sections(made: Launch) -> dict[str, Any]:
    return {section["key"]: section for section in explain_report.data(made, account(made))["sections"]}


def facts(made: Launch, section: str, statement: str) -> Any:
    (found,) = [said["facts"] for said in sections(made)[section]["statements"] if said["key"] == statement]
    return found


# Another value than a plan for WORKSPACE by root has, for every field that is shown.
ALTERED: dict[str, object] = {
    "program": ProgramPlan(
        b"/lib/ld.so", ((b"/bin/other", b"/program"),), (b"other", b"--fd=3"), ((b"/program", 4),), b""
    ),
    "share": "other",
    "source": b"/other",
    "worker": b"/other/worker",
    "tier": Tier.USERNS,
    "ids": "self",
    "warnings": ("something is missing",),
    "uid_map": b"0 100000 65536\n",
    "gid_map": b"0 100000 65536\n",
    "deny_setgroups": True,
    "share_attributes": mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV,
    "nofile": (1024, 4096),
    "capabilities": 2,
    "last_capability": 41,
    "securebits": 0,
    "landlock": None,
    "seccomp": b"\0" * 8,
    "seccomp_flags": 0,
    "seccomp_unlogged": b"\0" * 8,
    "filters": None,
    "attributes": "open",
    "end_with_supervisor": False,
    "cgroups": (b"/sys/fs/cgroup/one",),
    "groups": (
        ControlGroup(
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/virtiofs-sandbox/share-data",
            2,
            ("pids",),
            (GroupSetting("limits.pids.max", "pids.max", "64", "max"),),
            True,
        ),
    ),
    "children": (ChildMount(b"child", b"/srv/child", 1),),
    "map_helpers": (b"/usr/bin/newuidmap", b"/usr/bin/newgidmap"),
    "become": (5, 6),
    "early_mounts": True,
    "idmapped": True,
    "attached": False,
    "rule_mounts": (RuleMount(b"other", hide=False),),
    "limits": ((resource.RLIMIT_FSIZE, 7),),
    "process_limit": None,
    "lock_capabilities": False,
    "rules": (HeldRule(".git/hooks", True, "a read-only mount holds it"),),
}


def test_every_field_of_the_plan_is_accounted_for_in_exactly_one_topic() -> None:
    told = list(itertools.chain.from_iterable(topic.fields for topic in TOPICS))
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(LaunchPlan))


def test_every_field_that_is_not_withheld_has_another_value_to_try() -> None:
    assert set(ALTERED) | set(WITHHELD) == {field.name for field in dataclasses.fields(LaunchPlan)}


@pytest.mark.parametrize("field", ALTERED)
def test_a_change_of_the_plan_changes_the_text_and_the_data_of_its_topic(field: str) -> None:
    before = launch(WORKSPACE, ROOT)
    assert getattr(before.plan, field) != ALTERED[field]
    changed = dataclasses.replace(before.plan, **{field: ALTERED[field]})  # type: ignore[arg-type]
    after = dataclasses.replace(before, plan=changed)
    (topic,) = [topic.key for topic in TOPICS if field in topic.fields]
    one, other = sections(before)[topic]["statements"], sections(after)[topic]["statements"]
    assert [said["text"] for said in one] != [said["text"] for said in other]
    assert [said["facts"] for said in one] != [said["facts"] for said in other]


@pytest.mark.parametrize(
    "change",
    [
        {"handled_fs": 1},
        {"handled_net": 0},
        {"scoped": 0},
        {"share_rights": 4},
        {"binary_rights": 4},
        {"restrict_flags": 0},
    ],
)
def test_a_change_of_any_landlock_mask_shows(change: dict[str, int]) -> None:
    before = launch(WORKSPACE, ROOT)
    assert before.plan.landlock is not None
    landlock = dataclasses.replace(before.plan.landlock, **change)
    after = dataclasses.replace(before, plan=dataclasses.replace(before.plan, landlock=landlock))
    one, other = (sections(made)["landlock"]["statements"] for made in (before, after))
    assert [said["text"] for said in one] != [said["text"] for said in other]


def test_the_second_filter_of_each_role_shows_by_itself() -> None:
    before = launch(WORKSPACE, ROOT)
    for role in (field.name for field in dataclasses.fields(RoleFilters)):
        assert before.plan.filters is not None
        filters = dataclasses.replace(before.plan.filters, **{role: b"\0" * 16})
        after = dataclasses.replace(before, plan=dataclasses.replace(before.plan, filters=filters))
        assert facts(after, "seccomp", f"role {role}")["instructions"] == 2


def test_the_secret_of_the_launch_is_in_no_report() -> None:
    made = launch(WORKSPACE, ROOT)
    data = json.dumps(explain_report.data(made, account(made)))
    for spelled in (str(made.plan.exec_key), f"{made.plan.exec_key:x}"):
        assert spelled not in data + text(made)


def test_every_kept_capability_has_its_reason() -> None:
    owners: tuple[Literal["caller", "self"], ...] = ("caller", "self")
    for access, xattr, ids in itertools.product(Access, (False, True), owners):
        share = dataclasses.replace(DATA, access=access, xattr=xattr)
        kept = capabilities.kept(share, ids)
        unexplained = kept & ~capabilities.mask(*capabilities.REASONS)
        assert unexplained == 0, f"{share.access}, {ids}: {unexplained:#x}"
    assert "no reason" not in text(launch(WORKSPACE, ROOT))


def test_every_right_of_landlock_has_its_words() -> None:
    bits = {int(right) for right in FSAccess}
    assert {int(getattr(FSAccess, name)) for name in jail._RIGHTS} >= bits


def test_the_descriptors_are_those_of_the_stages_and_of_the_document() -> None:
    numbers = [
        value for name, value in vars(stages).items() if name.startswith("FD_") and name not in ("FD_REPORT", "FD_END")
    ]
    assert sorted(numbers) == sorted(jail.DESCRIPTORS)
    document = (REPOSITORY / "ipc/README.md").read_text().partition("## Descriptors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", document, flags=re.MULTILINE)
    assert [int(number) for row in rows for number in row.split(",")] == sorted(jail.DESCRIPTORS)


def test_what_is_not_promised_is_the_threat_model_s_list() -> None:
    document = (REPOSITORY / "docs/threat-model.md").read_text().partition("## What is not promised")[2]
    titles = re.findall(r"^\* \*\*(.+?)\.?\*\*", document, flags=re.MULTILINE)
    assert titles == list(NOT_PROMISED)


def test_a_pod_is_told_that_nothing_stands_between_i7() -> None:
    made = launch(DATA, POD)
    assert made.plan.tier is Tier.BARE
    said = text(made)
    assert facts(made, "namespaces", "none") == {"own": []}
    assert "existence and attributes of files outside of the share" in said
    assert "The host's own files" in said
    assert "2 of 3 ways" in said
    assert "an empty read-only tmpfs" not in said
    assert "is read-only" not in " ".join(facts(made, "changes", "read-only")["ways"])


def test_read_only_is_said_three_ways_where_it_is_kept_three_ways_i4() -> None:
    assert len(facts(launch(DATA, ROOT), "changes", "read-only")["ways"]) == 3
    assert "read-only" not in {said["key"] for said in sections(launch(WORKSPACE, ROOT))["changes"]["statements"]}


@pytest.mark.parametrize("layer", ["mount", "Landlock"])
def test_a_layer_that_would_let_a_read_only_share_be_changed_is_not_counted_i4(layer: str) -> None:
    made = launch(DATA, ROOT)
    assert made.plan.landlock is not None
    lenient = dataclasses.replace(made.plan.landlock, share_rights=made.plan.landlock.handled_fs)
    changed = {"mount": {"share_attributes": 0}, "Landlock": {"landlock": lenient}}[layer]
    plan = dataclasses.replace(made.plan, **changed)  # type: ignore[arg-type]
    ways = facts(dataclasses.replace(made, plan=plan), "changes", "read-only")["ways"]
    assert len(ways) == 2
    assert not any(layer in way for way in ways)


def test_a_tree_names_each_directory_with_its_access(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    children = (Child("here", tmp_path / "here"), Child("there", tmp_path / "there", Access.READ_ONLY))
    made = launch(Share("tree", None, "tree", children=children), ROOT)
    assert facts(made, "share", "child here")["path"] == os.fspath(tmp_path / "here")
    told = {said["key"]: said["text"] for said in sections(made)["changes"]["statements"]}
    assert "2 of 3 ways" in told["child there"]
    assert "child here" not in told


def test_a_mode_that_protects_nothing_is_not_promised() -> None:
    lenient = dataclasses.replace(DATA, sandbox=Sandbox(seccomp=SeccompAction.LOG))
    assert "carried out: a mode for diagnosis, no protection" in text(launch(lenient, ROOT))
    assert "sandbox.seccomp = log carries out what it should refuse" in text(launch(lenient, ROOT)).replace(
        "\n" + " " * 22, " "
    )


def test_where_denials_are_seen_depends_on_the_right_to_read_them() -> None:
    assert facts(launch(DATA, ROOT), "denials", "source") == {"source": "audit records"}
    assert facts(launch(DATA, USER), "denials", "source") == {"source": "the worker's own report"}


def test_a_range_is_told_with_its_ids() -> None:
    share = dataclasses.replace(WORKSPACE, identity=Identity(map=IdMap.RANGE, first=300000, count=65536))
    made = launch(share, ROOT)
    assert facts(made, "identity", "uids") == {"map": [[0, 300000, 65536]]}
    assert "0 to 65535 are 300000 to 365535" in text(made)
    assert "The host's ids" not in text(made)
    assert "The host's ids" in text(launch(WORKSPACE, ROOT))


def test_rates_and_the_budget_they_are_part_of_are_told() -> None:
    limits, group = RequestLimits(read=1 << 20, metadata_ops=5), Membership("disk1", 200, Rates(read=1 << 21), Rates())
    made = launch(dataclasses.replace(DATA, limits=limits, group=group), ROOT)
    assert facts(made, "limits", "requests") == {
        "rates": {"read": 1 << 20, "metadata-ops": 5},
        "group": {"name": "disk1", "weight": 200},
    }
    assert "read 1MiB/s, metadata-ops 5/s; held by the worker" in " ".join(text(made).split())


@pytest.mark.parametrize(("name", "share", "host"), [("agent", WORKSPACE, ROOT), ("data", DATA, USER)])
def test_the_whole_text(name: str, share: Share, host: HostProbe) -> None:
    """After a change of words: UPDATE=1 pytest, and read the difference."""
    made = text(launch(share, host))
    assert [line for line in made.splitlines() if len(line) > COLUMNS] == []
    holds(SNAPSHOTS / f"explain_{name}.txt", made)


def test_the_data_have_the_documented_fields() -> None:
    data = explain_report.data(launch(WORKSPACE, ROOT), account(launch(WORKSPACE, ROOT)))
    assert list(data) == SHAPE
    fields = {*SHAPE, *data["sections"][0], *data["sections"][0]["statements"][0]}
    documented = (REPOSITORY / "docs/reports.md").read_text().partition("## explain")[2]
    assert [field for field in fields if f"{field}`" not in documented] == []
    for section in data["sections"]:
        keys = [said["key"] for said in section["statements"]]
        assert len(keys) == len(set(keys)), section["key"]


def test_the_command_prints_both_forms_and_refuses_what_cannot_be_confined(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worker").touch(mode=0o755)
    policies = tmp_path / "shares.d"
    policies.mkdir(mode=0o755)
    policy = policies / "data.toml"
    policy.write_text(f'[share]\nsource = "{tmp_path}"\ntag = "data"\nsocket = "{tmp_path}/s"\n')
    arguments = ["explain", "data", "--policy-dir", os.fspath(policies), "--worker", os.fspath(tmp_path / "worker")]
    assert main(arguments) == 0
    assert "What is not promised" in capfd.readouterr().out
    assert main([*arguments, "--as", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["share"] == "data"
    policy.write_text(policy.read_text() + '[identity]\nmap = "range"\nfirst = 4294967290\ncount = 65536\n')
    assert main(arguments) == 1
    assert capfd.readouterr().err.startswith("virtiofs-sandbox explain: ")
