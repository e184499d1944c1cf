//! What keeper and worker do to themselves: how they end, and what each of their roles may still call after start-up.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Barrier;

use rustix::process::{getppid, set_parent_process_death_signal, Pid, Signal};

use crate::ipc::{leave, Exit};
use crate::log;

/// Ends this process with its parent, the keeper *keeper*; false if that one is gone already.
pub fn die_with(keeper: Option<Pid>) -> io::Result<bool> {
    // syscall prctl: parent-death signal on the keeper
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // syscall getppid: did the keeper die before the signal was armed?
    Ok(getppid() == keeper)
}

/// Leaves the main arena as the only one: the others grow and shrink by mprotect(2) and look at a file of /proc/sys to
/// learn how, and the second seccomp program of a queue thread has neither.
pub fn use_one_heap() {
    // SAFETY: takes two integers; no second thread allocates yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Puts a role's own seccomp *program* over the launcher's, for this thread alone: what start-up needed goes.
///
/// One word per `struct sock_filter`. A program can only take away, and there is no way back.
pub fn tighten(program: &[u64]) -> io::Result<()> {
    let length = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // syscall seccomp: the second stage of each role
    // SAFETY: filter names as many instructions as the slice has, and a u64 is at least as aligned as an instruction
    // of the same size; the kernel copies and checks them.
    let result = unsafe {
        let flags = libc::SECCOMP_FILTER_FLAG_LOG;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The program of the queue threads, and where all of them meet once they have put it on: no guest is served before.
pub struct Tightening {
    program: Vec<u64>,
    done: Barrier,
}

impl Tightening {
    /// For this many *threads*, and the one that waits for them.
    pub fn new(program: Vec<u64>, threads: usize) -> Self {
        Self { program, done: Barrier::new(threads + 1) }
    }

    /// What each thread does.
    pub fn put_on(&self) -> io::Result<()> {
        tighten(&self.program)?;
        self.wait();
        Ok(())
    }

    pub fn wait(&self) {
        self.done.wait();
    }
}

/// Installs the dispositions keeper and worker need: SIGPIPE ignored, SIGBUS an orderly end, SIGSYS a log line.
pub fn handle_signals() -> io::Result<()> {
    // A call descriptor may be a pipe whose reader has gone, and so may the log.
    set_action(libc::SIGPIPE, libc::SIG_IGN, 0)?;
    set_action(libc::SIGBUS, memory_gone as extern "C" fn(c_int) as libc::sighandler_t, 0)?;
    let refused = call_refused as extern "C" fn(c_int, *const Refused, *mut libc::ucontext_t);
    set_action(libc::SIGSYS, refused as libc::sighandler_t, libc::SA_SIGINFO)
}

fn set_action(signal: c_int, handler: libc::sighandler_t, flags: c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value: no flags, empty mask, no restorer.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // syscall rt_sigaction: SIGPIPE, SIGBUS and SIGSYS
    // SAFETY: *action* lives through the call; both handlers installed here are async-signal-safe.
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

/// `siginfo_t` of a SIGSYS that seccomp sent, which the libc crate has no accessors for: sigaction(2).
#[repr(C)]
struct Refused {
    signal: c_int,
    error: c_int,
    code: c_int,
    address: *const c_void,
    call: c_int,
    architecture: u32,
}

const SYS_SECCOMP: c_int = 1;

/// SIGSYS: seccomp has refused a system call, in a jail whose supervisor cannot read the kernel's own records. Writes a
/// line about it and lets the call answer EPERM.
///
/// Only async-signal-safe calls: the line is made on the stack, and time and limit are atomics.
extern "C" fn call_refused(_signal: c_int, refused: *const Refused, context: *mut libc::ucontext_t) {
    static LIMIT: log::Few = log::Few::new();
    // SAFETY: the kernel passes both to a handler installed with SA_SIGINFO, on this thread's own stack.
    let (refused, context) = unsafe { (&*refused, &mut *context) };
    if refused.code != SYS_SECCOMP {
        return;
    }
    LIMIT.warning(format_args!("seccomp refused call {} (arch {:#x})", refused.call, refused.architecture));
    #[cfg(target_arch = "x86_64")]
    {
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
    }
}
