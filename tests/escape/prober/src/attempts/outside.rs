//! Each call that takes a path, on decoys outside the share, from every descriptor and by every kind of path.
//!
//! Landlock does not cover metadata and the filter sees no path: what holds here are the mounts, and the filter where
//! the worker does not need the call at all.

use std::ffi::CStr;

use libc::{c_long, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_WRONLY};

use super::{at, chown, touch, Attempt};
use crate::facts::Facts;
use crate::kernel::{address, call, close, done, open, open_kept, opened, path, text, word, Result, UNPREPARED};
use crate::{PROC, SHARE};

const SYS_FCHMODAT2: c_long = 452;
const SYS_SETXATTRAT: c_long = 463;
const SYS_GETXATTRAT: c_long = 464;
const SYS_REMOVEXATTRAT: c_long = 466;
/// AT_SYMLINK_NOFOLLOW and AT_NO_AUTOMOUNT, with which the worker asks.
const UNFOLLOWED: i32 = 0x100 | 0x800;
const RENAME_EXCHANGE: usize = 2;
const ATTRIBUTE: &CStr = c"user.decoy";

pub const ALL: &[Attempt] = &[
    Attempt::new("stat_outside", "see its size, owner and times (statx)", |facts| {
        facts.by_any_name("secret", |directory, name| {
            let found = [0u64; 32];
            done(libc::SYS_statx, &[word(directory), text(name), word(UNFOLLOWED), 0x7ff, found.as_ptr() as usize])
        })
    }),
    Attempt::new("stat_outside_held", "see them through an O_PATH descriptor", |facts| {
        facts.by_any_name("secret", |directory, name| {
            let held = open_kept(directory, &name.to_string_lossy(), O_PATH)?;
            let found = [0u64; 32];
            let arguments = [word(held), text(c""), word(AT_EMPTY_PATH), 0x7ff, found.as_ptr() as usize];
            let result = done(libc::SYS_statx, &arguments);
            close(held);
            result
        })
    }),
    Attempt::new("access_outside", "ask whether it may be read (faccessat)", |facts| {
        facts.by_any_name("secret", |directory, name| {
            done(libc::SYS_faccessat, &[word(directory), text(name), libc::R_OK as usize])
        })
    }),
    Attempt::new("readlink_outside", "read where a symbolic link points", |facts| {
        facts.by_any_name("link", |directory, name| {
            let mut target = [0u8; 64];
            done(libc::SYS_readlinkat, &[word(directory), text(name), target.as_mut_ptr() as usize, target.len()])
        })
    }),
    Attempt::new("list_outside", "list a directory", |facts| {
        facts.by_any_name("", |directory, name| open(directory, &name.to_string_lossy(), O_RDONLY | O_DIRECTORY))
    }),
    Attempt::new("handle_of_outside", "learn a file handle (name_to_handle_at)", |facts| {
        facts.by_any_name("secret", |directory, name| {
            let mut handle = [0u32; 34];
            (handle[0], handle[1]) = (128, 0);
            let mount = 0i32;
            let handle = handle.as_mut_ptr() as usize;
            done(libc::SYS_name_to_handle_at, &[word(directory), text(name), handle, address(&mount), 0])
        })
    }),
    Attempt::new("statfs_outside", "see how full its file system is (statfs)", |facts| {
        let found = [0u64; 15];
        done(libc::SYS_statfs, &[text(&path(&facts.outside("secret"))), found.as_ptr() as usize])
    }),
    Attempt::new("xattr_read_outside", "read an extended attribute", |facts| {
        extended(facts, "victim", SYS_GETXATTRAT, libc::SYS_lgetxattr, b"0123456789a")
    }),
    Attempt::new("xattr_write_outside", "set an extended attribute", |facts| {
        extended(facts, "victim", SYS_SETXATTRAT, libc::SYS_lsetxattr, b"of a prober")
    }),
    Attempt::new("xattr_remove_outside", "remove an extended attribute", |facts| {
        let absolute = path(&facts.outside("victim"));
        let remove =
            |directory: i32, name: &CStr| done(SYS_REMOVEXATTRAT, &[word(directory), text(name), 0, text(ATTRIBUTE)]);
        facts
            .by_any_name("victim", remove)
            .or_else(|_| done(libc::SYS_lremovexattr, &[text(&absolute), text(ATTRIBUTE)]))
    }),
    Attempt::new("write_outside", "open a file for writing", |facts| {
        facts.by_any_name("victim", |directory, name| open(directory, &name.to_string_lossy(), O_WRONLY))
    }),
    Attempt::new("truncate_outside", "truncate a file by its path", |facts| {
        done(libc::SYS_truncate, &[text(&path(&facts.outside("victim"))), 1])
    }),
    Attempt::new("chmod_outside", "change a mode (fchmodat)", |facts| {
        facts.by_any_name("victim", |directory, name| done(libc::SYS_fchmodat, &[word(directory), text(name), 0o600]))
    }),
    Attempt::new("chmod2_outside", "change a mode (fchmodat2)", |facts| {
        facts.by_any_name("victim", |directory, name| {
            done(SYS_FCHMODAT2, &[word(directory), text(name), 0o600, word(libc::AT_SYMLINK_NOFOLLOW)])
        })
    })
    .varies(),
    Attempt::new("chmod_outside_held", "change a mode through an O_PATH descriptor and procfs", |facts| {
        held_outside(facts, |name| at(libc::SYS_fchmodat, PROC, name, 0o600))
    }),
    Attempt::new("chmod_outside_opened", "change a mode of a file opened to read (fchmod)", |facts| {
        opened_outside(facts, |fd| done(libc::SYS_fchmod, &[word(fd), 0o600]))
    }),
    Attempt::new("times_outside_opened", "change times of a file opened to read", |facts| {
        opened_outside(facts, |fd| done(libc::SYS_utimensat, &[word(fd), 0, 0, 0]))
    }),
    Attempt::new("chown_outside", "change an owner (fchownat)", |facts| {
        facts.by_any_name("victim", |directory, name| chown(directory, &name.to_string_lossy(), own_id(facts)))
    }),
    Attempt::new("times_outside", "change times (utimensat)", |facts| {
        facts.by_any_name("victim", |directory, name| touch(directory, &name.to_string_lossy()))
    }),
    Attempt::new("create_outside", "create a file", |facts| {
        facts.by_any_name("created", |directory, name| {
            open(directory, &name.to_string_lossy(), O_CREAT | O_EXCL | O_WRONLY)
        })
    }),
    Attempt::new("mkdir_outside", "make a directory", |facts| {
        facts.by_any_name("made", |directory, name| done(libc::SYS_mkdirat, &[word(directory), text(name), 0o755]))
    }),
    Attempt::new("mknod_outside", "make a FIFO", |facts| {
        facts.by_any_name("fifo", |directory, name| {
            done(libc::SYS_mknodat, &[word(directory), text(name), libc::S_IFIFO as usize | 0o600, 0])
        })
    }),
    Attempt::new("symlink_outside", "make a symbolic link", |facts| {
        facts.by_any_name("new-link", |directory, name| {
            done(libc::SYS_symlinkat, &[text(c"target"), word(directory), text(name)])
        })
    }),
    Attempt::new("unlink_outside", "remove a file", |facts| {
        facts.by_any_name("unlinked", |directory, name| done(libc::SYS_unlinkat, &[word(directory), text(name), 0]))
    }),
    Attempt::new("rmdir_outside", "remove a directory", |facts| {
        facts.by_any_name("removed", |directory, name| {
            done(libc::SYS_unlinkat, &[word(directory), text(name), word(libc::AT_REMOVEDIR)])
        })
    }),
    Attempt::new("rename_outside", "rename a file", |facts| {
        facts.by_any_name("renamed", |directory, name| {
            let new = path(&format!("{}-away", name.to_string_lossy()));
            done(libc::SYS_renameat2, &[word(directory), text(name), word(directory), text(&new), 0])
        })
    }),
    Attempt::new("rename_in", "move an outside file into the share", |facts| {
        facts.by_any_name("moved-in", |directory, name| {
            done(libc::SYS_renameat2, &[word(directory), text(name), word(SHARE), text(c"moved-in"), 0])
        })
    }),
    Attempt::new("rename_out", "move a file of the share out", |facts| {
        facts.by_any_name("moved-out", |directory, name| {
            done(libc::SYS_renameat2, &[word(SHARE), text(c"moved-out"), word(directory), text(name), 0])
        })
    }),
    Attempt::new("rename_exchange", "exchange a file of the share with one outside", |facts| {
        facts.by_any_name("exchanged", |directory, name| {
            let arguments = [word(SHARE), text(c"exchanged"), word(directory), text(name), RENAME_EXCHANGE];
            done(libc::SYS_renameat2, &arguments)
        })
    }),
    Attempt::new("link_in", "hard-link an outside file into the share", |facts| {
        facts.by_any_name("secret", |directory, name| {
            done(
                libc::SYS_linkat,
                &[word(directory), text(name), word(SHARE), text(c"linked-in"), word(AT_SYMLINK_FOLLOW)],
            )
        })
    }),
    Attempt::new("link_out", "hard-link a file of the share to a place outside", |facts| {
        facts.by_any_name("linked-out", |directory, name| {
            let held = open_kept(SHARE, "below/file", O_PATH).map_err(|_| UNPREPARED)?;
            let link = path(&format!("self/fd/{held}"));
            let arguments = [word(PROC), text(&link), word(directory), text(name), word(AT_SYMLINK_FOLLOW)];
            let result = done(libc::SYS_linkat, &arguments);
            close(held);
            result
        })
    }),
    Attempt::new("link_held", "hard-link an outside file held as O_PATH through procfs' self/fd", |facts| {
        held_outside(facts, |name| {
            let link = path(name);
            let arguments = [word(PROC), text(&link), word(SHARE), text(c"held"), word(AT_SYMLINK_FOLLOW)];
            done(libc::SYS_linkat, &arguments)
        })
    }),
    Attempt::new("link_of_procfs", "hard-link a file of procfs into the share", |_| {
        done(
            libc::SYS_linkat,
            &[word(PROC), text(c"self/status"), word(SHARE), text(c"of-procfs"), word(AT_SYMLINK_FOLLOW)],
        )
    }),
    Attempt::new("chdir_outside", "make an outside directory the working directory", |facts| {
        done(libc::SYS_chdir, &[text(&path(&facts.outside("")))])
    }),
    Attempt::new("device_outside", "open a device node outside the share", |facts| {
        facts.by_any_name("device", |directory, name| open(directory, &name.to_string_lossy(), O_RDONLY))
    }),
    Attempt::new("exec_outside", "execute a program outside the share", |facts| {
        facts.by_any_name("prober", |directory, name| {
            let none = [0usize];
            let vector = none.as_ptr() as usize;
            done(libc::SYS_execveat, &[word(directory), text(name), vector, vector, 0])
        })
    }),
    Attempt::new("watch_outside", "be told what happens to it (inotify)", |facts| {
        let watcher = call(libc::SYS_inotify_init1, &[0])?;
        let name = path(&facts.outside("secret"));
        let result = done(libc::SYS_inotify_add_watch, &[watcher, text(&name), libc::IN_ALL_EVENTS as usize]);
        close(watcher as i32);
        result
    }),
    Attempt::new("open_tree_outside", "take a mount of an outside directory (open_tree)", |facts| {
        facts.by_any_name("", |directory, name| opened(libc::SYS_open_tree, &[word(directory), text(name), 1]))
    }),
];

fn own_id(facts: &Facts) -> usize {
    facts.number("id")
}

/// Makes *attempt* on procfs' link to the held `victim`.
fn held_outside(facts: &Facts, attempt: impl Fn(&str) -> Result<()>) -> Result<()> {
    facts.by_any_name("victim", |directory, name| {
        let held = open_kept(directory, &name.to_string_lossy(), O_PATH)?;
        let result = attempt(&format!("self/fd/{held}"));
        close(held);
        result
    })
}

/// Makes *attempt* on `victim`, opened to read.
fn opened_outside(facts: &Facts, attempt: impl Fn(i32) -> Result<()>) -> Result<()> {
    facts.by_any_name("victim", |directory, name| {
        let held = open_kept(directory, &name.to_string_lossy(), O_RDONLY)?;
        let result = attempt(held);
        close(held);
        result
    })
}

/// getxattrat(2) or setxattrat(2) by any name; on a kernel without them the older call, which knows absolute paths only.
fn extended(facts: &Facts, name: &str, newer: c_long, older: c_long, value: &[u8; 11]) -> Result<()> {
    let mut value = *value;
    let absolute = path(&facts.outside(name));
    if absolute.is_empty() {
        return Err(UNPREPARED);
    }
    // struct xattr_args: value, its size, flags.
    let arguments = [value.as_mut_ptr() as u64, value.len() as u64];
    let described = arguments.as_ptr() as usize;
    facts
        .by_any_name(name, |directory, name| {
            done(newer, &[word(directory), text(name), 0, text(ATTRIBUTE), described, size_of_val(&arguments)])
        })
        .or_else(|_| {
            let (value, value_bytes) = (value.as_ptr() as usize, value.len());
            done(older, &[text(&absolute), text(ATTRIBUTE), value, value_bytes, 0])
        })
}
