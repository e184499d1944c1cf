//! The keeper: pid 1 of the jail. It checks what it was given, clones the worker and reports how that one ended.
//!
//! It shares its descriptor table with the worker (CLONE_FILES), so that the descriptors outlive the worker. For the
//! same reason it is no trust boundary: the worker can replace any descriptor. After the clone the keeper reads none.

use std::ffi::c_int;
use std::os::fd::AsFd;
use std::panic;

use rustix::process::{getpid, Pid};

use crate::config::{Attributes, Config};
use crate::control;
use crate::inherited::Inherited;
use crate::ipc::{leave, Exit};
use crate::{confine, log};

/// The whole program: returns only where no worker could be started, with the exit status.
pub fn main() -> c_int {
    panic::set_hook(Box::new(|panic| {
        log::error(format_args!("internal error: {panic}"));
        leave(Exit::Internal, 0);
        Exit::Internal.now()
    }));
    // Before the first line: a log whose reader has gone must not end anybody by SIGPIPE.
    if let Err(error) = confine::handle_signals() {
        return fail(Exit::Internal, &format_args!("signal handlers: {error}"));
    }
    // SAFETY: the process has just started; nothing has opened a descriptor.
    let inherited = match unsafe { Inherited::take() } {
        Ok(inherited) => inherited,
        Err(refused) => return fail(Exit::Descriptor, &refused),
    };
    confine::use_one_heap();
    let config = match Config::read(inherited.configuration.as_fd()) {
        Ok(config) => config,
        Err(refused) => return fail(Exit::Configuration, &refused),
    };
    if config.attributes == Attributes::Path {
        if let Err(refused) = inherited.check_mounts() {
            return fail(Exit::Descriptor, &refused);
        }
    }
    let keeper = getpid();
    // syscall clone: the worker, on the keeper's descriptor table
    // SAFETY: like fork: this process has one thread, the child gets a copy of its memory (no CLONE_VM) and its stack.
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_FILES | libc::SIGCHLD, 0, 0, 0, 0) } {
        -1 => fail(Exit::Internal, &format_args!("clone: {}", std::io::Error::last_os_error())),
        0 => work(&config, inherited, keeper),
        worker => {
            // The descriptors are the worker's now: the shared table must not be closed from here.
            std::mem::forget(inherited);
            if let Some(Err(error)) = config.filters.as_ref().map(|filters| confine::tighten(&filters.keeper)) {
                return fail(Exit::Internal, &format_args!("seccomp program of the keeper: {error}"));
            }
            // Not by returning: giving memory back takes calls that a keeper does not have.
            leave_with(wait(worker as libc::pid_t))
        }
    }
}

/// The worker's life.
fn work(config: &Config, inherited: Inherited, keeper: Pid) -> ! {
    match confine::die_with(Some(keeper)) {
        Ok(true) => {}
        Ok(false) => Exit::Internal.now(),
        Err(error) => {
            log::error(format_args!("the worker cannot tie itself to its keeper: {error}"));
            Exit::Internal.now()
        }
    }
    control::run(config, inherited).now()
}

/// Waits for the worker and turns its end into the keeper's.
fn wait(worker: libc::pid_t) -> c_int {
    let mut status = 0;
    // syscall wait4: the worker's end
    // SAFETY: *status* is a valid place for the result.
    while unsafe { libc::waitpid(worker, &raw mut status, 0) } != worker {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return fail(Exit::Internal, &format_args!("waitpid: {error}"));
        }
    }
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

fn leave_with(status: c_int) -> ! {
    // syscall exit_group: the keeper's report
    // SAFETY: takes an integer and does not come back; nothing relies on destructors.
    unsafe { libc::_exit(status) }
}

fn fail(exit: Exit, reason: &dyn std::fmt::Display) -> c_int {
    log::error(format_args!("{reason}"));
    exit.code()
}
