//! What the procfs descriptor leads to.

use libc::{O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};

use super::Attempt;
use crate::kernel::open;
use crate::PROC;

pub const ALL: &[Attempt] = &[
    Attempt::new("proc_sysctl", "open a switch of the machine for writing", |_| {
        open(PROC, "sys/kernel/hostname", O_WRONLY)
    }),
    Attempt::new("proc_sysctl_read", "read a switch of the machine", |_| open(PROC, "sys/kernel/hostname", O_RDONLY)),
    Attempt::new("proc_sysctl_from_fd", "open it through `..` from self/fd", |_| {
        open(PROC, "self/fd/../../sys/kernel/hostname", O_WRONLY)
    }),
    Attempt::new("proc_cmdline", "read the machine's kernel command line", |_| open(PROC, "cmdline", O_RDONLY)),
    Attempt::new("proc_kcore", "open the kernel's memory", |_| open(PROC, "kcore", O_RDONLY)).varies(),
    Attempt::new("proc_kallsyms", "read the kernel's symbols", |_| open(PROC, "kallsyms", O_RDONLY)),
    Attempt::new("proc_supervisor", "find the supervisor", |facts| {
        open(PROC, &format!("{}/status", facts.text("supervisor")), O_PATH)
    }),
    Attempt::new("proc_supervisor_descriptors", "list the supervisor's descriptors", |facts| {
        open(PROC, &format!("{}/fd", facts.text("supervisor")), O_RDONLY | O_DIRECTORY)
    }),
    Attempt::new("proc_supervisor_memory", "open the supervisor's memory", |facts| {
        open(PROC, &format!("{}/mem", facts.text("supervisor")), O_RDWR)
    }),
    Attempt::new("proc_keeper_memory", "open the keeper's memory", |facts| {
        open(PROC, &format!("{}/mem", facts.keeper()), O_RDWR)
    }),
    Attempt::new("proc_keeper_descriptors", "list the keeper's descriptors", |facts| {
        open(PROC, &format!("{}/fd", facts.keeper()), O_RDONLY | O_DIRECTORY)
    }),
    Attempt::new("proc_own_memory", "write one's own read-only memory through self/mem", |_| {
        open(PROC, "self/mem", O_RDWR)
    }),
    Attempt::new("proc_own_maps", "learn the address layout from self/maps", |_| open(PROC, "self/maps", O_RDONLY)),
    Attempt::new("proc_own_environ", "read self/environ", |_| open(PROC, "self/environ", O_RDONLY)),
    Attempt::new("proc_own_mounts", "read self/mountinfo", |_| open(PROC, "self/mountinfo", O_RDONLY)),
    Attempt::new("proc_oom_score", "open self/oom_score_adj for writing", |_| {
        open(PROC, "self/oom_score_adj", O_WRONLY)
    }),
    Attempt::new("proc_uid_map", "open self/uid_map for writing", |_| open(PROC, "self/uid_map", O_WRONLY)),
    Attempt::new("proc_coredump_filter", "open self/coredump_filter for writing", |_| {
        open(PROC, "self/coredump_filter", O_WRONLY)
    }),
];
