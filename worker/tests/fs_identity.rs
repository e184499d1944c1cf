//! Whose files are made and changed, by which calls, and how long the guest may believe what it was told.

mod fs_guest;

use std::fs;
use std::io;
use std::os::unix::fs::{symlink, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use fs_guest::{body, config, u32_at, u64_at, Setattr, World, ROOT};
use virtiofs_worker::config::{Attributes, CacheMode, Config, Ids, Unmapped};
use virtiofs_worker::fuse::abi::setattr;
use virtiofs_worker::fuse::Opcode;

const INSIDE: &str = "INSIDE_A_USER_NAMESPACE";

/// Runs *test*, this one's name, once more where user and group 0 are the only ids there are. True inside.
fn alone_with_one_id(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().expect("the test's own path"));
    command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    // SAFETY: one thread after fork; the calls allocate nothing that another thread could have locked.
    unsafe {
        command.pre_exec(|| {
            if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0 {
                return Err(io::Error::last_os_error());
            }
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", "0 0 1")?;
            fs::write("/proc/self/gid_map", "0 0 1")
        })
    };
    let output = command.output().expect("a user namespace");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    false
}

fn chown(uid: u32, gid: u32) -> Setattr {
    Setattr { valid: setattr::UID | setattr::GID, uid, gid, ..Setattr::default() }
}

#[test]
fn an_id_without_a_mapping_creates_nothing_or_what_belongs_to_the_worker_as_the_policy_says() {
    if !alone_with_one_id("an_id_without_a_mapping_creates_nothing_or_what_belongs_to_the_worker_as_the_policy_says") {
        return;
    }
    for (uid, gid) in [(1000, 0), (0, 1000), (1000, 1000)] {
        let (world, mut guest) = World::new();
        (guest.uid, guest.gid) = (uid, gid);
        assert_eq!(guest.mkdir(ROOT, "dir", 0o755), Err(libc::EPERM));
        assert_eq!(guest.create(ROOT, "file", libc::O_RDWR, 0o644), Err(libc::EPERM));
        assert_eq!(guest.symlink(ROOT, "link", "x"), Err(libc::EPERM));
        assert_eq!(fs::read_dir(&world.share.path).expect("list").count(), 0);
        let (world, mut guest) = World::with(&Config { unmapped: Unmapped::Squash, ..config() });
        (guest.uid, guest.gid) = (uid, gid);
        let attr = guest.mkdir(ROOT, "dir", 0o755).expect("MKDIR").attr;
        assert_eq!((attr.uid, attr.gid), (0, 0));
        let attr = guest.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE").0.attr;
        assert_eq!((attr.uid, attr.gid), (0, 0));
        assert_eq!(fs::metadata(world.path("file")).expect("stat").uid(), 0);
    }
}

#[test]
fn a_file_cannot_be_given_to_an_id_without_a_mapping() {
    if !alone_with_one_id("a_file_cannot_be_given_to_an_id_without_a_mapping") {
        return;
    }
    for attributes in [Attributes::Path, Attributes::Open] {
        let (world, mut guest) = World::with(&Config { attributes, unmapped: Unmapped::Squash, ..config() });
        world.write("file", "");
        let file = guest.lookup(ROOT, "file").expect("LOOKUP").node;
        assert_eq!(guest.setattr(file, &chown(1000, 0)), Err(libc::EPERM));
        assert_eq!(guest.setattr(file, &chown(0, 1000)), Err(libc::EPERM));
        assert!(guest.setattr(file, &chown(0, 0)).is_ok());
    }
}

#[test]
fn where_everything_belongs_to_the_worker_an_owner_can_only_stay() {
    let (world, mut guest) = World::with(&Config { ids: Ids::Own, ..config() });
    world.write("file", "");
    std::os::unix::fs::chown(world.path("file"), Some(7), Some(8)).expect("chown");
    let file = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    assert!(guest.setattr(file, &chown(7, 8)).is_ok());
    let only_group = Setattr { valid: setattr::GID, gid: 8, ..Setattr::default() };
    assert!(guest.setattr(file, &only_group).is_ok());
    for (uid, gid) in [(0, 0), (7, 0), (0, 8)] {
        assert_eq!(guest.setattr(file, &chown(uid, gid)), Err(libc::EPERM));
    }
    let found = fs::metadata(world.path("file")).expect("stat");
    assert_eq!((found.uid(), found.gid()), (7, 8));
}

#[test]
fn the_guest_may_believe_names_and_attributes_as_long_as_the_policy_says() {
    let cases = [
        (CacheMode::Auto, Some(1500), (1, 500_000_000)),
        (CacheMode::Always, Some(0), (0, 0)),
        (CacheMode::Never, Some(u32::MAX), (4_294_967, 295_000_000)),
        (CacheMode::Auto, None, (1, 0)),
        (CacheMode::Never, None, (0, 0)),
        (CacheMode::Metadata, None, (86_400, 0)),
    ];
    for (cache, timeout_ms, expected) in cases {
        let (world, mut guest) = World::with(&Config { cache, timeout_ms, ..config() });
        world.write("file", "");
        let entry = guest.call(Opcode::Lookup, ROOT, &body().name("file"), 128).expect("LOOKUP");
        assert_eq!((u64_at(&entry, 16), u32_at(&entry, 32)), expected, "names");
        assert_eq!((u64_at(&entry, 24), u32_at(&entry, 36)), expected, "attributes beside a name");
        let attr = guest.call(Opcode::Getattr, ROOT, &body().zeros(16), 104).expect("GETATTR");
        assert_eq!((u64_at(&attr, 0), u32_at(&attr, 8)), expected, "attributes");
    }
}

/// Refuses this thread the calls that reach attributes by a path or an O_PATH descriptor.
fn forbid_attribute_calls_by_path() {
    /// fchownat, fchmodat, fchmodat2 and the extended attribute calls relative to a directory.
    const BY_PATH: [u32; 7] = [260, 268, 452, 463, 464, 465, 466];
    const UTIMENSAT: u32 = 280;
    /// Places in the program: the path of utimensat, which may be null, and the two answers.
    const PATH: usize = BY_PATH.len() + 2;
    const ALLOW: usize = PATH + 4;
    const REFUSE: usize = ALLOW + 1;
    let mut program: Vec<libc::sock_filter> = Vec::new();
    let mut add = |code: u32, k: u32, equal: usize, other: usize| {
        let from = program.len() + 1;
        let jump = |to: usize| to.saturating_sub(from) as u8;
        program.push(libc::sock_filter { code: code as u16, jt: jump(equal), jf: jump(other), k });
    };
    let (load, compare) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    add(load, 0, 0, 0);
    for number in BY_PATH {
        add(compare, number, REFUSE, 0);
    }
    add(compare, UTIMENSAT, PATH, ALLOW);
    for half in [24, 28] {
        add(load, half, 0, 0);
        add(compare, 0, 0, REFUSE);
    }
    add(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0);
    add(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EXDEV as u32, 0, 0);
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program lives through the call; both calls concern this thread alone.
    let results: [i64; 2] = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(),
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program),
        ]
    };
    assert_eq!(results, [0, 0], "{}", io::Error::last_os_error());
}

#[test]
fn without_mounts_attributes_change_through_open_files_alone() {
    let (world, mut guest) = World::with(&Config { attributes: Attributes::Open, ..config() });
    world.write("file", "");
    world.mkdir("dir");
    symlink("file", world.path("link")).expect("symlink");
    let socket = std::os::unix::net::UnixListener::bind(world.path("socket")).expect("bind");
    let change = Setattr { mode: 0o640, uid: 3, gid: 4, atime: 5, mtime: 6, ..Setattr::default() };
    let all = setattr::MODE | setattr::UID | setattr::GID | setattr::ATIME | setattr::MTIME;
    let set = |size: u32| body().u32(size).u32(0).name("user.x").bytes(b"value");
    std::thread::spawn(move || {
        forbid_attribute_calls_by_path();
        for name in ["file", "dir"] {
            let node = guest.lookup(ROOT, name).expect("LOOKUP").node;
            let attr = guest.setattr(node, &Setattr { valid: all, ..change }).expect("SETATTR");
            assert_eq!((attr.mode & 0o7777, attr.uid, attr.gid, attr.mtime), (0o640, 3, 4, 6), "{name}");
            guest.call(Opcode::Setxattr, node, &set(5), 0).expect("SETXATTR");
            let get = body().u32(64).u32(0).name("user.x");
            assert_eq!(guest.call(Opcode::Getxattr, node, &get, 64).as_deref(), Ok(&b"value"[..]));
            guest.call(Opcode::Listxattr, node, &body().u32(64).u32(0), 64).expect("LISTXATTR");
            guest.call(Opcode::Removexattr, node, &body().name("user.x"), 0).expect("REMOVEXATTR");
        }
        let file = guest.lookup(ROOT, "file").expect("LOOKUP").node;
        let fh = guest.open(file, libc::O_RDWR).expect("OPEN");
        let by_handle = Setattr { valid: setattr::MODE | setattr::FH, fh, mode: 0o600, ..Setattr::default() };
        assert_eq!(guest.setattr(file, &by_handle).map(|attr| attr.mode & 0o7777), Ok(0o600));
        for name in ["link", "socket"] {
            let node = guest.lookup(ROOT, name).expect("LOOKUP").node;
            for valid in [setattr::MODE, setattr::UID, setattr::MTIME] {
                assert_eq!(guest.setattr(node, &Setattr { valid, ..change }), Err(libc::EPERM), "{name}");
            }
            assert_eq!(guest.call(Opcode::Setxattr, node, &set(5), 0), Err(libc::EOPNOTSUPP), "{name}");
        }
    })
    .join()
    .expect("the serving thread");
    drop(socket);
    assert_eq!(fs::metadata(world.path("file")).expect("stat").uid(), 3);
}

fn access_time(path: &std::path::Path) -> (i64, i64) {
    let stat = fs::symlink_metadata(path).expect("stat");
    (stat.atime(), stat.atime_nsec())
}

/// Sets the access time so far back that reading moves it, however rarely the mount updates it.
fn make_stale(path: &std::path::Path) {
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(path).expect("open").set_times(fs::FileTimes::new().set_accessed(long_ago)).expect("times");
}

#[test]
fn reading_a_read_only_share_without_mounts_leaves_access_times_where_they_are() {
    let read_all = |attributes: Attributes| {
        let (world, mut guest) = World::with(&Config { readonly: true, attributes, ..config() });
        world.mkdir("dir");
        world.write("dir/file", "content");
        let (file, dir) = (world.path("dir/file"), world.path("dir"));
        make_stale(&file);
        make_stale(&dir);
        let before = (access_time(&file), access_time(&dir));
        let node = guest.walk("dir/file").expect("walk").node;
        let fh = guest.open(node, libc::O_RDONLY).expect("OPEN");
        assert_eq!(guest.read(node, fh, 0, 7).as_deref(), Ok(&b"content"[..]));
        let directory = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
        assert_eq!(guest.list(directory, 4096, true).len(), 3);
        (before, (access_time(&file), access_time(&dir)))
    };
    let (before, after) = read_all(Attributes::Open);
    assert_eq!(before, after);
    // A read-only mount is what keeps them in every other jail; this one is writable.
    let (before, after) = read_all(Attributes::Path);
    assert_ne!(before, after, "this file system moves no access times: the assertion above proves nothing here");
}
