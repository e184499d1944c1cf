//! Mounts and roots: the last group, since what gets through here changes what later attempts find.
//!
//! Where the worker has no mount namespace of its own, decoys stand for the machine's mounts.

use std::ffi::{CStr, CString};

use libc::{AT_EMPTY_PATH, EBUSY, EINVAL, ENOENT};

use super::Attempt;
use crate::facts::Facts;
use crate::kernel::{address, call, close, done, opened, path, permitted, text, word, Result};
use crate::{NULL, PROC, SHARE};

const RESTRICTIONS: u64 = 0x0f;

pub const ALL: &[Attempt] = &[
    Attempt::new("mount", "mount a tmpfs over a directory or the root", |facts| {
        on_decoy_or_root(facts, "mountpoint", |target| {
            done(libc::SYS_mount, &[text(c"tmpfs"), text(target), text(c"tmpfs"), 0, 0])
        })
    }),
    Attempt::new("mount_bind", "bind-mount a directory or the root", |facts| {
        on_decoy_or_root(facts, "mountpoint", |target| {
            done(libc::SYS_mount, &[text(target), text(target), 0, libc::MS_BIND as usize, 0])
        })
    }),
    Attempt::new("share_make_writable", "take the restrictions off the share's mount", |_| loosen(SHARE)),
    Attempt::new("proc_make_writable", "take them off procfs", |_| loosen(PROC)),
    Attempt::new("null_make_writable", "take them off /dev/null", |_| loosen(NULL)),
    Attempt::new("open_tree", "clone the share's mount", |_| {
        opened(libc::SYS_open_tree, &[word(SHARE), text(c""), word(AT_EMPTY_PATH | 1)])
    }),
    Attempt::new("move_mount", "attach a clone of the share's mount", |facts| {
        let tree = call(libc::SYS_open_tree, &[word(SHARE), text(c""), word(AT_EMPTY_PATH | 1)])?;
        let result = on_decoy_or_root(facts, "mountpoint", |target| {
            done(libc::SYS_move_mount, &[tree, text(c""), word(libc::AT_FDCWD), text(target), 4])
        });
        close(tree as i32);
        result
    }),
    Attempt::new("fsopen", "make a new file system (fsopen)", |_| opened(libc::SYS_fsopen, &[text(c"tmpfs"), 0])),
    Attempt::new("pivot_root", "change the root of the mount namespace (asked for the impossible)", |_| {
        permitted(libc::SYS_pivot_root, &[text(c"/"), text(c"/")], &[EBUSY, EINVAL])
    }),
    Attempt::new("chroot", "change the root directory", |_| done(libc::SYS_chroot, &[text(c"/")])),
    Attempt::new("umount", "unmount a directory or the root", |facts| {
        on_decoy_or_root(facts, "mounted", |target| done(libc::SYS_umount2, &[text(target), word(libc::MNT_DETACH)]))
    }),
];

/// Makes *attempt* on the decoy, or on the root of a jail in which no decoy can be named.
fn on_decoy_or_root(facts: &Facts, decoy: &str, attempt: impl Fn(&CStr) -> Result<()>) -> Result<()> {
    let named: CString = path(facts.text(decoy));
    match attempt(&named) {
        Err(ENOENT) => attempt(c"/"),
        result => result,
    }
}

/// Clears read-only, nosuid, nodev and noexec of the mount whose root *fd* is, and puts back what was set.
///
/// What is no root of a mount is no mount of its own either: EINVAL says that the caller might have done it there.
fn loosen(fd: i32) -> Result<()> {
    let before = flags_of(fd);
    let change = |set: u64, cleared: u64, through: &[i32]| {
        let attributes = [set, cleared, 0, 0];
        let size = size_of_val(&attributes);
        let arguments = [word(fd), text(c""), word(AT_EMPTY_PATH), address(&attributes), size];
        permitted(libc::SYS_mount_setattr, &arguments, through)
    };
    let result = change(0, RESTRICTIONS, &[EINVAL]);
    let _ = change(before, 0, &[]);
    result
}

/// Those of the restrictions that are set: statfs(2) and mount_setattr(2) number them alike.
fn flags_of(fd: i32) -> u64 {
    let mut found = [0u64; 15];
    let _ = done(libc::SYS_fstatfs, &[word(fd), found.as_mut_ptr() as usize]);
    found[10] & RESTRICTIONS
}
