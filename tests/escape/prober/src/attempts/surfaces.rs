//! Kernel surfaces that a file server does not need.

use libc::{c_long, O_RDONLY};

use super::Attempt;
use crate::facts::Facts;
use crate::kernel::{address, call, close, done, open_kept, opened, permitted, text, word, Result, UNPREPARED};
use crate::{NULL, SHARE};

const FS_IOC_GETFLAGS: usize = 0x8008_6601;

pub const ALL: &[Attempt] = &[
    Attempt::new("bpf", "make a BPF map", |_| {
        // union bpf_attr of BPF_MAP_CREATE: an array of one entry of 4 bytes under a key of 4 bytes.
        let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        opened(libc::SYS_bpf, &[0, address(&attributes), size_of_val(&attributes)])
    })
    .varies(),
    Attempt::new("io_uring_setup", "set up io_uring", |_| {
        let parameters = [0u8; 120];
        opened(libc::SYS_io_uring_setup, &[1, parameters.as_ptr() as usize])
    })
    .varies(),
    Attempt::new("io_setup", "set up the older asynchronous I/O", |_| {
        let context = 0u64;
        done(libc::SYS_io_setup, &[1, address(&context)])
    })
    .varies(),
    Attempt::new("userfaultfd", "handle page faults", |_| opened(libc::SYS_userfaultfd, &[1])).varies(),
    Attempt::new("perf_event_open", "count performance events", |_| {
        let mut attributes = [0u32; 32];
        (attributes[0], attributes[1]) = (1, 128);
        opened(libc::SYS_perf_event_open, &[attributes.as_ptr() as usize, 0, word(-1), word(-1), 0])
    })
    .varies(),
    Attempt::new("keyctl", "use keyrings (keyctl)", |_| done(libc::SYS_keyctl, &[0, word(-3), 1])).varies(),
    Attempt::new("add_key", "add a key to a keyring", |_| {
        done(libc::SYS_add_key, &[text(c"user"), text(c"probe"), text(c"probe"), 5, word(-2)])
    })
    .varies(),
    // ENOKEY: it was looked for.
    Attempt::new("request_key", "ask for a key", |_| {
        permitted(libc::SYS_request_key, &[text(c"user"), text(c"no-such-key"), 0, 0], &[libc::ENOKEY])
    })
    .varies(),
    Attempt::new("seccomp_listener", "ask for seccomp notifications", |_| {
        let sizes = [0u16; 4];
        done(libc::SYS_seccomp, &[3, 0, sizes.as_ptr() as usize])
    }),
    Attempt::new("fanotify", "watch a whole file system (fanotify)", |_| opened(libc::SYS_fanotify_init, &[0, 0]))
        .varies(),
    Attempt::new("inotify", "watch files (inotify)", |_| opened(libc::SYS_inotify_init1, &[0])),
    Attempt::new("pipe", "make a pipe", |_| {
        let mut ends = [0i32; 2];
        done(libc::SYS_pipe2, &[ends.as_mut_ptr() as usize, 0])
    }),
    Attempt::new("modify_ldt", "read one's descriptor table (modify_ldt)", |_| {
        let table = [0u8; 64];
        done(libc::SYS_modify_ldt, &[0, table.as_ptr() as usize, table.len()])
    })
    .varies(),
    Attempt::new("ioctl_on_null", "make an ioctl on /dev/null", |_| {
        permitted(libc::SYS_ioctl, &[word(NULL), 0x5401, 0], &[libc::ENOTTY])
    }),
    Attempt::new("ioctl_on_share", "make an ioctl on a file of the share", |_| {
        let file = open_kept(SHARE, "file", O_RDONLY).map_err(|_| UNPREPARED)?;
        let flags = 0u64;
        let result = permitted(libc::SYS_ioctl, &[word(file), FS_IOC_GETFLAGS, address(&flags)], &[libc::ENOTTY]);
        close(file);
        result
    }),
    Attempt::new("foreign_architecture", "make a 32-bit system call", foreign_architecture).varies(),
    Attempt::new("x32_call", "make an x32 system call", |_| done(X32_GETPID, &[])).varies(),
    Attempt::new("unknown_call", "make a call that no table knows", |_| permitted(UNKNOWN, &[], &[libc::ENOSYS])),
    Attempt::new("clone_plain", "start a process", |_| {
        let pid = call(libc::SYS_clone, &[word(libc::SIGCHLD)]);
        if pid == Ok(0) {
            crate::kernel::end(0);
        }
        pid.map(drop)
    }),
];

const X32_GETPID: c_long = 0x4000_0000 + libc::SYS_getpid;
const UNKNOWN: c_long = 900;

/// getpid by the 32-bit entry of the kernel, whose numbers mean other calls.
#[cfg(target_arch = "x86_64")]
fn foreign_architecture(_: &Facts) -> Result<()> {
    let mut result: isize = 20;
    // SAFETY: call 20 is getpid there; it reads and writes no memory.
    unsafe { std::arch::asm!("int 0x80", inout("rax") result, options(nostack)) };
    if result < 0 {
        return Err(-result as i32);
    }
    Ok(())
}
