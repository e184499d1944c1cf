//! Executable memory, and the memory shared with the supervisor.

use libc::{c_int, MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, O_RDONLY, O_RDWR, PROT_EXEC, PROT_READ, PROT_WRITE};

use super::Attempt;
use crate::kernel::{address, call, close, done, open_kept, word, Result, UNPREPARED};
use crate::{ARENA, CONFIG, PROC, SHARE, STATISTICS};

const PUNCH_HOLE: i32 = 0x02 | 0x01;
const PAGE: usize = 4096;

pub const EXECUTABLE: &[Attempt] = &[
    Attempt::new("map_executable", "map new executable memory", |_| map(PROT_READ | PROT_EXEC, -1).map(drop)),
    Attempt::new("map_writable_executable", "map memory both writable and executable", |_| {
        map(PROT_READ | PROT_WRITE | PROT_EXEC, -1).map(drop)
    }),
    Attempt::new("map_then_make_executable", "make mapped memory executable (mprotect)", |_| {
        let address = map(PROT_READ | PROT_WRITE, -1).map_err(|_| UNPREPARED)?;
        done(libc::SYS_mprotect, &[address, PAGE, word(PROT_READ | PROT_EXEC)])
    }),
    Attempt::new("map_then_make_executable_by_key", "make it executable with a protection key (pkey_mprotect)", |_| {
        let address = map(PROT_READ | PROT_WRITE, -1).map_err(|_| UNPREPARED)?;
        done(libc::SYS_pkey_mprotect, &[address, PAGE, word(PROT_READ | PROT_EXEC), word(-1)])
    })
    .varies(),
    Attempt::new("map_share_executable", "map a file of the share as executable", |_| {
        mapped_file(open_kept(SHARE, "program", O_RDONLY)?)
    }),
    Attempt::new("map_binary_executable", "map the worker binary as executable once more", |_| {
        mapped_file(open_kept(PROC, "self/exe", O_RDONLY)?)
    }),
    Attempt::new("map_arena_executable", "map the arena as executable", |_| {
        let flags = word(MAP_SHARED);
        done(libc::SYS_mmap, &[0, PAGE, word(PROT_READ | PROT_EXEC), flags, word(ARENA), 0])
    }),
    Attempt::new("personality", "make every readable page executable (personality)", |_| {
        done(libc::SYS_personality, &[0x0040_0000])
    }),
];

pub const SHARED: &[Attempt] = &[
    Attempt::new("config_write", "write the configuration", |_| write(CONFIG)),
    Attempt::new("config_truncate", "truncate the configuration", |_| done(libc::SYS_ftruncate, &[word(CONFIG), 0])),
    Attempt::new("config_punch", "punch a hole into the configuration", |_| punch(CONFIG)),
    Attempt::new("config_reopen_and_write", "open the configuration again and write it", |_| {
        write(open_kept(PROC, "self/fd/4", O_RDWR)?)
    }),
    Attempt::new("statistics_truncate", "truncate the statistics page", |_| {
        done(libc::SYS_ftruncate, &[word(STATISTICS), 0])
    }),
    Attempt::new("statistics_grow", "grow the statistics page", |_| {
        done(libc::SYS_ftruncate, &[word(STATISTICS), 1 << 20])
    }),
    Attempt::new("statistics_punch", "punch a hole into the statistics page", |_| punch(STATISTICS)),
    Attempt::new("arena_truncate", "truncate the arena", |_| done(libc::SYS_ftruncate, &[word(ARENA), 0])),
    Attempt::new("arena_punch", "punch a hole into the arena", |_| punch(ARENA)),
];

/// One page, anonymous or of *fd*; its address.
fn map(access: c_int, fd: c_int) -> Result {
    let flags = MAP_PRIVATE | if fd < 0 { MAP_ANONYMOUS } else { 0 };
    call(libc::SYS_mmap, &[0, PAGE, word(access), word(flags), word(fd), 0])
}

fn mapped_file(fd: i32) -> Result<()> {
    let result = map(PROT_READ | PROT_EXEC, fd).map(drop);
    close(fd);
    result
}

fn write(fd: i32) -> Result<()> {
    let part = libc::iovec { iov_base: c"probe".as_ptr().cast_mut().cast(), iov_len: 5 };
    done(libc::SYS_pwritev2, &[word(fd), address(&part), 1, 0, 0, 0])
}

fn punch(fd: i32) -> Result<()> {
    done(libc::SYS_fallocate, &[word(fd), word(PUNCH_HOLE), 0, PAGE])
}
