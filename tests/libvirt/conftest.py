"""A host with the installed copy and libvirt on it, once per libvirt; and what has to be left as it was found."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.images import ROOT, MissingProgramError
from tests.libvirt.daemon import Libvirtd
from tests.libvirt.documented import example
from tests.libvirt.domain import Domain
from tests.libvirt.host import Host

NEWER = ROOT / "build" / "libvirt"
# Directories of the unpacked packages that stand for those of the machine: modules of both versions do not mix.
WHOLE = ("usr/lib/x86_64-linux-gnu/libvirt/connection-driver", "usr/lib/x86_64-linux-gnu/qemu")
VERSIONS = ("9.0", pytest.param("11.3", marks=pytest.mark.slow))


def install(destination: Path, prefix: str = "/usr", target: str = "install") -> subprocess.CompletedProcess[str]:
    """`make install` (or another target) below *destination*."""
    words = ["make", "--no-print-directory", target, f"DESTDIR={destination}", f"PREFIX={prefix}"]
    return subprocess.run(
        words, capture_output=True, text=True, check=True, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=300
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory below which everything is installed, for /usr."""
    destination = tmp_path_factory.mktemp("installed")
    install(destination)
    return destination


def new_host(work: Path, installed: Path, version: str) -> Host:
    """A host with libvirt *version*; skips where it cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("namespaces with a libvirtd in them are made by root")
    if shutil.which("libvirtd", path="/usr/sbin") is None or shutil.which("virsh") is None:
        pytest.skip("libvirt is not installed (packaging/setup/require libvirt)")
    layers = [installed]
    if version != "9.0":
        if not (NEWER / ".fetched").exists():
            pytest.skip(f"no libvirt {version} below {NEWER}: run packaging/setup/newer-libvirt")
        for folder in WHOLE:
            os.setxattr(NEWER / folder, "trusted.overlay.opaque", b"y")
        layers.append(NEWER)
    return Host(work, layers)


@pytest.fixture(scope="session", params=VERSIONS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Iterator[Host]:
    """Directories below /srv and the policies of the documents are there."""
    yield from _started(new_host(tmp_path_factory.mktemp("host"), installed, request.param))


@pytest.fixture(scope="session")
def newer_host(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Iterator[Host]:
    """The same, with libvirt 11.3 only: for what older ones cannot say."""
    yield from _started(new_host(tmp_path_factory.mktemp("newer"), installed, "11.3"))


def _started(host: Host) -> Iterator[Host]:
    try:
        with host.start():
            for name in ("data/inner", "library"):
                host.path(f"/srv/{name}").mkdir(parents=True)
                (host.path(f"/srv/{name}") / "hello").write_text("hello from the host\n")
            (host.path("/srv/data") / "hello").write_text("hello from the host\n")
            policies = host.path("/etc/virtiofs-sandbox/shares.d")
            policies.mkdir()
            (policies / "data.toml").write_text(example("managed-policy"))
            (policies / "library.toml").write_text(example("external-policy"))
            yield host
            assert host.processes() == {}
    except MissingProgramError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def libvirtd(host: Host) -> Iterator[Libvirtd]:
    """Where one group may be made, machines have groups of their own."""
    partition = Path("/sys/fs/cgroup/cpu/machine")
    usable = os.access(partition.parent, os.W_OK)
    ours = usable and not partition.exists()
    daemon = Libvirtd(host, ("cpu",) if usable else ())
    daemon.start()
    yield daemon
    daemon.stop()
    if ours and partition.exists():
        # libvirt makes the group that machines' groups are in, and leaves it. Another's may be in it by now.
        with contextlib.suppress(OSError):
            partition.rmdir()


@pytest.fixture(scope="session")
def machine(libvirtd: Libvirtd) -> Iterator[Domain]:
    """A machine named web1 with the managed share of the documents; what tests plug in they take out again."""
    with libvirtd.machine("web1", example("managed")) as domain:
        yield domain
