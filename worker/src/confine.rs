//! What keeper and worker do to themselves: the launcher has set every limit before, these are about how they end.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use rustix::process::{getppid, set_parent_process_death_signal, Pid, Signal};

use crate::ipc::{leave, Exit};

/// Ends this process with its parent, the keeper *keeper*; false if that one is gone already.
pub fn die_with(keeper: Option<Pid>) -> io::Result<bool> {
    // syscall prctl: parent-death signal on the keeper
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // syscall getppid: did the keeper die before the signal was armed?
    Ok(getppid() == keeper)
}

/// Installs the two dispositions keeper and worker need: SIGPIPE ignored, SIGBUS an orderly end.
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
    // syscall write: the last line
    // SAFETY: a constant buffer and the log's descriptor; a failed write loses a line.
    unsafe { libc::write(crate::inherited::LOG, LINE.as_ptr().cast(), LINE.len()) };
    Exit::MemoryGone.now()
}
