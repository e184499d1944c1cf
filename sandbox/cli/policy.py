"""virtiofs-sandbox policy: new, schema, show, list."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys

from virtiofs_sandbox.cli.arguments import add_policy_dir, policy_directory
from virtiofs_sandbox.cli.page import table
from virtiofs_sandbox.cli.status import EPILOG, Status
from virtiofs_sandbox.cli.text import complain
from virtiofs_sandbox.policies.places import find, named
from virtiofs_sandbox.policies.problems import PolicyError, closest, shown

DESCRIPTION = """\
A policy file says what one share is and what a guest may do with it (docs/policies.md). Three lines are a whole one."""
TEMPLATE = "minimal"
# By name, for looking into the package takes longer than the rest of a start.
EXAMPLES = (
    "agent-workspace",
    "build-directory",
    "home-directory",
    "kubevirt-pod",
    TEMPLATE,
    "read-only-data",
    "selinux-guest",
    "stock-virtiofsd",
    "windows-guest",
)
_TAG = re.compile(r'^tag = ".*"$', re.MULTILINE)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "policy", help="make, show and list policy files", description=DESCRIPTION, epilog=EPILOG
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    new = actions.add_parser("new", help="write a policy to start from", description="Writes NAME.toml.")
    new.add_argument("name", metavar="NAME", help="of the policy: its file is NAME.toml, its tag NAME")
    new.add_argument(
        "--from", dest="example", metavar="EXAMPLE", default=TEMPLATE, help=f"one of {', '.join(EXAMPLES)}"
    )
    add_policy_dir(new)
    new.set_defaults(execute=_new)

    schema = actions.add_parser(
        "schema", help="print the JSON Schema, for editors", description="Prints the JSON Schema of policy files."
    )
    add_policy_dir(schema)
    schema.set_defaults(execute=_schema)

    show = actions.add_parser(
        "show",
        help="print a policy with its defaults, and where each value comes from",
        description="Prints every key of a policy with the value that holds, and the file and line that says so.",
    )
    show.add_argument("policy", metavar="NAME|FILE", help="a policy's name or file")
    show.add_argument("--as", dest="form", choices=["toml", "json"], help="without comments, or for programs")
    add_policy_dir(show)
    show.set_defaults(execute=_show)

    listing = actions.add_parser("list", help="print one line for each policy", description="Lists the policies.")
    add_policy_dir(listing)
    listing.set_defaults(execute=_list)


def example(name: str, tag: str) -> str:
    """The text of an example, for a share of that tag."""
    from importlib import resources  # noqa: PLC0415 - as above

    text = (resources.files("virtiofs_sandbox.policies") / "examples" / f"{name}.toml").read_text(encoding="utf-8")
    line = f"tag = {json.dumps(tag)}"
    return _TAG.sub(lambda _: line, text, count=1)


def _new(options: argparse.Namespace) -> int:
    name, directory = options.name, policy_directory(options)
    if options.example not in EXAMPLES:
        hint = closest(options.example, EXAMPLES)
        complain("policy new", f"there is no example {options.example!r}{hint}; there are {', '.join(EXAMPLES)}")
        return Status.USAGE
    if "/" in name or not name.isprintable() or name.startswith(".") or not name:
        complain("policy new", f"{name!r} is no name for a policy: printable, without '/' and not hidden")
        return Status.USAGE
    file = named(name, directory)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        # Never over a policy that is there; never with more permissions than the loader accepts.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(example(options.example, name))
    except OSError as error:
        complain("policy new", f"{shown(file)}: {error.strerror}")
        return Status.FAILED
    chosen = "" if options.policy_dir is None else f" --policy-dir {shlex.quote(shown(directory))}"
    print(f"wrote {shown(file)}: set its source, then: virtiofs-sandbox run {shlex.quote(name)}{chosen}")
    return Status.DONE


def _schema(_: argparse.Namespace) -> int:
    from virtiofs_sandbox.policies.schema import shipped  # noqa: PLC0415

    sys.stdout.write(shipped())
    return Status.DONE


def _show(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.policies import display, loader  # noqa: PLC0415

    directory = policy_directory(options)
    try:
        policy = loader.load(find(options.policy, directory), directory)
    except PolicyError as error:
        complain("policy show", error)
        return Status.FAILED
    if options.form == "json":
        sys.stdout.write(display.as_json(policy))
    else:
        sys.stdout.write(display.as_toml(policy, origins=options.form is None))
    return Status.DONE


def _list(options: argparse.Namespace) -> int:
    from virtiofs_sandbox.policies import loader  # noqa: PLC0415
    from virtiofs_sandbox.policies.overlaps import conflicts  # noqa: PLC0415

    directory = policy_directory(options)
    policies, problems = loader.survey(directory)
    rows = [("NAME", "TAG", "ACCESS", "SHARES", "SOCKET")]
    for policy in policies:
        shares = " ".join(shown(path) for _, path, _ in policy.directories)
        rows.append((policy.name, policy.share.tag, policy.share.access.value, shares, shown(policy.socket.path)))
    if len(rows) > 1:
        print("\n".join(table(rows)))
    elif not problems:
        print(f"no policy in {shown(directory)}; virtiofs-sandbox policy new NAME makes one")
    problems = [*dict.fromkeys([*problems, *conflicts(policies)])]
    if problems:
        complain("policy list", PolicyError(problems))
    return Status.FAILED if problems else Status.DONE
