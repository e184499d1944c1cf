//! What the worker does to itself after the clone: it can only give things up.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::fs::{openat, Mode, OFlags};
use rustix::process::{getppid, set_parent_process_death_signal, setrlimit, Pid, Resource, Rlimit, Signal};

use crate::ipc::{leave, Exit};
use crate::log;

/// Ends this process with its parent, the keeper *keeper*; false if that one is gone already.
pub fn die_with(keeper: Option<Pid>) -> io::Result<bool> {
    // syscall prctl: parent-death signal on the keeper
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // syscall getppid: did the keeper die before the signal was armed?
    Ok(getppid() == keeper)
}

/// First to go when memory runs out, and no core file: it would hold guest memory.
///
/// Neither is worth refusing to serve: a failure is logged.
pub fn give_way(proc: BorrowedFd<'_>) {
    if let Err(error) = prefer_for_oom(proc) {
        log::warning(format_args!("oom_score_adj stays as it is: {error}"));
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // syscall prlimit64: no core file
    if let Err(error) = setrlimit(Resource::Core, none) {
        log::warning(format_args!("RLIMIT_CORE stays as it is: {error}"));
    }
}

fn prefer_for_oom(proc: BorrowedFd<'_>) -> io::Result<()> {
    // syscall openat: oom_score_adj, below the detached procfs
    let file = openat(proc, c"self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let value = b"1000";
    match rustix::io::write(file, value)? {
        written if written == value.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Installs the two dispositions the worker needs: SIGPIPE ignored, SIGBUS an orderly end.
pub fn handle_signals() -> io::Result<()> {
    // A call descriptor may be a pipe whose reader has gone, and so may the log.
    set_action(libc::SIGPIPE, libc::SIG_IGN)?;
    set_action(libc::SIGBUS, memory_gone as extern "C" fn(c_int) as libc::sighandler_t)
}

fn set_action(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value: no flags, empty mask, no restorer.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    // syscall rt_sigaction: SIGPIPE and SIGBUS
    // SAFETY: *action* lives through the call; the one handler installed here is async-signal-safe.
    match unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIGBUS: the monitor has cut guest memory short under a running ring. Every other mapping is sealed or private.
///
/// Only async-signal-safe calls: send, write, _exit.
extern "C" fn memory_gone(_signal: c_int) {
    const LINE: &[u8] = b"<3>guest memory went away (SIGBUS): the monitor has truncated it\n";
    leave(Exit::MemoryGone, libc::EFAULT);
    // SAFETY: a constant buffer and the log's descriptor; a failed write loses a line.
    unsafe { libc::write(crate::inherited::LOG, LINE.as_ptr().cast(), LINE.len()) };
    Exit::MemoryGone.now()
}
