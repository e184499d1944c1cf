"""Mounts by descriptor: fsopen(2), open_tree(2), mount_setattr(2), move_mount(2), openat2(2), and pivot_root(2)."""

from __future__ import annotations

import ctypes
import os

from virtiofs_sandbox.syscalls.base import checked, declare, declare_number

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


_mount = declare("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = declare("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = declare_number(155, ctypes.c_char_p, ctypes.c_char_p)
_open_tree = declare_number(428, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_move_mount = declare_number(429, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_fsopen = declare_number(430, ctypes.c_char_p, ctypes.c_uint)
_fsconfig = declare_number(431, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
_fsmount = declare_number(432, ctypes.c_int, ctypes.c_uint, ctypes.c_uint)
_openat2 = declare_number(437, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)
_mount_setattr = declare_number(
    442, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(_MountAttr), ctypes.c_size_t
)


def make_all_private() -> None:
    """Cuts this mount namespace off: nothing mounted or unmounted here or elsewhere is seen on the other side."""
    checked(_mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount", b"/")


def clone_tree(path: bytes, recursive: bool) -> int:
    """Clones the mount at *path*, with what is mounted below it if *recursive*; returns an O_PATH root, close-on-exec.

    The clone is the root of its own mount, so ".." cannot leave it; a plainly opened directory can (I2).
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return checked(_open_tree(AT_FDCWD, path, flags), "open_tree", path)


def clone_mount(opened: int, recursive: bool) -> int:
    """As clone_tree, of the place behind an O_PATH descriptor."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return checked(_open_tree(opened, b"", flags), "open_tree")


def restrict_tree(tree: int, attributes: int) -> None:
    """Sets MOUNT_ATTR_* *attributes* on every mount of a cloned *tree* and takes it out of propagation."""
    attr = _MountAttr(attr_set=attributes, propagation=MS_PRIVATE)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    checked(_mount_setattr(tree, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr")


def translate_ids(tree: int, user_namespace: int) -> None:
    """Ids stored in the file systems of a detached *tree* appear as the ids that *user_namespace* maps them to.

    Needs CAP_SYS_ADMIN over the file system (in the first user namespace, for most), which must support it.
    mount_setattr(2), "ID-mapped mounts".
    """
    attr = _MountAttr(attr_set=MOUNT_ATTR_IDMAP, userns_fd=user_namespace)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    checked(
        _mount_setattr(tree, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr(MOUNT_ATTR_IDMAP)"
    )


def make_writable(mount: int) -> None:
    """Takes the read-only attribute off the one mount behind *mount*."""
    attr = _MountAttr(attr_clr=MOUNT_ATTR_RDONLY)
    checked(_mount_setattr(mount, b"", AT_EMPTY_PATH, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr")


def open_beneath(root: int, path: bytes) -> int:
    """An O_PATH descriptor of *path* below the directory *root*, close-on-exec.

    No symbolic link is followed, neither on the way nor at its end, and nothing leads above *root*. openat2(2).
    """
    how = _OpenHow(
        # Without O_NOFOLLOW, with which a link at the end would be opened as itself.
        flags=os.O_PATH | os.O_CLOEXEC,
        resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    )
    return checked(_openat2(root, path, ctypes.byref(how), ctypes.sizeof(how)), "openat2", path)


def new_filesystem(kind: bytes, options: tuple[tuple[bytes, bytes | None], ...], attributes: int) -> int:
    """Makes a detached mount of file system *kind* and returns its root. An option without a value is a flag."""
    context = checked(_fsopen(kind, FSOPEN_CLOEXEC), "fsopen", kind)
    try:
        for key, value in options:
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            checked(_fsconfig(context, command, key, value, 0), "fsconfig", key)
        checked(_fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig", kind)
        return checked(_fsmount(context, FSMOUNT_CLOEXEC, attributes), "fsmount", kind)
    finally:
        os.close(context)


def attach(tree: int, path: bytes) -> None:
    """Mounts a detached *tree* on *path*."""
    checked(_move_mount(tree, b"", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH), "move_mount", path)


def attach_at(tree: int, place: int) -> None:
    """Mounts a detached *tree* on what the O_PATH descriptor *place* stands for."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    checked(_move_mount(tree, b"", place, b"", flags), "move_mount")


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    checked(_pivot_root(new_root, put_old), "pivot_root", new_root)


def detach(path: bytes) -> None:
    """Lazily unmounts *path*, which is no symbolic link, and everything below it."""
    checked(_umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW), "umount2", path)
