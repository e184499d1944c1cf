//! Other processes: the supervisor outside the jail, the keeper inside. Signals are number 0, which only asks.

use std::sync::atomic::AtomicU8;

use libc::F_SETOWN;

use super::Attempt;
use crate::facts::Facts;
use crate::kernel::{address, call, close, done, opened, word, Result};
use crate::CONTROL;

/// At one address here and in the keeper, which this process is a copy of.
static COMMON: AtomicU8 = AtomicU8::new(0);

pub const ALL: &[Attempt] = &[
    Attempt::new("ptrace_keeper", "trace the keeper", |facts| {
        done(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, facts.keeper(), 0, 0])
    }),
    Attempt::new("ptrace_supervisor", "trace the supervisor", |facts| {
        done(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, facts.number("supervisor"), 0, 0])
    }),
    Attempt::new("ptrace_me", "let oneself be traced", |_| done(libc::SYS_ptrace, &[0, 0, 0, 0])),
    Attempt::new("process_vm_readv", "read the keeper's memory", |facts| memory_of(facts, libc::SYS_process_vm_readv)),
    Attempt::new("process_vm_writev", "write the keeper's memory", |facts| {
        memory_of(facts, libc::SYS_process_vm_writev)
    }),
    Attempt::new("pidfd_getfd", "take a descriptor of the keeper", |facts| {
        let process = call(libc::SYS_pidfd_open, &[facts.keeper(), 0])?;
        let result = opened(libc::SYS_pidfd_getfd, &[process, word(CONTROL), 0]);
        close(process as i32);
        result
    }),
    Attempt::new("kcmp", "compare kernel objects of two processes (kcmp)", |facts| {
        let keeper = facts.keeper();
        done(libc::SYS_kcmp, &[keeper, keeper, 0, 0, 0])
    })
    .varies(),
    Attempt::new("signal_supervisor", "signal the supervisor", |facts| {
        done(libc::SYS_kill, &[facts.number("supervisor"), 0])
    }),
    Attempt::new("signal_supervisor_thread", "signal one of its threads (tgkill)", |facts| {
        let supervisor = facts.number("supervisor");
        done(libc::SYS_tgkill, &[supervisor, supervisor, 0])
    }),
    Attempt::new("signal_by_descriptor", "have a socket's signals sent to it (F_SETOWN)", |facts| {
        let result = done(libc::SYS_fcntl, &[word(CONTROL), word(F_SETOWN), facts.number("supervisor")]);
        let _ = done(libc::SYS_fcntl, &[word(CONTROL), word(F_SETOWN), 0]);
        result
    }),
    Attempt::new("signal_keeper", "signal the keeper", |facts| done(libc::SYS_kill, &[facts.keeper(), 0])),
    Attempt::new("signal_everybody", "signal every process there is", |_| done(libc::SYS_kill, &[word(-1), 0])),
    Attempt::new("forge_credentials", "write to the supervisor in another process's name", forge),
    Attempt::new("pidfd_supervisor", "get a pidfd of the supervisor", |facts| {
        opened(libc::SYS_pidfd_open, &[facts.number("supervisor"), 0])
    }),
    Attempt::new("limits_of_supervisor", "read the supervisor's resource limits", |facts| {
        let limit = [0u64; 2];
        let arguments = [facts.number("supervisor"), libc::RLIMIT_NOFILE as usize, 0, address(&limit)];
        done(libc::SYS_prlimit64, &arguments)
    }),
    Attempt::new("limits_of_keeper", "change the keeper's resource limits", |facts| {
        let limit = [0u64; 2];
        let arguments = [facts.keeper(), libc::RLIMIT_MSGQUEUE as usize, address(&limit), 0];
        done(libc::SYS_prlimit64, &arguments)
    }),
    Attempt::new("processors_of_supervisor", "decide where the supervisor may run", |facts| {
        let everywhere = [u8::MAX; 128];
        let arguments = [facts.number("supervisor"), everywhere.len(), everywhere.as_ptr() as usize];
        done(libc::SYS_sched_setaffinity, &arguments)
    }),
    Attempt::new("priority_of_supervisor", "set the supervisor's priority (to what it is)", |facts| {
        done(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, facts.number("supervisor"), facts.number("nice")])
    }),
    Attempt::new("priority_raised", "run before everybody else", |_| {
        done(libc::SYS_setpriority, &[libc::PRIO_PROCESS as usize, 0, word(-20)])
    }),
];

/// SCM_CREDENTIALS with a pid that is not one's own.
fn forge(facts: &Facts) -> Result<()> {
    let id = facts.number("id") as u32;
    let data = libc::iovec { iov_base: c"{}".as_ptr().cast_mut().cast(), iov_len: 2 };
    // struct cmsghdr (length, level, type) and struct ucred (pid, uid, gid), and padding.
    let claim = [28, 0, libc::SOL_SOCKET as u32, libc::SCM_CREDENTIALS as u32, facts.keeper() as u32, id, id, 0];
    let message = [0, 0, address(&data), 1, address(&claim), size_of_val(&claim), 0];
    done(libc::SYS_sendmsg, &[word(CONTROL), address(&message), word(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)])
}

fn memory_of(facts: &Facts, number: libc::c_long) -> Result<()> {
    let mut byte = [0u8; 1];
    let ours = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let theirs = libc::iovec { iov_base: COMMON.as_ptr().cast(), iov_len: 1 };
    done(number, &[facts.keeper(), address(&ours), 1, address(&theirs), 1, 0])
}
