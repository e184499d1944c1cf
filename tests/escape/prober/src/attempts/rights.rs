//! More rights than were left.

use super::Attempt;
use crate::kernel::{address, close, done, open_kept, text, word, Result, UNPREPARED};
use crate::SHARE;

const CAP_AMBIENT: i32 = 47;
const CAP_AMBIENT_RAISE: usize = 2;
const SYS_ADMIN: usize = 21;

pub const ALL: &[Attempt] = &[
    Attempt::new("capset", "take the capabilities of whoever started the supervisor", |facts| {
        let all = facts.number("capabilities");
        let (low, high) = (all as u32, (all >> 32) as u32);
        let (header, data) = ([0x2008_0522u32, 0], [low, low, 0, high, high, 0]);
        done(libc::SYS_capset, &[address(&header), address(&data)])
    })
    .varies(),
    Attempt::new("ambient_raise", "keep CAP_SYS_ADMIN across programs", |_| {
        prctl(CAP_AMBIENT, CAP_AMBIENT_RAISE, SYS_ADMIN)
    }),
    Attempt::new("securebits_clear", "make root mean something again", |_| prctl(libc::PR_SET_SECUREBITS, 0, 0)),
    Attempt::new("file_capability", "give a file of the share capabilities", |facts| {
        let file = open_kept(SHARE, "file", libc::O_RDWR).map_err(|_| UNPREPARED)?;
        // struct vfs_ns_cap_data, revision 3, effective: CAP_SYS_ADMIN permitted, in namespaces whose root we are.
        let value = [0x0300_0001u32, 1 << SYS_ADMIN, 0, 0, 0, facts.number("id") as u32];
        let arguments = [word(file), text(c"security.capability"), address(&value), size_of_val(&value), 0];
        let result = done(libc::SYS_fsetxattr, &arguments);
        close(file);
        result
    })
    .varies(),
    Attempt::new("keep_capabilities", "keep capabilities across a change of ids", |_| {
        prctl(libc::PR_SET_KEEPCAPS, 1, 0)
    }),
    Attempt::new("setuid", "become another user", |_| done(libc::SYS_setresuid, &[1000, 1000, 1000])),
    Attempt::new("setgid", "become another group", |_| done(libc::SYS_setresgid, &[1000, 1000, 1000])),
    Attempt::new("setgroups", "drop groups that take rights away", |_| done(libc::SYS_setgroups, &[0, 0])),
    Attempt::new("dumpable", "become dumpable and traceable", |_| prctl(libc::PR_SET_DUMPABLE, 1, 0)),
    Attempt::new("parent_death_signal_off", "outlive the supervisor", |_| prctl(libc::PR_SET_PDEATHSIG, 0, 0)),
    Attempt::new("subreaper", "adopt orphans", |_| prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)),
    Attempt::new("raise_descriptor_limit", "raise the hard limit of open files", |facts| {
        let limit = [facts.number("nofile") as u64 + 1; 2];
        done(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as usize, address(&limit), 0])
    })
    .varies(),
    Attempt::new("raise_core_limit", "allow oneself a core file", |_| {
        let limit = [1u64 << 20; 2];
        done(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, address(&limit), 0])
    })
    .varies(),
];

fn prctl(option: i32, first: usize, second: usize) -> Result<()> {
    done(libc::SYS_prctl, &[word(option), first, second, 0, 0])
}
