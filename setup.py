"""Builds the worker into the wheel. VIRTIOFS_SANDBOX_WORKER=none leaves it out: no Rust needed then."""

import os

from setuptools import setup
from setuptools_rust import RustBin, Strip

worker = RustBin(
    "virtiofs-worker",
    path="worker/Cargo.toml",
    cargo_manifest_args=["--locked"],
    strip=Strip.All,
    debug=False,
)
setup(rust_extensions=[] if os.environ.get("VIRTIOFS_SANDBOX_WORKER") == "none" else [worker])
