//! Few descriptors: a limit of 64 for the whole process, and trees larger and deeper than that.
//!
//! The limit is the process's: the tests take turns, and each sees the descriptors of the others gone.

mod fs_guest;

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fs_guest::{config, open_path, Guest, World, ALL_FLAGS, ROOT};

const LIMIT: u64 = 64;

/// Waits for its turn and lowers the limit.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: 4096 };
    // SAFETY: limit lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    guard
}

fn world() -> (World, Guest) {
    let (world, mut guest) = World::unmounted(&config(), 8 << 20);
    guest.init(ALL_FLAGS).expect("INIT");
    (world, guest)
}

#[test]
fn a_thousand_files_are_known_with_a_handful_of_descriptors() {
    let _turn = turn();
    let (world, mut guest) = world();
    let nodes: Vec<_> = (0..1000)
        .map(|number| {
            world.write(format!("{number}"), "x");
            guest.lookup(ROOT, format!("{number}")).expect("LOOKUP").node
        })
        .collect();
    for &node in &nodes {
        assert!(guest.getattr(node).is_ok());
        // STATFS needs a descriptor of the node: each takes the place of the oldest.
        guest.call(virtiofs_worker::fuse::Opcode::Statfs, node, &fs_guest::body(), 80).expect("STATFS");
    }
    assert!(world.holdings().2 < LIMIT, "{} descriptors", world.holdings().2);
    for node in nodes {
        guest.forget(node, 1);
    }
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn a_chain_of_five_thousand_directories_is_reopened() {
    const DEPTH: usize = 5000;
    let _turn = turn();
    let (world, mut guest) = world();
    let mut below = open_path(world.share.path.to_str().expect("UTF-8"));
    for _ in 0..DEPTH {
        // SAFETY: the names are NUL-terminated.
        unsafe {
            assert_eq!(libc::mkdirat(below.as_raw_fd(), c"d".as_ptr(), 0o700), 0);
            let fd = libc::openat(below.as_raw_fd(), c"d".as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            assert!(fd >= 0);
            below = OwnedFd::from_raw_fd(fd);
        }
    }
    drop(below);
    let mut nodes = vec![ROOT];
    for depth in 0..DEPTH {
        let parent = nodes[depth];
        nodes.push(guest.lookup(parent, "d").unwrap_or_else(|errno| panic!("LOOKUP at {depth}: {errno}")).node);
    }
    assert!(guest.getattr(nodes[DEPTH]).is_ok());
    // Push everything out, so that the way down starts at the root.
    for number in 0..200 {
        world.write(format!("{number}"), "");
        let node = guest.lookup(ROOT, format!("{number}")).expect("LOOKUP").node;
        guest.call(virtiofs_worker::fuse::Opcode::Statfs, node, &fs_guest::body(), 80).expect("STATFS");
        guest.forget(node, 1);
    }
    for &node in nodes[1..60].iter().chain(&[nodes[DEPTH]]) {
        guest.call(virtiofs_worker::fuse::Opcode::Statfs, node, &fs_guest::body(), 80).expect("STATFS");
    }
    assert!(world.holdings().2 < LIMIT);
    for &node in &nodes[1..] {
        guest.forget(node, 1);
    }
    assert_eq!(world.holdings(), (0, 0, 0));
    remove_chain(&world);
}

/// `remove_dir_all` holds a descriptor per level: this climbs instead.
fn remove_chain(world: &World) {
    let path = CString::new(world.share.path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the strings are NUL-terminated; the working directory is this test binary's own.
    unsafe {
        assert_eq!(libc::chdir(path.as_ptr()), 0);
        let mut depth = 0;
        while libc::chdir(c"d".as_ptr()) == 0 {
            depth += 1;
        }
        for _ in 0..depth {
            assert_eq!(libc::chdir(c"..".as_ptr()), 0);
            assert_eq!(libc::rmdir(c"d".as_ptr()), 0);
        }
        assert_eq!(libc::chdir(c"/".as_ptr()), 0);
    }
}

#[test]
fn open_and_unlinked_files_fill_the_limit_and_then_enfile() {
    let _turn = turn();
    let (world, mut guest) = world();
    let mut open = Vec::new();
    let refused = loop {
        match guest.create(ROOT, &format!("{}", open.len()), libc::O_RDWR, 0o600) {
            Ok((entry, fh)) => open.push((entry.node, fh)),
            Err(errno) => break errno,
        }
    };
    assert_eq!(refused, libc::ENFILE);
    assert!((20..64).contains(&open.len()), "{} files", open.len());
    assert!(guest.getattr(open[0].0).is_ok(), "what is known still answers");
    let (node, fh) = open.pop().expect("one");
    guest.release(node, fh).expect("RELEASE");
    guest.forget(node, 1);
    guest.unlink(ROOT, "0").expect("UNLINK takes the free place for its pin");
    assert_eq!(guest.unlink(ROOT, "1"), Err(libc::ENFILE));
    assert!(world.path("1").exists());
    for (node, fh) in open {
        guest.release(node, fh).expect("RELEASE");
        guest.forget(node, 1);
    }
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn an_evicted_directory_that_the_host_replaced_is_stale() {
    let _turn = turn();
    let (world, mut guest) = world();
    world.mkdir("dir");
    world.write("dir/file", "ours");
    let file = guest.walk("dir/file").expect("walk").node;
    for number in 0..100 {
        world.mkdir(format!("{number}"));
        let node = guest.lookup(ROOT, format!("{number}")).expect("LOOKUP").node;
        guest.call(virtiofs_worker::fuse::Opcode::Statfs, node, &fs_guest::body(), 80).expect("STATFS");
    }
    std::fs::rename(world.path("dir"), world.path("away")).expect("rename");
    world.mkdir("dir");
    world.write("dir/file", "theirs");
    assert_eq!(guest.getattr(file), Err(libc::ESTALE));
    assert_eq!(guest.open(file, libc::O_RDWR), Err(libc::ESTALE));
    assert_eq!(guest.walk("away/file").expect("walk").node, file);
    assert_eq!(guest.getattr(file).expect("GETATTR").size, 4);
}
