"""`virtiofs-sandbox run` with jails that have no walls: the same command line, another launcher."""

from __future__ import annotations

import argparse
import sys

from virtiofs_sandbox.cli import foreground, run
from virtiofs_sandbox.policies.offer import offer

from tests.fakes.launching import PLAN, fake_launching


def main() -> int:
    launching = fake_launching()
    parser = argparse.ArgumentParser()
    run.add_parser(parser.add_subparsers())
    options = parser.parse_args(["run", *sys.argv[1:]])
    request = run.request_of(options)
    wanted = offer(request.arguments, request.file, request.directory)
    return foreground.hold(
        wanted,
        PLAN,
        launching,
        lambda: foreground.listener(request.arguments, wanted),
        control=request.control,
        log_format=options.log_format,
        metrics=options.metrics,
    )


if __name__ == "__main__":
    sys.exit(main())
