"""What a program has to read before its own first instruction: its dynamic loader, and the libraries it names.

Found as ld.so(8) finds them, without running any of it: by DT_RPATH and DT_RUNPATH, the cache as ldconfig(8) prints
it, and the standard directories. In a jail they lie side by side in one directory, under the names they are asked for.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

_STANDARD = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_LDCONFIG = ("/sbin/ldconfig", "/usr/sbin/ldconfig")
_CACHED = re.compile(r"\s*(\S+) \(([^)]*)\) => (/.*)")
_MACHINE = "EM_X86_64"
# More than any daemon needs; a file that names itself a thousand times ends here.
MAX_LIBRARIES = 100


class NotRunnableError(Exception):
    """A program cannot be taken into a jail; str() says which file and why."""


@dataclass(frozen=True)
class Needs:
    """*loader* None: the program is static. *libraries* are files by the name that they are asked for."""

    loader: Path | None
    libraries: Mapping[str, Path]


@dataclass(frozen=True)
class _Headers:
    interpreter: Path | None
    needed: tuple[str, ...]
    # DT_RPATH holds for what is needed by libraries too, and only where there is no DT_RUNPATH.
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def needs(program: Path, *, loader: Path | None = None, directories: Iterable[Path] = ()) -> Needs:
    """What *program* needs, as installed; or with *loader*, from *directories* and nowhere else.

    Raises NotRunnableError for what is no ELF program of this machine, or a library that is not there.
    """
    headers = _read(program)
    if headers.interpreter is None and loader is None:
        return Needs(None, {})
    own = tuple(map(str, directories))
    cache: Mapping[str, Path] = {} if loader else _cache()
    found: dict[str, Path] = {}
    asked = [(name, program, headers, headers.rpath) for name in headers.needed]
    while asked:
        name, by, of, inherited = asked.pop(0)
        if name in found:
            continue
        if len(found) == MAX_LIBRARIES:
            raise NotRunnableError(f"{program}: it needs more than {MAX_LIBRARIES} libraries")
        before, after = (own, ()) if loader else (_search(by, of, inherited), _STANDARD)
        found[name] = _find(name, by, before, cache, after)
        library = _read(found[name])
        paths = (*library.rpath, *inherited)
        asked += [(inner, found[name], library, paths) for inner in library.needed]
    chosen = loader or headers.interpreter
    # The loader is asked for by name too, and is in memory already.
    return Needs(chosen, {name: file for name, file in found.items() if not _same(file, chosen)})


def _search(by: Path, headers: _Headers, inherited: tuple[str, ...]) -> tuple[str, ...]:
    paths = headers.runpath or inherited
    origin = str(by.resolve().parent)
    return tuple(path.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for path in paths)


def _find(name: str, by: Path, before: Iterable[str], cache: Mapping[str, Path], after: Iterable[str]) -> Path:
    """*name*, in the directories *before*, else in the *cache*, else in those *after*."""
    if "/" in name or name in (".", ".."):
        raise NotRunnableError(f"{by}: it needs {name!r}, which is no plain name")
    for candidate in (
        *(Path(directory, name) for directory in before),
        *([cache[name]] if name in cache else []),
        *(Path(directory, name) for directory in after),
    ):
        if candidate.is_file():
            return candidate
    raise NotRunnableError(f"{by}: the library {name} is not there; install it, or see worker.program.libraries")


def _cache() -> dict[str, Path]:
    """What ldconfig(8) has found, by name; the first of several of one name is what the loader takes."""
    program = next((path for path in _LDCONFIG if os.access(path, os.X_OK)), None)
    if program is None:
        return {}
    printed = subprocess.run([program, "-p"], capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    found: dict[str, Path] = {}
    for line in printed.stdout.splitlines():
        match = _CACHED.fullmatch(line)
        if match and "x86-64" in match[2] and "hwcap" not in match[2]:
            found.setdefault(match[1], Path(match[3]))
    return found


def _read(file: Path) -> _Headers:
    try:
        with file.open("rb") as stream:
            elf = ELFFile(stream)
            if elf["e_machine"] != _MACHINE:
                raise NotRunnableError(f"{file}: it is made for another machine ({elf['e_machine']})")
            interpreters = [
                segment.get_interp_name() for segment in elf.iter_segments() if isinstance(segment, InterpSegment)
            ]
            tags = [
                (tag.entry.d_tag, getattr(tag, name))
                for segment in elf.iter_segments()
                if isinstance(segment, DynamicSegment)
                for tag in segment.iter_tags()
                for name in ("needed", "rpath", "runpath")
                if hasattr(tag, name)
            ]
    except OSError as error:
        raise NotRunnableError(f"{file}: {error.strerror}") from error
    except (ELFError, ValueError, KeyError, AssertionError) as error:
        raise NotRunnableError(f"{file}: it is no ELF program ({error or type(error).__name__})") from error
    runpath = _paths(tags, "DT_RUNPATH")
    return _Headers(
        interpreter=Path(interpreters[0]) if interpreters else None,
        needed=tuple(value for tag, value in tags if tag == "DT_NEEDED"),
        rpath=() if runpath else _paths(tags, "DT_RPATH"),
        runpath=runpath,
    )


def _paths(tags: list[tuple[str, str]], wanted: str) -> tuple[str, ...]:
    return tuple(path for tag, value in tags if tag == wanted for path in value.split(":") if path)


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.exists() and other.exists() and os.path.samefile(one, other)
