"""A share with everything hostile in it, and beside it what no jail may reach."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from virtiofs_sandbox.syscalls import mounts

from tests.pictures import Picture, picture, pictures

ATTRIBUTE, VALUE = "user.decoy", b"of the host"


@dataclass(frozen=True)
class Decoys:
    """Directories below the one that stays writable under the guard.

    *share* is shared; *outside* must stay as it is, and holds the worker's *program*; *mountpoint* and *mounted* stand
    for the machine's mounts; *null*, which stays root's, is what lies at /dev/null meanwhile.
    """

    share: Path
    outside: Path
    program: Path
    mountpoint: Path
    mounted: Path
    null: Path

    @classmethod
    def at(cls, work: Path) -> Decoys:
        outside = work / "outside"
        return cls(
            work / "share", outside, outside / "prober", work / "mountpoint", work / "mounted", work.parent / "null"
        )

    @classmethod
    def make(cls, work: Path, prober: Path) -> Decoys:
        """Needs root, and a mount namespace of one's own."""
        decoys = cls.at(work)
        decoys._fill_share(prober)
        decoys._fill_outside(prober)
        decoys._mount()
        return decoys

    def _fill_share(self, prober: Path) -> None:
        share = self.share
        (share / "below").mkdir(parents=True)
        for name in ("file", "moved-out", "exchanged", "below/file"):
            (share / name).write_text("of the share")
        for folder in ("above/frozen", "masked"):
            (share / folder).mkdir(parents=True)
        for name in ("above/frozen/file", "above/frozen/moved", "above/frozen/removed", "masked/secret"):
            (share / name).write_text("of the share, and ruled")
        (share / "link-out").symlink_to(self.outside / "secret")
        (share / "link-up").symlink_to("../outside/secret")
        (share / "link-outside").symlink_to("../outside")
        (share / "link-within").symlink_to("file")
        shutil.copy(prober, share / "program")
        shutil.copy(prober, share / "setuid-program")
        (share / "setuid-program").chmod(0o4755)

    def _fill_outside(self, prober: Path) -> None:
        outside = self.outside
        (outside / "removed").mkdir(parents=True)
        for name in ("secret", "victim", "unlinked", "renamed", "moved-in", "exchanged"):
            (outside / name).write_text("of the host")
        (outside / "link").symlink_to("secret")
        os.setxattr(outside / "victim", ATTRIBUTE, VALUE)
        shutil.copy(prober, self.program)

    def _mount(self) -> None:
        """A file system inside the share, one beside it, device nodes for /dev/zero, and a stand-in for /dev/null: the
        jail's own protection of it is to be seen, not the guard's.
        """
        for place in (self.share / "mounted", self.mounted):
            place.mkdir()
            tree = mounts.new_filesystem(b"tmpfs", (), 0)
            mounts.attach(tree, os.fsencode(place))
            os.close(tree)
        self.mountpoint.mkdir()
        (self.share / "mounted" / "file").write_text("of a mount inside the share")
        for folder in (self.share, self.share / "mounted", self.outside):
            os.mknod(folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(self.null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        self.null.chmod(0o666)
        mounts.attach(mounts.clone_tree(os.fsencode(self.null), False), b"/dev/null")

    def record(self) -> dict[str, Picture]:
        """What lies outside, and /dev/null."""
        return pictures(self.outside) | {str(self.null): picture(self.null)}

    def record_ruled(self) -> dict[str, Picture]:
        """What is frozen or hidden in the share."""
        return pictures(self.share / "above/frozen") | pictures(self.share / "masked")
