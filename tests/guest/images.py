"""Where the guests' programs are on this machine, and what to say when one is not there."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "guest"
UML_MODULES = Path("/usr/lib/uml/modules")
PT_INTERP = 3
VIRTIOFS_MODULES = ("fuse.ko", "virtiofs.ko")


class MissingProgramError(Exception):
    """A program for a guest is not installed; the message names the package."""


@dataclass(frozen=True)
class Image:
    """What a guest boots: the program that runs it, its kernel (for user-mode-linux the same file), its modules.

    *files* are further ones, each by its path in the guest.
    """

    program: Path
    kernel: Path
    busybox: Path
    modules: tuple[Path, ...]
    files: tuple[tuple[str, Path], ...] = ()

    def with_programs(self, **packages: str) -> Image:
        """The same with programs of this machine in /bin, and the libraries they load; each with its Debian package.

        Raises MissingProgramError.
        """
        files = dict(self.files)
        for name, package in packages.items():
            program = _program(name, package)
            files[f"bin/{name}"] = program
            listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
            files |= {
                path.lstrip("/"): Path(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(", listed, re.MULTILINE)
            }
        return replace(self, files=tuple(sorted(files.items())))


def user_mode_linux() -> Image:
    """Raises MissingProgramError."""
    program = _program("linux.uml", "user-mode-linux")
    return Image(program, program, _busybox(), _modules(UML_MODULES))


def qemu() -> Image:
    """Raises MissingProgramError."""
    program = _program("qemu-system-x86_64", "qemu-system-x86")
    root = BUILD / "kernel"
    kernels = sorted(root.glob("boot/vmlinuz-*"))
    if not kernels:
        raise MissingProgramError(f"no guest kernel below {root}: run packaging/setup/guest-kernel")
    kernel = kernels[-1]
    release = kernel.name.removeprefix("vmlinuz-")
    config = (root / "boot" / f"config-{release}").read_text(encoding="ascii")
    built_in = "CONFIG_VIRTIO_FS=y\n" in config
    modules = () if built_in else _modules(root / "lib" / "modules" / release)
    return Image(program, kernel, _busybox(), modules)


def _program(name: str, package: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise MissingProgramError(f"{name} is not installed (Debian package {package})")
    return Path(found)


def _busybox() -> Path:
    path = _program("busybox", "busybox-static")
    if not is_static(path):
        raise MissingProgramError(f"{path} is not static (Debian package busybox-static)")
    return path


def is_static(program: Path) -> bool:
    """Whether an ELF file names no dynamic loader: in a root without files only such a program starts."""
    data = program.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    kinds = [struct.unpack_from("<I", data, table + number * size)[0] for number in range(count)]
    return PT_INTERP not in kinds


def _modules(root: Path) -> tuple[Path, ...]:
    found = []
    for name in VIRTIOFS_MODULES:
        paths = sorted(root.rglob(name))
        if not paths:
            raise MissingProgramError(f"no {name} below {root}")
        found.append(paths[-1])
    return tuple(found)
