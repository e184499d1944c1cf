//! Programs that lie in the share or are written into memory, and device nodes.

use libc::{AT_EMPTY_PATH, O_PATH, O_RDONLY};

use super::{at, chown, touch, Attempt};
use crate::kernel::{address, call, close, done, open, open_kept, opened, path, text, word, Result, UNPREPARED};
use crate::{ARENA, BINARY, NULL, PROC, SHARE};

pub const ALL: &[Attempt] = &[
    Attempt::new("device_make", "make a character device", |_| mknod(libc::S_IFCHR, 0x0105)),
    Attempt::new("device_make_block", "make a block device", |_| mknod(libc::S_IFBLK, 0x0700)),
    Attempt::new("device_open", "open a device that lies in the share", |_| open(SHARE, "device", O_RDONLY)),
    Attempt::new("device_open_in_mount_below", "open one in a file system mounted in the share", |_| {
        open(SHARE, "mounted/device", O_RDONLY)
    }),
    Attempt::new("device_reopen", "open one that is held as O_PATH", |_| {
        let held = open_kept(SHARE, "device", O_PATH).map_err(|_| UNPREPARED)?;
        let result = open(PROC, &format!("self/fd/{held}"), O_RDONLY);
        close(held);
        result
    }),
    Attempt::new("exec_share_file", "execute a program of the share by its descriptor", |_| {
        exec(open_kept(SHARE, "program", O_RDONLY)?)
    }),
    Attempt::new("exec_share_setuid", "execute a set-user-ID program of the share", |_| {
        exec(open_kept(SHARE, "setuid-program", O_RDONLY)?)
    }),
    Attempt::new("exec_share_by_path", "execute one by its path (execveat)", |_| {
        let none = [0usize];
        let vector = none.as_ptr() as usize;
        done(libc::SYS_execveat, &[word(SHARE), text(c"program"), vector, vector, 0])
    }),
    Attempt::new("exec_absolute", "execute one by its absolute path (execve)", |facts| {
        let none = [0usize];
        let vector = none.as_ptr() as usize;
        done(libc::SYS_execve, &[text(&path(&facts.outside("prober"))), vector, vector])
    }),
    Attempt::new("exec_share_as_the_binary", "execute one under the number of the worker's own binary", |_| {
        exec(number_9(open_kept(SHARE, "program", O_RDONLY)?)?)
    }),
    Attempt::new("exec_own_binary_again", "execute the worker's own binary again", |_| {
        exec(number_9(open_kept(PROC, "self/exe", O_RDONLY)?)?)
    }),
    Attempt::new("exec_arena", "execute what was written into the arena", |_| exec(number_9(filled_arena()?)?)),
    Attempt::new("exec_new_memory", "make memory to execute (memfd_create)", |_| {
        opened(libc::SYS_memfd_create, &[text(c"probe"), 0])
    }),
    // What a descriptor alone is enough for.
    Attempt::new("binary_chmod", "change the worker binary's mode", |_| {
        at(libc::SYS_fchmodat, PROC, "self/exe", 0o777)
    }),
    Attempt::new("binary_chown", "change the worker binary's owner", |facts| {
        chown(PROC, "self/exe", facts.number("id"))
    }),
    Attempt::new("binary_times", "change the worker binary's times", |_| touch(PROC, "self/exe")),
    Attempt::new("binary_descriptor_left", "find the worker binary's descriptor still open", |_| {
        opened(libc::SYS_fcntl, &[word(BINARY), word(libc::F_DUPFD_CLOEXEC), 0])
    }),
    Attempt::new("null_chmod", "change /dev/null's mode", |_| done(libc::SYS_fchmod, &[word(NULL), 0o666])),
    Attempt::new("null_chown", "change /dev/null's owner", |facts| chown(PROC, "self/fd/0", facts.number("id"))),
    Attempt::new("null_times", "change /dev/null's times", |_| touch(PROC, "self/fd/1")),
];

fn mknod(kind: libc::mode_t, device: usize) -> Result<()> {
    let name = path(&format!("node-{kind}"));
    done(libc::SYS_mknodat, &[word(SHARE), text(&name), kind as usize | 0o600, device])
}

/// Copies *fd* to the number from which the filter lets a program be started.
fn number_9(fd: i32) -> Result<i32> {
    if fd == BINARY {
        return Ok(fd);
    }
    let copy = call(libc::SYS_fcntl, &[word(fd), word(libc::F_DUPFD_CLOEXEC), word(BINARY)])?;
    if copy as i32 == BINARY {
        return Ok(BINARY);
    }
    Err(UNPREPARED)
}

/// The arena with the first page of the prober's own program in it: enough to see whether the kernel would take it.
fn filled_arena() -> Result<i32> {
    let program = open_kept(PROC, "self/exe", O_RDONLY)?;
    let mut page = [0u8; 4096];
    let part = libc::iovec { iov_base: page.as_mut_ptr().cast(), iov_len: page.len() };
    call(libc::SYS_preadv2, &[word(program), address(&part), 1, 0, 0, 0])?;
    close(program);
    call(libc::SYS_pwritev2, &[word(ARENA), address(&part), 1, 0, 0, 0])?;
    Ok(ARENA)
}

/// Starts what is behind *fd*; returns only if that failed.
fn exec(fd: i32) -> Result<()> {
    let none = [0usize];
    let vector = none.as_ptr() as usize;
    let result = done(libc::SYS_execveat, &[word(fd), text(c""), vector, vector, word(AT_EMPTY_PATH)]);
    close(fd);
    result
}
