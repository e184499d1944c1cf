"""What a guest sends that means harm: every opcode that takes a name, a node or a handle, filled with the wrong one."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guest import fuse
from tests.guest.fuse import Opcode, SetAttr

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
REGULAR = stat.S_IFREG | 0o644


@dataclass(frozen=True)
class Attack:
    """One request; *node* None is the node under attack."""

    opcode: Opcode
    body: bytes
    node: int | None = None


@dataclass(frozen=True)
class Ground:
    """Where attacks are made: work/share is shared, work/outside must stay as it is."""

    share: Path
    outside: Path

    @classmethod
    def prepare(cls, work: Path) -> Ground:
        ground = cls(work / "share", work / "outside")
        (ground.share / "inner" / "deep").mkdir(parents=True)
        for name in ("file", "inner/file", "inner/deep/file", "inner/deep/target"):
            (ground.share / name).write_text("of the share")
        (ground.outside / "directory").mkdir(parents=True)
        for name in ("secret", "target", "directory/target"):
            (ground.outside / name).write_text("of the host")
            os.setxattr(ground.outside / name, "user.mark", b"of the host")
        for name, target in (
            ("to-secret", ground.outside / "secret"),
            ("to-outside", ground.outside),
            ("up", Path("../outside/secret")),
            ("up-directory", Path("../outside")),
        ):
            (ground.share / name).symlink_to(target)
        return ground


def hostile_names(ground: Ground) -> Iterator[bytes]:
    """Names that are no single component: absolute, dotted in every position, empty, with NUL, too long."""
    secret = os.fsencode(ground.outside / "secret")
    yield from (b"", b"/", b"//", b"\0", b"file\0", b"..\0secret", secret, secret + b"/", b"/proc/self/root" + secret)
    yield from (b"x" * 256, b"x" * 4096, b"../outside/secret", b"to-outside/secret", b"to-secret/", b"./file")
    parts = (b"..", b".", b"inner", b"deep")
    for length in (2, 3):
        for path in itertools.product(parts, repeat=length):
            if b".." in path:
                yield from (b"/".join(path), b"/".join(path) + b"/", b"/" + b"/".join(path))


def with_name(text: bytes, victim: int) -> Iterator[Attack]:
    """Every opcode that carries a name, with *text* in each place of one; *victim* is a node of a file."""
    yield Attack(Opcode.LOOKUP, fuse.name(text))
    yield from changes_with_name(text, victim)


def changes_with_name(text: bytes, victim: int) -> Iterator[Attack]:
    """Of these the ones that make, move or remove something."""
    yield Attack(Opcode.SYMLINK, fuse.symlink(text, b"anywhere"))
    for kind in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        yield Attack(Opcode.MKNOD, fuse.mknod(text, kind | 0o666, os.makedev(1, 3)))
    yield Attack(Opcode.MKDIR, fuse.mkdir(text))
    yield Attack(Opcode.UNLINK, fuse.name(text))
    yield Attack(Opcode.RMDIR, fuse.name(text))
    yield Attack(Opcode.LINK, fuse.link(victim, text))
    for flags in (os.O_RDWR, os.O_RDWR | os.O_EXCL, os.O_WRONLY | os.O_TRUNC):
        yield Attack(Opcode.CREATE, fuse.create(text, flags | os.O_CREAT))
    for old, new in ((text, b"new"), (b"file", text), (text, text)):
        yield Attack(Opcode.RENAME, fuse.rename(old, fuse.ROOT, new))
        for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            yield Attack(Opcode.RENAME2, fuse.rename2(old, fuse.ROOT, new, flags))


def on_node(victim: int) -> Iterator[Attack]:
    """Every opcode that takes a node and no handle, on one that should not be there; *victim* is a real one."""
    yield Attack(Opcode.LOOKUP, fuse.name(b"file"))
    yield Attack(Opcode.GETATTR, fuse.getattr_of())
    yield from changes_on_node()
    yield Attack(Opcode.READLINK, b"")
    yield Attack(Opcode.OPENDIR, fuse.open_flags(os.O_RDONLY))
    yield Attack(Opcode.OPEN, fuse.open_flags(os.O_RDONLY))
    yield Attack(Opcode.GETXATTR, fuse.getxattr(b"user.mark"))
    yield Attack(Opcode.LISTXATTR, struct.pack("<II", 64, 0))
    yield Attack(Opcode.ACCESS, struct.pack("<II", os.R_OK, 0))
    yield Attack(Opcode.STATFS, b"")
    yield from changes_with_name(b"planted", victim)
    yield from as_target()


def changes_on_node() -> Iterator[Attack]:
    """Of these the ones that change a file by its node."""
    for valid in (SetAttr.MODE, SetAttr.SIZE, SetAttr.ATIME | SetAttr.MTIME, SetAttr.UID | SetAttr.GID):
        yield Attack(Opcode.SETATTR, fuse.setattr_of(valid, mode=0o777, size=1, time=1, uid=1, gid=1))
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND):
        yield Attack(Opcode.OPEN, fuse.open_flags(flags))
    yield Attack(Opcode.SETXATTR, fuse.setxattr(b"user.mark", b"of the guest"))
    yield Attack(Opcode.REMOVEXATTR, fuse.name(b"user.mark"))


def as_target() -> Iterator[Attack]:
    """The node stands in the body: what is linked, and where to. The places are filled by `aimed`."""
    yield Attack(Opcode.LINK, fuse.link(AIM, b"planted"), fuse.ROOT)
    yield Attack(Opcode.RENAME, fuse.rename(b"file", AIM, b"planted"), fuse.ROOT)
    yield Attack(Opcode.RENAME2, fuse.rename2(b"file", AIM, b"planted"), fuse.ROOT)
    yield Attack(Opcode.RENAME2, fuse.rename2(b"file", AIM, b"file", RENAME_EXCHANGE), fuse.ROOT)


# A number no table gives out, replaced by the node under attack.
AIM = 0x41494D41494D4149


def aimed(attack: Attack, node: int) -> tuple[Opcode, bytes, int]:
    """*attack* against *node*: opcode, body, and the node of the header."""
    body = attack.body.replace(struct.pack("<Q", AIM), struct.pack("<Q", node))
    return attack.opcode, body, node if attack.node is None else attack.node


def on_handle(handle: int, node: int, good: int) -> Iterator[Attack]:
    """Every opcode that takes a handle, with one that should not be there; *good* is a real one, both of *node*."""
    yield Attack(Opcode.READ, fuse.read(handle, 0, 64))
    yield Attack(Opcode.READDIR, fuse.read(handle, 0, 4096))
    yield Attack(Opcode.READDIRPLUS, fuse.read(handle, 0, 4096))
    yield Attack(Opcode.WRITE, fuse.write(handle, 0, b"planted"))
    yield Attack(Opcode.FALLOCATE, fuse.fallocate(handle, 0, 4096))
    yield Attack(Opcode.COPY_FILE_RANGE, fuse.copy_file_range(handle, node, good, 4))
    yield Attack(Opcode.COPY_FILE_RANGE, fuse.copy_file_range(good, node, handle, 4))
    yield Attack(Opcode.LSEEK, fuse.lseek(handle, 0, os.SEEK_DATA))
    yield Attack(Opcode.FSYNC, fuse.fsync(handle))
    yield Attack(Opcode.FSYNCDIR, fuse.fsync(handle))
    yield Attack(Opcode.FLUSH, fuse.flush(handle))
    yield Attack(Opcode.GETATTR, fuse.getattr_of(handle))
    for valid in (SetAttr.SIZE, SetAttr.MODE, SetAttr.ATIME | SetAttr.MTIME):
        yield Attack(Opcode.SETATTR, fuse.setattr_of(valid | SetAttr.FH, handle=handle, size=1, mode=0o777, time=1))
