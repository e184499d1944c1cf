//! Namespaces: in a new user namespace every capability would be there again.

use libc::{O_RDONLY, SIGCHLD};

use super::Attempt;
use crate::kernel::{call, close, done, end, open_kept, permitted, word, Result};
use crate::PROC;

pub const ALL: &[Attempt] = &[
    Attempt::new("unshare_user", "enter a new user namespace", |_| unshare(libc::CLONE_NEWUSER)),
    Attempt::new("unshare_mount", "enter a new mount namespace", |_| unshare(libc::CLONE_NEWNS)),
    Attempt::new("unshare_network", "enter a new network namespace", |_| unshare(libc::CLONE_NEWNET)),
    Attempt::new("unshare_pid", "enter a new pid namespace", |_| unshare(libc::CLONE_NEWPID)),
    Attempt::new("unshare_others", "enter new IPC, UTS and cgroup namespaces", |_| {
        unshare(libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP)
    }),
    Attempt::new("clone_user", "start a process in a new user namespace", |_| {
        forked(call(libc::SYS_clone, &[word(libc::CLONE_NEWUSER | SIGCHLD)]))
    }),
    Attempt::new("clone3", "the same by clone3, whose flags no filter sees", |_| {
        let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0];
        forked(call(libc::SYS_clone3, &[arguments.as_ptr() as usize, 64]))
    }),
    Attempt::new("setns", "join a namespace by its descriptor (asked for its own)", |_| {
        let namespace = open_kept(PROC, "self/ns/user", O_RDONLY)?;
        // The namespace one is in already is refused only after everything else was granted.
        let result = permitted(libc::SYS_setns, &[word(namespace), 0], &[libc::EINVAL]);
        close(namespace);
        result
    }),
    Attempt::new("setns_process", "join another process's namespaces by its pidfd", |facts| {
        let process = call(libc::SYS_pidfd_open, &[facts.keeper(), 0])?;
        let result = done(libc::SYS_setns, &[process, word(libc::CLONE_NEWUTS)]);
        close(process as i32);
        result
    }),
];

fn unshare(flags: i32) -> Result<()> {
    done(libc::SYS_unshare, &[word(flags)])
}

/// In the child of a clone that should not have been possible: ends at once.
fn forked(pid: Result) -> Result<()> {
    if pid == Ok(0) {
        end(0);
    }
    pid.map(drop)
}
