//! Parts of the share that an exact rule froze or hid: the worker refuses, and here the worker is the attacker.

use libc::{AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};

use super::{at, Attempt};
use crate::kernel::{call, close, done, open, open_kept, path, text, word, Result, UNPREPARED};
use crate::{PROC, SHARE};

const FROZEN: &str = "above/frozen/file";

pub const ALL: &[Attempt] = &[
    Attempt::new("frozen_write", "open a frozen file for writing", |_| open(SHARE, FROZEN, O_WRONLY)),
    Attempt::new("frozen_write_held", "hold a frozen file as O_PATH, then open it for writing through procfs", |_| {
        let held = open_kept(SHARE, FROZEN, O_PATH).map_err(|_| UNPREPARED)?;
        let result = open(PROC, &format!("self/fd/{held}"), O_RDWR);
        close(held);
        result
    }),
    Attempt::new("frozen_write_after_rename", "rename the frozen directory's parent, then write", |_| {
        let (there, away) = (text(c"above"), text(c"beside"));
        call(libc::SYS_renameat2, &[word(SHARE), there, word(SHARE), away, 0])?;
        let result = open(SHARE, "beside/frozen/file", O_WRONLY);
        let _ = call(libc::SYS_renameat2, &[word(SHARE), away, word(SHARE), there, 0]);
        result
    }),
    Attempt::new("frozen_chmod", "change a frozen file's mode", |_| {
        held_frozen(|_, link| at(libc::SYS_fchmodat, PROC, link, 0o600)).or_else(|_| {
            let file = open_kept(SHARE, FROZEN, O_RDONLY)?;
            let result = done(libc::SYS_fchmod, &[word(file), 0o600]);
            close(file);
            result
        })
    }),
    Attempt::new("frozen_times", "change a frozen file's times", |_| {
        held_frozen(|held, _| done(libc::SYS_utimensat, &[word(held), text(c""), 0, word(AT_EMPTY_PATH)])).or_else(
            |_| {
                let file = open_kept(SHARE, FROZEN, O_RDONLY)?;
                let result = done(libc::SYS_utimensat, &[word(file), 0, 0, 0]);
                close(file);
                result
            },
        )
    }),
    Attempt::new("frozen_create", "create a file in a frozen directory", |_| {
        open(SHARE, "above/frozen/created", O_CREAT | O_EXCL | O_RDWR)
    }),
    Attempt::new("frozen_link_in", "hard-link another file into it", |_| {
        let other = open_kept(SHARE, "below/file", O_PATH).map_err(|_| UNPREPARED)?;
        let link = path(&format!("self/fd/{other}"));
        let target = text(c"above/frozen/linked");
        let result = done(libc::SYS_linkat, &[word(PROC), text(&link), word(SHARE), target, word(AT_SYMLINK_FOLLOW)]);
        close(other);
        result
    }),
    Attempt::new("frozen_link_out", "hard-link a frozen file out, for a name that is not frozen", |_| {
        held_frozen(|_, link| {
            let link = path(link);
            let arguments = [word(PROC), text(&link), word(SHARE), text(c"thawed"), word(AT_SYMLINK_FOLLOW)];
            done(libc::SYS_linkat, &arguments)
        })
    }),
    Attempt::new("frozen_rename_out", "move a frozen file out", |_| {
        let (there, away) = (text(c"above/frozen/moved"), text(c"moved"));
        done(libc::SYS_renameat2, &[word(SHARE), there, word(SHARE), away, 0])
    }),
    Attempt::new("frozen_unlink", "remove a frozen file", |_| at(libc::SYS_unlinkat, SHARE, "above/frozen/removed", 0)),
    Attempt::new("masked_read", "read a hidden file", |_| open(SHARE, "masked/secret", O_RDONLY)),
    Attempt::new("masked_stat", "see that a hidden file exists", |_| open(SHARE, "masked/secret", O_PATH)),
    Attempt::new("masked_list", "find its names in a hidden directory", |_| {
        let directory = open_kept(SHARE, "masked", O_RDONLY | O_DIRECTORY)?;
        let mut entries = [0u8; 4096];
        let filled = call(libc::SYS_getdents64, &[word(directory), entries.as_mut_ptr() as usize, entries.len()]);
        close(directory);
        // What is mounted over it may be listed: it is empty.
        let found = entries.get(..filled?).is_some_and(|listed| listed.windows(6).any(|name| name == b"secret"));
        if found {
            Ok(())
        } else {
            Err(libc::ENOENT)
        }
    }),
    Attempt::new("masked_create", "create a file in a hidden directory", |_| {
        open(SHARE, "masked/created", O_CREAT | O_EXCL | O_RDWR)
    }),
    Attempt::new("masked_read_after_rename", "move the hidden directory, then read", |_| {
        let (there, away) = (text(c"masked"), text(c"unmasked"));
        call(libc::SYS_renameat2, &[word(SHARE), there, word(SHARE), away, 0])?;
        let result = open(SHARE, "unmasked/secret", O_RDONLY);
        let _ = call(libc::SYS_renameat2, &[word(SHARE), away, word(SHARE), there, 0]);
        result
    }),
];

/// Makes *attempt* with the frozen file held as O_PATH, and with procfs' link to it.
fn held_frozen(attempt: impl Fn(i32, &str) -> Result<()>) -> Result<()> {
    let held = open_kept(SHARE, FROZEN, O_PATH).map_err(|_| UNPREPARED)?;
    let result = attempt(held, &format!("self/fd/{held}"));
    close(held);
    result
}
