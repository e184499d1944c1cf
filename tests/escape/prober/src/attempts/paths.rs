//! Opening what lies outside, by each way a path can take.

use libc::{AT_FDCWD, O_DIRECTORY, O_PATH, O_RDONLY, O_WRONLY};

use super::{at, Attempt};
use crate::facts::Facts;
use crate::kernel::{close, done, open, open_kept, opened, path, text, word, Result, UNPREPARED};
use crate::{PROC, SHARE};

pub const ALL: &[Attempt] = &[
    Attempt::new("share_dotdot", "read a secret through `..` from the share", |facts| {
        open(SHARE, &facts.climb("secret"), O_RDONLY)
    }),
    Attempt::new("share_dotdot_write", "open it for writing through `..` from the share", |facts| {
        open(SHARE, &facts.climb("secret"), O_WRONLY)
    }),
    Attempt::new("share_dotdot_as_path", "get an O_PATH descriptor of it through `..` from the share", |facts| {
        open(SHARE, &facts.climb("secret"), O_PATH)
    }),
    Attempt::new("share_dotdot_from_below", "read it through `..` from a directory of the share", |facts| {
        let below = open_kept(SHARE, "below", O_PATH | O_DIRECTORY).map_err(|_| UNPREPARED)?;
        let result = open(below, &facts.climb("secret"), O_RDONLY);
        close(below);
        result
    }),
    Attempt::new("share_absolute", "read it by its absolute path", |facts| {
        open(SHARE, &facts.outside("secret"), O_RDONLY)
    }),
    Attempt::new("openat_dotdot", "read it through `..` with openat instead of openat2", |facts| {
        facts.by_any_name("secret", |directory, name| {
            opened(libc::SYS_openat, &[word(directory), text(name), word(O_RDONLY | libc::O_CLOEXEC)])
        })
    }),
    Attempt::new("share_symlink_out", "read it through a symbolic link in the share", |_| {
        open(SHARE, "link-out", O_RDONLY)
    }),
    Attempt::new("share_symlink_relative", "read it through a relative symbolic link in the share", |_| {
        open(SHARE, "link-up", O_RDONLY)
    }),
    Attempt::new("share_symlink_directory", "read it below a symbolic link to its directory", |_| {
        open(SHARE, "link-outside/secret", O_RDONLY)
    }),
    Attempt::new("share_symlink_made", "read it through a symbolic link the worker makes itself", |facts| {
        let target = path(&facts.outside("secret"));
        let _ = done(libc::SYS_symlinkat, &[text(&target), word(SHARE), text(c"own-link")]);
        open(SHARE, "own-link", O_RDONLY)
    }),
    Attempt::new("share_symlink_within", "let the kernel follow a symbolic link inside the share", |_| {
        open(SHARE, "link-within", O_RDONLY)
    }),
    Attempt::new("root_list", "list the root directory", |_| open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY)),
    Attempt::new("root_create", "make a directory in the root, or in the decoys'", |facts| {
        at(libc::SYS_mkdirat, AT_FDCWD, "/directory", 0o755)
            .or_else(|_| at(libc::SYS_mkdirat, AT_FDCWD, &facts.outside("made-by-root-create"), 0o755))
    }),
    Attempt::new("root_secret", "get an O_PATH descriptor of the secret by its absolute path", |facts| {
        open(AT_FDCWD, &facts.outside("secret"), O_PATH)
    }),
    Attempt::new("root_dotdot", "get an O_PATH descriptor of it through `..` from the working directory", |facts| {
        open(AT_FDCWD, &facts.climb("secret"), O_PATH)
    }),
    Attempt::new("proc_dotdot", "read it through `..` from procfs", |facts| {
        open(PROC, &facts.climb("secret"), O_RDONLY)
    }),
    Attempt::new("proc_dotdot_from_fd", "read it through `..` from procfs' self/fd", |facts| {
        open(PROC, &format!("self/fd/{}", facts.climb("secret")), O_RDONLY)
    }),
    Attempt::new("proc_root_link", "read it below procfs' self/root", |facts| {
        open(PROC, &format!("self/root{}", facts.outside("secret")), O_RDONLY)
    }),
    Attempt::new("proc_cwd_link", "read it through `..` from procfs' self/cwd", |facts| {
        open(PROC, &format!("self/cwd/{}", facts.climb("secret")), O_RDONLY)
    }),
    Attempt::new("handle_outside", "open the secret by its file handle, as O_PATH", |facts| by_handle(facts, O_PATH)),
    Attempt::new("handle_outside_data", "open the secret by its file handle, to read", |facts| {
        by_handle(facts, O_RDONLY)
    }),
    Attempt::new("reopen_outside", "hold the secret as O_PATH, then open it through procfs' self/fd", |facts| {
        facts.by_any_name("secret", |directory, name| {
            let held = open_kept(directory, &name.to_string_lossy(), O_PATH)?;
            let result = open(PROC, &format!("self/fd/{held}"), O_RDONLY);
            close(held);
            result
        })
    }),
];

/// Any inode of the share's file system can be opened so, if the call and the capability are there.
fn by_handle(facts: &Facts, flags: i32) -> Result<()> {
    let handle = facts.bytes("handle");
    if handle.is_empty() {
        return Err(UNPREPARED);
    }
    // The kernel wants a descriptor of the file system that is more than O_PATH.
    let mount = open_kept(SHARE, ".", O_RDONLY | O_DIRECTORY).map_err(|_| UNPREPARED)?;
    let result = opened(libc::SYS_open_by_handle_at, &[word(mount), handle.as_ptr() as usize, word(flags)]);
    close(mount);
    result
}
