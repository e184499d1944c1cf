//! The table of attempts. Those named `share_…_works` are what a worker is there for and must succeed.

use libc::{c_long, AT_EMPTY_PATH, AT_FDCWD, O_CREAT, O_DIRECTORY, O_EXCL, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};

use crate::kernel::{call, close, open, open_kept, path, word, Result, UNPREPARED};
use crate::Facts;

const NULL: i32 = 0;
const CONTROL: i32 = 3;
const CONFIG: i32 = 4;
const STATISTICS: i32 = 5;
const ARENA: i32 = 6;
const SHARE: i32 = 7;
const PROC: i32 = 8;
const BINARY: i32 = 9;
const KEEPER: usize = 1;
const UP: &str = "../../../../../../../../../../../..";
const PUNCH_HOLE: i32 = 0x02 | 0x01;
const CAP_AMBIENT: i32 = 47;
const CAP_AMBIENT_RAISE: i32 = 2;
const SYS_ADMIN: usize = 21;

pub type Attempt = fn(&Facts) -> Result<()>;

pub const ALL: &[(&str, Attempt)] = &[
    // What a worker is there for.
    ("share_list_works", |_| open(SHARE, ".", O_RDONLY | O_DIRECTORY)),
    ("share_read_works", |_| open(SHARE, "file", O_RDONLY)),
    ("share_mount_below_works", |_| open(SHARE, "mounted/file", O_RDONLY)),
    ("share_reopen_works", share_reopen),
    ("share_create_works", |_| open(SHARE, "created", O_CREAT | O_EXCL | O_RDWR)),
    ("share_mkdir_works", |_| at(libc::SYS_mkdirat, SHARE, "directory", 0o755)),
    ("share_rename_across_directories_works", share_rename),
    ("share_symlink_works", share_symlink),
    ("share_fifo_works", |_| mknod(libc::S_IFIFO, 0)),
    ("share_chmod_works", share_chmod),
    ("share_chown_works", |_| chown(SHARE, "file", 1000)),
    ("share_unlink_works", |_| at(libc::SYS_unlinkat, SHARE, "created", 0)),
    // Paths out of what was handed over.
    ("share_dotdot", |facts| open(SHARE, &climb(facts), O_RDONLY)),
    ("share_dotdot_as_path", |facts| open(SHARE, &climb(facts), O_PATH)),
    ("share_absolute", |facts| open(SHARE, fact(facts, "secret"), O_RDONLY)),
    ("share_symlink_out", |_| open(SHARE, "link-out", O_RDONLY)),
    ("share_symlink_within", |_| open(SHARE, "link-within", O_RDONLY)),
    ("proc_dotdot", |facts| open(PROC, &climb(facts), O_RDONLY)),
    ("proc_dotdot_from_fd", |facts| open(PROC, &format!("self/fd/{}", climb(facts)), O_RDONLY)),
    ("proc_root_link", |facts| open(PROC, &format!("self/root{}", fact(facts, "secret")), O_RDONLY)),
    ("proc_cwd_link", |facts| open(PROC, &format!("self/cwd/{}", climb(facts)), O_RDONLY)),
    ("proc_sysctl", |_| open(PROC, "sys/kernel/hostname", O_WRONLY)),
    ("proc_sysctl_read", |_| open(PROC, "sys/kernel/hostname", O_RDONLY)),
    ("proc_sysctl_from_fd", |_| open(PROC, "self/fd/../../sys/kernel/hostname", O_WRONLY)),
    ("proc_cmdline", |_| open(PROC, "cmdline", O_RDONLY)),
    ("proc_kcore", |_| open(PROC, "kcore", O_RDONLY)),
    ("proc_own_environ", |_| open(PROC, "self/environ", O_RDONLY)),
    ("proc_keeper_memory", |_| open(PROC, "1/mem", O_RDWR)),
    ("proc_supervisor", |facts| open(PROC, &format!("{}/status", fact(facts, "supervisor")), O_PATH)),
    ("proc_oom_score", |_| open(PROC, "self/oom_score_adj", O_WRONLY)),
    ("proc_list_mount", |_| open(PROC, "self/mountinfo", O_RDONLY)),
    ("root_list", |_| open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY)),
    ("root_create", |_| at(libc::SYS_mkdirat, AT_FDCWD, "/directory", 0o755)),
    ("root_secret", |facts| open(AT_FDCWD, fact(facts, "secret"), O_PATH)),
    ("root_dotdot", |facts| open(AT_FDCWD, &climb(facts), O_PATH)),
    ("handle_outside", handle_outside),
    // What a descriptor alone is enough for.
    ("binary_chmod", |_| at(libc::SYS_fchmodat, PROC, "self/exe", 0o777)),
    ("binary_chown", |_| chown(PROC, "self/exe", 1000)),
    ("binary_write", |_| open(PROC, "self/exe", O_RDWR)),
    ("null_chmod", |_| call(libc::SYS_fchmod, &[word(NULL), 0o600]).map(drop)),
    ("null_chown", |_| chown(PROC, "self/fd/0", 1000)),
    ("null_times", |_| {
        let link = path("self/fd/1");
        call(libc::SYS_utimensat, &[word(PROC), link.as_ptr() as usize, 0, 0]).map(drop)
    }),
    // Mounts, roots, namespaces.
    ("mount", |_| {
        let (kind, target) = (path("tmpfs"), path("/"));
        call(libc::SYS_mount, &[kind.as_ptr() as usize, target.as_ptr() as usize, kind.as_ptr() as usize]).map(drop)
    }),
    ("umount", |_| call(libc::SYS_umount2, &[path("/").as_ptr() as usize, word(libc::MNT_DETACH)]).map(drop)),
    ("share_make_writable", |_| mount_setattr(SHARE)),
    ("proc_make_writable", |_| mount_setattr(PROC)),
    ("null_make_writable", |_| mount_setattr(NULL)),
    ("open_tree", |_| {
        call(libc::SYS_open_tree, &[word(SHARE), path("").as_ptr() as usize, word(AT_EMPTY_PATH | 1)]).map(drop)
    }),
    ("fsopen", |_| call(libc::SYS_fsopen, &[path("tmpfs").as_ptr() as usize, 0]).map(drop)),
    ("pivot_root", |_| {
        let here = path("/");
        call(libc::SYS_pivot_root, &[here.as_ptr() as usize, here.as_ptr() as usize]).map(drop)
    }),
    ("chroot", |_| call(libc::SYS_chroot, &[path("/").as_ptr() as usize]).map(drop)),
    ("unshare_user", |_| call(libc::SYS_unshare, &[word(libc::CLONE_NEWUSER)]).map(drop)),
    ("unshare_mount", |_| call(libc::SYS_unshare, &[word(libc::CLONE_NEWNS)]).map(drop)),
    ("clone_user", |_| forked(call(libc::SYS_clone, &[word(libc::CLONE_NEWUSER | libc::SIGCHLD)]))),
    ("clone_plain", |_| forked(call(libc::SYS_clone, &[word(libc::SIGCHLD)]))),
    ("clone3", |_| {
        let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
        forked(call(libc::SYS_clone3, &[arguments.as_ptr() as usize, 64]))
    }),
    ("setns", setns),
    // Other processes.
    ("ptrace_keeper", |_| call(libc::SYS_ptrace, &[libc::PTRACE_SEIZE as usize, KEEPER, 0, 0]).map(drop)),
    ("process_vm_readv", |_| {
        let mut byte = [0u8; 1];
        let local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
        let vector = &raw const local as usize;
        call(libc::SYS_process_vm_readv, &[KEEPER, vector, 1, vector, 1]).map(drop)
    }),
    ("signal_supervisor", |facts| call(libc::SYS_kill, &[number(facts, "supervisor"), 0]).map(drop)),
    ("signal_supervisor_thread", |facts| {
        let supervisor = number(facts, "supervisor");
        call(libc::SYS_tgkill, &[supervisor, supervisor, 0]).map(drop)
    }),
    ("pidfd_supervisor", |facts| call(libc::SYS_pidfd_open, &[number(facts, "supervisor"), 0]).map(drop)),
    ("priority_of_all", |_| call(libc::SYS_setpriority, &[libc::PRIO_USER as usize, 0, word(-20)]).map(drop)),
    // Sockets.
    ("socket_inet", |_| socket(libc::AF_INET, libc::SOCK_STREAM)),
    ("socket_inet_datagram", |_| socket(libc::AF_INET, libc::SOCK_DGRAM)),
    ("socket_inet6", |_| socket(libc::AF_INET6, libc::SOCK_STREAM)),
    ("socket_unix", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM)),
    ("socket_netlink", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW)),
    ("socket_packet", |_| socket(libc::AF_PACKET, libc::SOCK_RAW)),
    ("socket_vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
    ("socket_pair", |_| {
        let mut pair = [0i32; 2];
        call(libc::SYS_socketpair, &[1, 1, 0, pair.as_mut_ptr() as usize]).map(drop)
    }),
    ("connect_abstract", |facts| connect_unix(&format!("\0{}", fact(facts, "abstract")))),
    ("connect_pathname", |facts| connect_unix(fact(facts, "pathname"))),
    ("connect_tcp", connect_tcp),
    ("send_to_address", |facts| {
        let (address, length) = unix_address(fact(facts, "pathname"));
        let target = &raw const address as usize;
        call(libc::SYS_sendto, &[word(CONTROL), c"{}".as_ptr() as usize, 2, 0, target, length]).map(drop)
    }),
    // Kernel surfaces nobody honest needs.
    ("bpf", |_| call(libc::SYS_bpf, &[0, 0, 0]).map(drop)),
    ("io_uring_setup", |_| {
        let parameters = [0u8; 120];
        call(libc::SYS_io_uring_setup, &[1, parameters.as_ptr() as usize]).map(drop)
    }),
    ("userfaultfd", |_| call(libc::SYS_userfaultfd, &[1]).map(drop)),
    ("perf_event_open", |_| {
        let mut attributes = [0u32; 32];
        (attributes[0], attributes[1]) = (1, 128);
        call(libc::SYS_perf_event_open, &[attributes.as_ptr() as usize, 0, word(-1), word(-1), 0]).map(drop)
    }),
    ("keyctl", |_| call(libc::SYS_keyctl, &[0, word(-3), 1]).map(drop)),
    ("add_key", |_| {
        let (kind, name) = (path("user"), path("probe"));
        let arguments = [kind.as_ptr() as usize, name.as_ptr() as usize, name.as_ptr() as usize, 5, word(-2)];
        call(libc::SYS_add_key, &arguments).map(drop)
    }),
    ("seccomp_listener", |_| call(libc::SYS_seccomp, &[3, 0, 0]).map(drop)),
    ("personality", |_| call(libc::SYS_personality, &[0x0040_0000]).map(drop)),
    ("kernel_log", |_| call(libc::SYS_syslog, &[10]).map(drop)),
    ("sethostname", |_| call(libc::SYS_sethostname, &[path("probe").as_ptr() as usize, 5]).map(drop)),
    ("ioctl_on_null", |_| call(libc::SYS_ioctl, &[word(NULL), 0x5401, 0]).map(drop)),
    ("foreign_architecture", foreign_architecture),
    ("x32_call", |_| call(0x4000_0000 + libc::SYS_getpid, &[]).map(drop)),
    // Devices and programs that lie in the share, or are written into shared memory.
    ("device_make", |_| mknod(libc::S_IFCHR, 0x0105)),
    ("device_make_block", |_| mknod(libc::S_IFBLK, 0x0700)),
    ("device_open", |_| open(SHARE, "device", O_RDONLY)),
    ("device_open_in_mount_below", |_| open(SHARE, "mounted/device", O_RDONLY)),
    ("device_reopen", device_reopen),
    ("exec_share_file", |_| exec(open_kept(SHARE, "program", O_RDONLY)?)),
    ("exec_share_setuid", |_| exec(open_kept(SHARE, "setuid-program", O_RDONLY)?)),
    ("exec_share_by_path", |_| {
        let (name, none) = (path("program"), [0usize]);
        let vector = none.as_ptr() as usize;
        call(libc::SYS_execveat, &[word(SHARE), name.as_ptr() as usize, vector, vector, 0]).map(drop)
    }),
    ("exec_share_as_the_binary", |_| exec(number_9(open_kept(SHARE, "program", O_RDONLY)?)?)),
    ("exec_own_binary_again", |_| exec(number_9(open_kept(PROC, "self/exe", O_RDONLY)?)?)),
    ("exec_arena", |_| exec(number_9(filled_arena()?)?)),
    ("exec_new_memory", |_| call(libc::SYS_memfd_create, &[path("probe").as_ptr() as usize, 0]).map(drop)),
    ("map_executable", |_| {
        let flags = word(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call(libc::SYS_mmap, &[0, 4096, word(libc::PROT_READ | libc::PROT_EXEC), flags, word(-1), 0]).map(drop)
    }),
    ("map_then_make_executable", |_| {
        let (access, flags) = (word(libc::PROT_READ), word(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS));
        let address = call(libc::SYS_mmap, &[0, 4096, access, flags, word(-1), 0]).map_err(|_| UNPREPARED)?;
        call(libc::SYS_mprotect, &[address, 4096, word(libc::PROT_READ | libc::PROT_EXEC)]).map(drop)
    }),
    // More rights.
    ("capset", |_| {
        let (header, data) = ([0x2008_0522u32, 0], [u32::MAX; 6]);
        call(libc::SYS_capset, &[header.as_ptr() as usize, data.as_ptr() as usize]).map(drop)
    }),
    ("ambient_raise", |_| prctl(CAP_AMBIENT, CAP_AMBIENT_RAISE as usize, SYS_ADMIN)),
    ("securebits_clear", |_| prctl(libc::PR_SET_SECUREBITS, 0, 0)),
    ("keep_capabilities", |_| prctl(libc::PR_SET_KEEPCAPS, 1, 0)),
    ("dumpable", |_| prctl(libc::PR_SET_DUMPABLE, 1, 0)),
    ("parent_death_signal_off", |_| prctl(libc::PR_SET_PDEATHSIG, 0, 0)),
    ("subreaper", |_| prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)),
    ("setuid", |_| call(libc::SYS_setresuid, &[1000, 1000, 1000]).map(drop)),
    ("setgroups", |_| call(libc::SYS_setgroups, &[0, 0]).map(drop)),
    ("raise_descriptor_limit", |_| {
        let limit = [1u64 << 30; 2];
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize, 0]).map(drop)
    }),
    ("limit_of_the_keeper", |_| {
        let limit = [64u64; 2];
        call(libc::SYS_prlimit64, &[KEEPER, libc::RLIMIT_NOFILE as usize, limit.as_ptr() as usize, 0]).map(drop)
    }),
    ("core_file", |_| {
        let limit = [1u64 << 30; 2];
        call(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE as usize, limit.as_ptr() as usize, 0]).map(drop)
    }),
    // Memory shared with the supervisor.
    ("config_write", |_| write(CONFIG)),
    ("config_truncate", |_| call(libc::SYS_ftruncate, &[word(CONFIG), 0]).map(drop)),
    ("config_punch", |_| punch(CONFIG)),
    ("config_reopen_and_write", |_| write(open_kept(PROC, "self/fd/4", O_RDWR)?)),
    ("statistics_truncate", |_| call(libc::SYS_ftruncate, &[word(STATISTICS), 0]).map(drop)),
    ("statistics_grow", |_| call(libc::SYS_ftruncate, &[word(STATISTICS), 1 << 20]).map(drop)),
    ("statistics_punch", |_| punch(STATISTICS)),
    ("arena_truncate", |_| call(libc::SYS_ftruncate, &[word(ARENA), 0]).map(drop)),
    ("arena_punch", |_| punch(ARENA)),
    ("binary_descriptor_left", |_| call(libc::SYS_fcntl, &[word(BINARY), word(libc::F_GETFD)]).map(drop)),
];

fn fact<'f>(facts: &'f Facts, key: &str) -> &'f str {
    facts.get(key).map_or("", String::as_str)
}

fn number(facts: &Facts, key: &str) -> usize {
    fact(facts, key).parse().unwrap_or(usize::MAX)
}

/// The secret's path as seen from somewhere deep: up to the host's root and down again.
fn climb(facts: &Facts) -> String {
    format!("{UP}{}", fact(facts, "secret"))
}

fn at(syscall: c_long, directory: i32, name: &str, mode: usize) -> Result<()> {
    call(syscall, &[word(directory), path(name).as_ptr() as usize, mode]).map(drop)
}

/// As the worker does it: through a descriptor that may be O_PATH.
fn chown(directory: i32, name: &str, id: usize) -> Result<()> {
    let held = open_kept(directory, name, O_PATH)?;
    let empty = path("");
    let result =
        call(libc::SYS_fchownat, &[word(held), empty.as_ptr() as usize, id, id, word(AT_EMPTY_PATH)]).map(drop);
    close(held);
    result
}

fn mknod(kind: libc::mode_t, device: usize) -> Result<()> {
    let name = path(&format!("node-{kind}"));
    call(libc::SYS_mknodat, &[word(SHARE), name.as_ptr() as usize, kind as usize | 0o600, device]).map(drop)
}

fn prctl(option: i32, first: usize, second: usize) -> Result<()> {
    call(libc::SYS_prctl, &[word(option), first, second]).map(drop)
}

fn socket(family: i32, kind: i32) -> Result<()> {
    close(call(libc::SYS_socket, &[word(family), word(kind), 0])? as i32);
    Ok(())
}

fn write(fd: i32) -> Result<()> {
    call(libc::SYS_write, &[word(fd), c"probe".as_ptr() as usize, 5]).map(drop)
}

fn punch(fd: i32) -> Result<()> {
    call(libc::SYS_fallocate, &[word(fd), word(PUNCH_HOLE), 0, 4096]).map(drop)
}

/// In the child of a clone that should not have been possible: ends at once.
fn forked(pid: Result) -> Result<()> {
    if pid == Ok(0) {
        let _ = call(libc::SYS_exit_group, &[0]);
    }
    pid.map(drop)
}

fn share_reopen(_: &Facts) -> Result<()> {
    let held = open_kept(SHARE, "file", O_PATH)?;
    let result = open(PROC, &format!("self/fd/{held}"), O_RDWR);
    close(held);
    result
}

fn share_chmod(_: &Facts) -> Result<()> {
    let held = open_kept(SHARE, "file", O_PATH)?;
    let result = at(libc::SYS_fchmodat, PROC, &format!("self/fd/{held}"), 0o640);
    close(held);
    result
}

fn share_rename(_: &Facts) -> Result<()> {
    let (from, to) = (path("file"), path("directory/file"));
    let there = [word(SHARE), from.as_ptr() as usize, word(SHARE), to.as_ptr() as usize, 0];
    let back = [word(SHARE), to.as_ptr() as usize, word(SHARE), from.as_ptr() as usize, 0];
    call(libc::SYS_renameat2, &there)?;
    call(libc::SYS_renameat2, &back).map(drop)
}

fn share_symlink(_: &Facts) -> Result<()> {
    let (target, name) = (path("/anywhere"), path("made-link"));
    call(libc::SYS_symlinkat, &[target.as_ptr() as usize, word(SHARE), name.as_ptr() as usize]).map(drop)
}

/// The secret by its file handle: any inode of the share's file system, if the call and the capability were there.
fn handle_outside(facts: &Facts) -> Result<()> {
    let digits = fact(facts, "handle").as_bytes();
    let bytes: Vec<u8> =
        digits.chunks(2).filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    if bytes.is_empty() {
        return Err(UNPREPARED);
    }
    call(libc::SYS_open_by_handle_at, &[word(SHARE), bytes.as_ptr() as usize, word(O_PATH)]).map(drop)
}

fn mount_setattr(fd: i32) -> Result<()> {
    let attributes = [0u64, 0x0f, 0, 0];
    let empty = path("");
    let arguments = [
        word(fd),
        empty.as_ptr() as usize,
        word(AT_EMPTY_PATH),
        attributes.as_ptr() as usize,
        size_of_val(&attributes),
    ];
    call(libc::SYS_mount_setattr, &arguments).map(drop)
}

fn setns(_: &Facts) -> Result<()> {
    let namespace = open_kept(PROC, "self/ns/user", O_RDONLY).unwrap_or(-1);
    call(libc::SYS_setns, &[word(namespace), 0]).map(drop)
}

fn unix_address(name: &str) -> (libc::sockaddr_un, usize) {
    let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
    for (place, byte) in address.sun_path.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    (address, 2 + name.len())
}

fn connect_unix(name: &str) -> Result<()> {
    let fd = call(libc::SYS_socket, &[word(libc::AF_UNIX), word(libc::SOCK_STREAM), 0])?;
    let (address, length) = unix_address(name);
    let result = call(libc::SYS_connect, &[fd, &raw const address as usize, length]).map(drop);
    close(fd as i32);
    result
}

fn connect_tcp(facts: &Facts) -> Result<()> {
    let fd = call(libc::SYS_socket, &[word(libc::AF_INET), word(libc::SOCK_STREAM), 0])?;
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: (number(facts, "port") as u16).to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let result = call(libc::SYS_connect, &[fd, &raw const address as usize, size_of_val(&address)]).map(drop);
    close(fd as i32);
    result
}

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

fn device_reopen(_: &Facts) -> Result<()> {
    let held = open_kept(SHARE, "device", O_PATH).map_err(|_| UNPREPARED)?;
    let result = open(PROC, &format!("self/fd/{held}"), O_RDONLY);
    close(held);
    result
}

/// Copies *fd* to the number from which the filter lets a program be started.
fn number_9(fd: i32) -> Result<i32> {
    if fd == BINARY {
        return Ok(fd);
    }
    let copy = call(libc::SYS_fcntl, &[word(fd), word(libc::F_DUPFD_CLOEXEC), word(BINARY)]).map_err(|_| UNPREPARED)?;
    if copy as i32 == BINARY {
        return Ok(BINARY);
    }
    Err(UNPREPARED)
}

/// The arena with a program in it: the prober's own first bytes will do to see whether the kernel would take it.
fn filled_arena() -> Result<i32> {
    let program = b"#!/x\n";
    let access = word(libc::PROT_READ | libc::PROT_WRITE);
    let address =
        call(libc::SYS_mmap, &[0, 4096, access, word(libc::MAP_SHARED), word(ARENA), 0]).map_err(|_| UNPREPARED)?;
    // SAFETY: the arena's first page has just been mapped there, writable, and is larger than the program.
    unsafe { std::ptr::copy_nonoverlapping(program.as_ptr(), address as *mut u8, program.len()) };
    Ok(ARENA)
}

/// Starts what is behind *fd*; returns only if that failed.
fn exec(fd: i32) -> Result<()> {
    let (empty, none) = (path(""), [0usize]);
    let vector = none.as_ptr() as usize;
    let arguments = [word(fd), empty.as_ptr() as usize, vector, vector, word(AT_EMPTY_PATH)];
    let result = call(libc::SYS_execveat, &arguments).map(drop);
    close(fd);
    result
}
