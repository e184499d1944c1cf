//! What a worker is there for.

use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR};

use super::{at, chown, Attempt};
use crate::facts::Facts;
use crate::kernel::{call, close, done, open, open_kept, text, word, Result};
use crate::{PROC, SHARE};

pub const ALL: &[Attempt] = &[
    Attempt::new("share_list_works", "list the share", |_| open(SHARE, ".", O_RDONLY | O_DIRECTORY)),
    Attempt::new("share_read_works", "read a file", |_| open(SHARE, "file", O_RDONLY)),
    Attempt::new("share_mount_below_works", "read a file of a file system mounted in the share", |_| {
        open(SHARE, "mounted/file", O_RDONLY)
    }),
    Attempt::new("share_reopen_works", "open a held file for writing through procfs", share_reopen),
    Attempt::new("share_create_works", "create a file", |_| open(SHARE, "created", O_CREAT | O_EXCL | O_RDWR)),
    Attempt::new("share_mkdir_works", "make a directory", |_| at(libc::SYS_mkdirat, SHARE, "directory", 0o755)),
    Attempt::new("share_rename_across_directories_works", "rename between directories", share_rename),
    Attempt::new("share_symlink_works", "make a symbolic link", |_| {
        done(libc::SYS_symlinkat, &[text(c"/anywhere"), word(SHARE), text(c"made-link")])
    }),
    Attempt::new("share_fifo_works", "make a FIFO", |_| {
        done(libc::SYS_mknodat, &[word(SHARE), text(c"fifo"), libc::S_IFIFO as usize | 0o600, 0])
    }),
    Attempt::new("share_chmod_works", "change a file's mode", share_chmod),
    Attempt::new("share_chown_works", "give a file away", |_| chown(SHARE, "file", 1000)),
    Attempt::new("share_unlink_works", "remove a file", |_| at(libc::SYS_unlinkat, SHARE, "created", 0)),
];

fn share_chmod(_: &Facts) -> Result<()> {
    let held = open_kept(SHARE, "file", O_PATH)?;
    let result = at(libc::SYS_fchmodat, PROC, &format!("self/fd/{held}"), 0o640);
    close(held);
    // Without mounts of its own a worker changes what it has opened, and nothing else.
    result.or_else(|_| {
        let opened = open_kept(SHARE, "file", O_RDONLY)?;
        let result = done(libc::SYS_fchmod, &[word(opened), 0o640]);
        close(opened);
        result
    })
}

fn share_reopen(_: &Facts) -> Result<()> {
    let held = open_kept(SHARE, "file", O_PATH)?;
    let result = open(PROC, &format!("self/fd/{held}"), O_RDWR);
    close(held);
    result
}

fn share_rename(_: &Facts) -> Result<()> {
    let (from, to) = (text(c"file"), text(c"directory/file"));
    call(libc::SYS_renameat2, &[word(SHARE), from, word(SHARE), to, 0])?;
    done(libc::SYS_renameat2, &[word(SHARE), to, word(SHARE), from, 0])
}
