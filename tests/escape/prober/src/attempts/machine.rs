//! The machine as a whole. Every call here is either without effect by its arguments or acts on a namespace only.

use libc::{EFAULT, EINVAL, ENOENT, ENOEXEC};

use super::Attempt;
use crate::kernel::{done, permitted, text};

/// No address: where the kernel reads from it, permission had been given.
const NOWHERE: usize = 1;

pub const ALL: &[Attempt] = &[
    Attempt::new("sethostname", "change the host's name", |_| done(libc::SYS_sethostname, &[text(c"probe"), 5])),
    Attempt::new("setdomainname", "change the host's NIS domain", |_| {
        done(libc::SYS_setdomainname, &[text(c"probe"), 5])
    }),
    Attempt::new("settimeofday", "set the clock (to nothing)", |_| done(libc::SYS_settimeofday, &[0, 0])),
    Attempt::new("reboot", "reboot (with magic numbers that mean nothing)", |_| {
        permitted(libc::SYS_reboot, &[0, 0, 0, 0], &[EINVAL])
    }),
    Attempt::new("swapon", "add swap (from nowhere)", |_| permitted(libc::SYS_swapon, &[NOWHERE, 0], &[EFAULT])),
    Attempt::new("init_module", "load a kernel module (of no bytes)", |_| {
        permitted(libc::SYS_init_module, &[NOWHERE, 0, NOWHERE], &[ENOEXEC, EFAULT])
    })
    .varies(),
    Attempt::new("kexec_load", "load another kernel (with flags that mean nothing)", |_| {
        permitted(libc::SYS_kexec_load, &[0, 0, 0, 0xdead], &[EINVAL])
    })
    .varies(),
    Attempt::new("acct", "switch process accounting on (into a file that is not there)", |_| {
        permitted(libc::SYS_acct, &[text(c"/nowhere/at/all")], &[ENOENT])
    })
    .varies(),
    Attempt::new("ioperm", "speak to hardware ports", |_| done(libc::SYS_ioperm, &[0x80, 1, 1])).varies(),
    Attempt::new("kernel_log", "ask for the kernel's log", |_| done(libc::SYS_syslog, &[10, 0, 0])).varies(),
];
