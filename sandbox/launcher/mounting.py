"""The mounts of a jail, as they are made: at launch by the stages, later by a process that adjusts them.

Where a share is mounted in the jail's root, that root has three entries, of which the guest's worker sees the first:

    /share               the share; for a tree share an empty read-only file system with a directory for each child
    /hidden-directory    what is mounted over a hidden directory: empty, mode 000
    /hidden-file         over anything else that is hidden

and where another program serves than our own worker, what that one looks for:

    /program, /lib       itself and its libraries, a mount for each file
    /proc/self           what procfs tells of the process itself
    /proc/sys/fs/nr_open a file with the number of descriptors it may have

Everything here lies on read-only mounts. A directory for a new child is made through another, writable mount of the
tree's file system, which no process inside ever holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

from virtiofs_sandbox.confine.plan import LaunchPlan, ProgramPlan, RuleMount
from virtiofs_sandbox.syscalls import mounts
from virtiofs_sandbox.syscalls.base import SyscallError, named

PLAIN = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
READ_ONLY = PLAIN | mounts.MOUNT_ATTR_RDONLY
SHARE, HIDDEN_DIRECTORY, HIDDEN_FILE = b"/share", b"/hidden-directory", b"/hidden-file"
LIBRARIES, PROC, PROC_SELF, NR_OPEN = b"/lib", b"/proc", b"/proc/self", b"/proc/sys/fs/nr_open"
_ABOVE_NR_OPEN = (b"/proc/sys", b"/proc/sys/fs")
# Not there, or by way of a symbolic link, or nowhere that these ids may go: nothing to mount over. The worker still
# holds the rule for whatever comes to be there.
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES)
_TREE_OPTIONS = ((b"size", b"4096"), (b"nr_inodes", b"1024"), (b"mode", b"0755"))


@dataclass(frozen=True)
class Taken:
    """Detached clones of host mounts, each by an O_PATH descriptor of its root.

    *share* has one for each child, *files* one for each file of a program that serves in our worker's place.
    """

    share: tuple[int, ...]
    binary: int
    null: int
    files: tuple[int, ...] = ()

    def numbers(self) -> tuple[int, ...]:
        return (self.binary, self.null, *self.files, *self.share)

    @classmethod
    def of(cls, numbers: list[int], plan: LaunchPlan) -> Taken:
        """From the descriptors in the order of `numbers`."""
        first = 2 + (len(plan.program.files) if plan.program else 0)
        binary, null = numbers[:2]
        return cls(tuple(numbers[first:]), binary, null, tuple(numbers[2:first]))


def take(plan: LaunchPlan, user_namespace: int | None = None) -> Taken:
    """Clones the share, the worker binary and /dev/null; *user_namespace*, if given, shifts the share's stored ids."""
    with contextlib.ExitStack() as failing:
        binary = _take_file(plan.worker)
        failing.callback(os.close, binary)
        files = []
        for path, _ in plan.program.files if plan.program else ():
            files.append(_take_file(path))
            failing.callback(os.close, files[-1])
        null = named("open_tree(/dev/null)", mounts.clone_tree, b"/dev/null", False)
        failing.callback(os.close, null)
        mounts.restrict_tree(null, mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC)
        share = []
        for source, attributes in _directories(plan):
            share.append(take_directory(source, attributes, user_namespace))
            failing.callback(os.close, share[-1])
        failing.pop_all()
        return Taken(tuple(share), binary, null, tuple(files))


def _take_file(path: bytes) -> int:
    """A detached clone of one file that is run or read, and never changed."""
    mount = named("open_tree(worker)", mounts.clone_tree, path, False)
    mounts.restrict_tree(mount, mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV)
    return mount


def take_directory(source: bytes, attributes: int, user_namespace: int | None) -> int:
    """A detached clone of the mounts at and below *source*, with MOUNT_ATTR_* *attributes* on each."""
    tree = named("open_tree(share)", mounts.clone_tree, source, True)
    try:
        mounts.restrict_tree(tree, attributes)
        if user_namespace is not None:
            mounts.translate_ids(tree, user_namespace)
    except SyscallError:
        os.close(tree)
        raise
    return tree


def _directories(plan: LaunchPlan) -> tuple[tuple[bytes, int], ...]:
    if plan.children:
        return tuple((child.source, child.attributes) for child in plan.children)
    return ((plan.source, plan.share_attributes),)


def empty_root() -> int:
    """A file system in which there is nothing, and never will be."""
    options = ((b"size", b"4096"), (b"nr_inodes", b"1"), (b"mode", b"0555"), (b"ro", None))
    return mounts.new_filesystem(b"tmpfs", options, READ_ONLY)


def furnished_root(plan: LaunchPlan) -> int:
    """A file system with the entries that *plan* needs, read-only once they are there."""
    files = [HIDDEN_FILE]
    directories = [(SHARE, 0o555), (HIDDEN_DIRECTORY, 0)]
    if plan.program is not None:
        files += [*(place for _, place in plan.program.files), NR_OPEN]
        directories += [(path, 0o555) for path in (LIBRARIES, PROC, PROC_SELF, *_ABOVE_NR_OPEN)]
    inodes = b"%d" % (1 + len(directories) + len(files))
    options = ((b"size", b"4096"), (b"nr_inodes", inodes), (b"mode", b"0555"))
    root = mounts.new_filesystem(b"tmpfs", options, PLAIN)
    for path, mode in directories:
        _make_directory(root, path[1:], mode)
    for path in files:
        named("mknod", _make_file, root, path[1:])
    if plan.program is not None:
        _write_file(root, NR_OPEN[1:], b"%d\n" % plan.nofile[1])
    mounts.restrict_tree(root, READ_ONLY)
    return root


def furnish(plan: ProgramPlan, files: tuple[int, ...], proc: int) -> None:
    """Mounts *files* of the program and its own part of *proc*, whose process with pid 1 it will be, in the root."""
    for (_, place), mount in zip(plan.files, files, strict=True):
        mounts.attach(mount, place)
    # Only what is mounted can be cloned in part, before Linux 6.15.
    mounts.attach(proc, PROC)
    own = named("open_tree", mounts.clone_tree, PROC + b"/1", False)
    mounts.detach(PROC)
    mounts.attach(own, PROC_SELF)
    os.close(own)


def attach_share(plan: LaunchPlan, taken: Taken) -> int:
    """Mounts the share, or a directory for each of its children, in the jail's root; an O_PATH descriptor of it."""
    if plan.children:
        tree = mounts.new_filesystem(b"tmpfs", _TREE_OPTIONS, PLAIN)
        for child in plan.children:
            _make_directory(tree, child.name, 0o755)
        mounts.restrict_tree(tree, READ_ONLY)
        mounts.attach(tree, SHARE)
        for child, mount in zip(plan.children, taken.share, strict=True):
            attach_beneath(tree, child.name, mount)
    else:
        mounts.attach(taken.share[0], SHARE)
    return open_share()


def open_share() -> int:
    return named("open(share)", os.open, SHARE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def hold(share: int, rule: RuleMount) -> bool:
    """Mounts what holds *rule*; False where there is nothing to mount it over."""
    try:
        place = mounts.open_beneath(share, rule.path)
    except SyscallError as error:
        if error.errno in _NOTHING_THERE:
            return False
        raise
    cover(place, hide=rule.hide)
    os.close(place)
    return True


def cover(place: int, *, hide: bool) -> None:
    """Mounts over *place*: something empty, or a read-only clone of what is there."""
    if hide:
        is_directory = stat.S_ISDIR(os.fstat(place).st_mode)
        mount = mounts.clone_tree(HIDDEN_DIRECTORY if is_directory else HIDDEN_FILE, False)
    else:
        mount = mounts.clone_mount(place, True)
        mounts.restrict_tree(mount, mounts.MOUNT_ATTR_RDONLY)
    mounts.attach_at(mount, place)
    os.close(mount)


def attach_beneath(share: int, path: bytes, mount: int) -> None:
    place = mounts.open_beneath(share, path)
    mounts.attach_at(mount, place)
    os.close(place)


def uncover(share: int, path: bytes) -> None:
    """Takes off the uppermost mount at *path*."""
    directory, _, name = path.rpartition(b"/")
    parent = mounts.open_beneath(share, directory or b".")
    named("fchdir", os.fchdir, parent)
    mounts.detach(name)
    named("chdir", os.chdir, b"/")
    os.close(parent)


def add_place(share: int, name: bytes) -> None:
    """Makes the directory that a new child of a tree is mounted on."""
    writable = _writable(share)
    _make_directory(writable, name, 0o755)
    os.close(writable)


def remove_place(share: int, name: bytes) -> None:
    writable = _writable(share)
    named("rmdir", _remove_directory, writable, name)
    os.close(writable)


def _writable(share: int) -> int:
    """A mount of a tree's own file system that is part of no mount namespace, and goes with its descriptor."""
    mount = mounts.clone_mount(share, False)
    mounts.make_writable(mount)
    return mount


def _make_directory(parent: int, name: bytes, mode: int) -> None:
    named("mkdir", _mkdir, parent, name, mode)


def _mkdir(parent: int, name: bytes, mode: int) -> None:
    os.mkdir(name, mode, dir_fd=parent)


def _make_file(parent: int, name: bytes) -> None:
    os.mknod(name, stat.S_IFREG, dir_fd=parent)


def _write_file(parent: int, path: bytes, content: bytes) -> None:
    descriptor = named("open(nr_open)", _open_to_write, parent, path)
    named("write(nr_open)", os.write, descriptor, content)
    os.close(descriptor)


def _open_to_write(parent: int, path: bytes) -> int:
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=parent)


def _remove_directory(parent: int, name: bytes) -> None:
    os.rmdir(name, dir_fd=parent)
