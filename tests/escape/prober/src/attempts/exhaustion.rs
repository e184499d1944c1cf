//! Using up what others need too. Each stops at a bound that no machine notices.

use std::thread;

use libc::{MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, O_PATH, PROT_READ, PROT_WRITE};

use super::Attempt;
use crate::facts::Facts;
use crate::kernel::{call, close, done, end, open_kept, path, text, word, Result, ABSENT};
use crate::SHARE;

/// Whatever the test says, no more than this.
const MOST_PROCESSES: usize = 1000;
const MOST_BYTES: usize = 64 << 30;
const THREADS: usize = 64;
const STACK_BYTES: usize = 64 << 10;
const DESCRIPTORS: usize = 1000;
const PIECE_BYTES: usize = 64 << 20;

pub const ALL: &[Attempt] = &[
    Attempt::new("fork_bomb", "have more processes at once than the limit", |facts| {
        for _ in 0..facts.number("processes").min(MOST_PROCESSES) {
            // The form a keeper starts its worker by. Ended and not waited for, each is still a process.
            let pid = call(libc::SYS_clone, &[word(libc::CLONE_FILES | libc::SIGCHLD)])?;
            if pid == 0 {
                end(0);
            }
        }
        Ok(())
    }),
    Attempt::new("thread_bomb", "have 64 threads at once", |_| {
        for _ in 0..THREADS {
            let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(thread::park);
            started.map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))?;
        }
        Ok(())
    }),
    Attempt::new("memory_private", "have more private memory than the limit (mapped, not touched)", |facts| {
        allocate(facts, MAP_PRIVATE)
    }),
    Attempt::new("memory_shared", "have as much shared anonymous memory (mapped, not touched)", |facts| {
        allocate(facts, MAP_SHARED)
    }),
    Attempt::new("descriptors", "have 1000 open files, where the limit is below", |_| {
        let mut held = Vec::with_capacity(DESCRIPTORS);
        let result = loop {
            match open_kept(SHARE, ".", O_PATH) {
                Ok(fd) => held.push(fd),
                Err(errno) => break Err(errno),
            }
            if held.len() == DESCRIPTORS {
                break Ok(());
            }
        };
        held.into_iter().for_each(close);
        result
    }),
    Attempt::new("core_file", "crash, and leave guest memory in a core file", |facts| {
        if facts.text("core") != "file" {
            return Err(ABSENT);
        }
        let _ = done(libc::SYS_chdir, &[text(&path(&facts.outside("")))]);
        // SAFETY: none; the process is to end by this write to an address that is never mapped.
        unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(0) };
        Ok(())
    })
    .varies(),
];

/// Maps as much as the test says, in pieces.
fn allocate(facts: &Facts, kind: i32) -> Result<()> {
    let flags = word(kind | MAP_ANONYMOUS);
    for _ in 0..facts.number("memory").min(MOST_BYTES) / PIECE_BYTES {
        call(libc::SYS_mmap, &[0, PIECE_BYTES, word(PROT_READ | PROT_WRITE), flags, word(-1), 0])?;
    }
    Ok(())
}
