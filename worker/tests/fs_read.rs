//! Looking at a share: INIT, LOOKUP, GETATTR, OPEN, READ, READDIR and their ends.

mod fs_guest;

use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};

use fs_guest::{body, config, u32_at, u64_at, Entry, World, ALL_FLAGS, ROOT};
use virtiofs_worker::config::CacheMode;
use virtiofs_worker::fs::{Event, Served};
use virtiofs_worker::fuse::abi::{fopen, init};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::stats::Counter;

#[test]
fn init_grants_what_is_offered_and_true_only() {
    let (world, mut guest) = World::unmounted(&config(), 1 << 20);
    let reply = guest.init(ALL_FLAGS).expect("INIT");
    assert_eq!((u32_at(&reply, 0), u32_at(&reply, 4)), (7, 38));
    assert_eq!(u32_at(&reply, 20), 1 << 20, "max_write");
    let flags = u64::from(u32_at(&reply, 12)) | u64::from(u32_at(&reply, 32)) << 32;
    assert_ne!(flags & init::AUTO_INVAL_DATA, 0);
    assert_ne!(flags & init::READDIRPLUS_AUTO, 0);
    for never in [1 << 1, 1 << 4, 1 << 6, 1 << 10, init::WRITEBACK_CACHE, 1 << 17, 1 << 20] {
        assert_eq!(flags & never, 0, "flag {never:#x}");
    }
    let few = init::ASYNC_READ | init::MAX_PAGES;
    let reply = guest.init(few).expect("second INIT");
    assert_eq!(u64::from(u32_at(&reply, 12)), few);
    let events = world.events.lock().expect("events").clone();
    assert_eq!(events, [Event::Mounted { minor: 38, flags }, Event::Mounted { minor: 38, flags: few }]);
    assert_eq!(world.stats.get(Counter::Mounted), 1);
}

#[test]
fn an_old_guest_is_refused_and_a_future_one_is_told_our_version() {
    let (_world, mut guest) = World::unmounted(&config(), 1 << 20);
    let ask = |major: u32, minor: u32| body().u32(major).u32(minor).zeros(56);
    assert_eq!(guest.call(Opcode::Init, 0, &ask(7, 26), 64), Err(libc::EPROTO));
    assert_eq!(guest.call(Opcode::Init, 0, &ask(6, 40), 64), Err(libc::EPROTO));
    let reply = guest.call(Opcode::Init, 0, &ask(8, 0), 64).expect("INIT of major 8");
    assert_eq!(u32_at(&reply, 0), 7);
    assert_eq!(guest.getattr(ROOT), Err(libc::EIO), "the session has not begun");
    assert!(guest.call(Opcode::Init, 0, &ask(7, 27), 64).is_ok());
    assert!(guest.getattr(ROOT).is_ok());
}

#[test]
fn nothing_is_answered_before_init_and_after_destroy() {
    let (world, mut guest) = World::unmounted(&config(), 1 << 20);
    assert_eq!(guest.getattr(ROOT), Err(libc::EIO));
    guest.init(ALL_FLAGS).expect("INIT");
    assert!(guest.getattr(ROOT).is_ok());
    guest.call(Opcode::Destroy, 0, &body(), 0).expect("DESTROY");
    assert_eq!(guest.getattr(ROOT), Err(libc::EIO));
    assert_eq!(world.events.lock().expect("events").last(), Some(&Event::Unmounted));
    assert_eq!(world.stats.get(Counter::Mounted), 0);
}

#[test]
fn a_second_init_drops_what_the_first_session_held() {
    let (world, mut guest) = World::new();
    world.write("file", "content");
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    let fh = guest.open(node, libc::O_RDONLY).expect("OPEN");
    guest.init(ALL_FLAGS).expect("INIT");
    assert_eq!(world.holdings(), (0, 0, 0));
    assert_eq!(guest.getattr(node), Err(libc::ESTALE));
    assert_eq!(guest.read(node, fh, 0, 4), Err(libc::EBADF));
    assert_ne!(guest.lookup(ROOT, "file").expect("LOOKUP").node, node, "node ids do not come back");
}

#[test]
fn lookup_tells_what_stat_tells() {
    let (world, mut guest) = World::new();
    world.write("file", "content");
    let entry = guest.lookup(ROOT, "file").expect("LOOKUP");
    let host = fs::metadata(world.path("file")).expect("stat");
    assert_eq!((entry.attr.ino, entry.attr.size, entry.attr.mode), (host.ino(), 7, host.mode()));
    assert_eq!((entry.attr.uid, entry.attr.nlink, entry.attr.mtime), (host.uid(), 1, host.mtime() as u64));
    assert_eq!(guest.getattr(entry.node), Ok(entry.attr));
    assert_eq!(guest.lookup(ROOT, "file").expect("again").node, entry.node, "one file, one node");
    assert_eq!(guest.lookup(ROOT, "missing"), Err(libc::ENOENT));
    assert_eq!(guest.lookup(entry.node, "x"), Err(libc::ENOTDIR));
    assert_eq!(guest.lookup(999, "x"), Err(libc::ESTALE));
}

#[test]
fn dots_are_answered_from_the_table() {
    let (world, mut guest) = World::new();
    world.mkdir("a");
    world.mkdir("a/b");
    let a = guest.lookup(ROOT, "a").expect("a").node;
    let b = guest.lookup(a, "b").expect("b").node;
    assert_eq!(guest.lookup(b, "..").expect("..").node, a);
    assert_eq!(guest.lookup(b, ".").expect(".").node, b);
    assert_eq!(guest.lookup(ROOT, "..").expect("root's ..").node, ROOT);
    for (node, count) in [(b, 2), (a, 2)] {
        guest.forget(node, count);
    }
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn timeouts_and_open_flags_follow_the_cache_mode() {
    let table = [
        (CacheMode::Never, 0, fopen::DIRECT_IO, 0, false, true),
        (CacheMode::Auto, 1, 0, 0, true, true),
        (CacheMode::Metadata, 86_400, fopen::DIRECT_IO, fopen::CACHE_DIR | fopen::KEEP_CACHE, true, true),
        (CacheMode::Always, 86_400, fopen::KEEP_CACHE, fopen::CACHE_DIR | fopen::KEEP_CACHE, true, false),
    ];
    for (cache, seconds, file_flags, dir_flags, plus, inval) in table {
        let (world, mut guest) = World::unmounted(&virtiofs_worker::config::Config { cache, ..config() }, 1 << 20);
        let granted = u64::from(u32_at(&guest.init(ALL_FLAGS).expect("INIT"), 12));
        assert_eq!(granted & init::DO_READDIRPLUS != 0, plus, "{cache:?}");
        assert_eq!(granted & init::AUTO_INVAL_DATA != 0, inval, "{cache:?}");
        world.write("file", "");
        let entry = guest.lookup(ROOT, "file").expect("LOOKUP");
        assert_eq!(entry.valid, seconds, "{cache:?}");
        let open = guest.call(Opcode::Open, entry.node, &body().zeros(8), 16).expect("OPEN");
        assert_eq!(u32_at(&open, 8), file_flags, "{cache:?}");
        let open = guest.call(Opcode::Opendir, ROOT, &body().zeros(8), 16).expect("OPENDIR");
        assert_eq!(u32_at(&open, 8), dir_flags, "{cache:?}");
    }
}

#[test]
fn read_returns_the_bytes_up_to_the_end() {
    let (world, mut guest) = World::new();
    world.write("file", "0123456789");
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    let fh = guest.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(guest.read(node, fh, 0, 4).as_deref(), Ok(&b"0123"[..]));
    assert_eq!(guest.read(node, fh, 8, 4096).as_deref(), Ok(&b"89"[..]));
    assert_eq!(guest.read(node, fh, 10, 4).as_deref(), Ok(&b""[..]));
    assert_eq!(guest.read(node, fh, u64::MAX, 4), Err(libc::EINVAL));
    assert_eq!(guest.write(node, fh, 0, b"x"), Err(libc::EBADF), "opened for reading only");
    assert_eq!(world.stats.get(Counter::BytesRead), 6);
    assert_eq!(guest.read(ROOT, fh, 0, 4), Err(libc::EBADF), "a handle belongs to its node");
    guest.release(node, fh).expect("RELEASE");
    assert_eq!(guest.read(node, fh, 0, 4), Err(libc::EBADF));
    assert_eq!(guest.release(node, fh), Err(libc::EBADF));
}

#[test]
fn a_read_is_bounded_by_its_size_and_by_the_buffers() {
    let (world, mut guest) = World::new();
    world.write("file", &"x".repeat(100));
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    let fh = guest.open(node, libc::O_RDONLY).expect("OPEN");
    let ask = |size: u32| body().u64(fh).u64(0).u32(size).zeros(20);
    assert_eq!(guest.call(Opcode::Read, node, &ask(u32::MAX), 30).map(|data| data.len()), Ok(30));
    assert_eq!(guest.call(Opcode::Read, node, &ask(5), 30).map(|data| data.len()), Ok(5));
    assert_eq!(guest.call(Opcode::Read, node, &ask(5), 0).map(|data| data.len()), Ok(0));
}

#[test]
fn directories_and_special_files_are_not_opened_as_files() {
    let (world, mut guest) = World::new();
    world.mkdir("dir");
    symlink("dir", world.path("link")).expect("symlink");
    let dir = guest.lookup(ROOT, "dir").expect("dir").node;
    let link = guest.lookup(ROOT, "link").expect("link");
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK, "links are not followed");
    assert_eq!(guest.open(dir, libc::O_RDONLY), Err(libc::EISDIR));
    assert_eq!(guest.open(link.node, libc::O_RDONLY), Err(libc::ENXIO));
    assert_eq!(guest.opendir(link.node), Err(libc::ENOTDIR));
    assert_eq!(guest.lookup(link.node, "x"), Err(libc::ENOTDIR));
    assert_eq!(guest.call(Opcode::Readlink, link.node, &body(), 4096).as_deref(), Ok(&b"dir"[..]));
    assert_eq!(guest.call(Opcode::Readlink, dir, &body(), 4096), Err(libc::EINVAL));
}

#[test]
fn every_entry_of_a_large_directory_is_listed_once() {
    let (world, mut guest) = World::with(&config());
    for number in 0..5000 {
        world.write(format!("file-{number}"), "");
    }
    for (size, plus) in [(4096, false), (300, true), (32768, true)] {
        let names = guest.list(ROOT, size, plus);
        assert_eq!(names.len(), 5002, "{size} bytes, plus: {plus}");
        assert!(names.contains_key(&b".."[..]) && names.contains_key(&b"file-4999"[..]));
        for entry in names.values().filter(|entry| entry.node != 0) {
            guest.forget(entry.node, 1);
        }
        assert_eq!(world.holdings(), (0, 0, 0), "{size} bytes, plus: {plus}");
    }
}

#[test]
fn the_dots_of_a_listing_are_not_looked_up() {
    let (world, mut guest) = World::new();
    world.write("file", "");
    let names = guest.list(ROOT, 4096, true);
    assert_eq!((names[&b"."[..]].node, names[&b".."[..]].node), (0, 0));
    assert_ne!(names[&b"file"[..]].node, 0);
    assert_eq!(names[&b"file"[..]].kind, u32::from(libc::DT_REG));
    assert_eq!(world.stats.get(Counter::Inodes), 1);
}

#[test]
fn a_listing_can_be_rewound_and_resumed_anywhere() {
    let (world, mut guest) = World::new();
    for number in 0..50 {
        world.write(format!("{number}"), "");
    }
    let fh = guest.opendir(ROOT).expect("OPENDIR");
    let all = guest.readdir(ROOT, fh, 0, 8192, false).expect("all");
    assert_eq!(all.len(), 52);
    let resumed = guest.readdir(ROOT, fh, all[20].offset, 8192, false).expect("from 21 on");
    assert_eq!(resumed, all[21..]);
    world.write("new", "");
    let again = guest.readdir(ROOT, fh, 0, 8192, false).expect("rewound");
    assert!(again.iter().any(|entry| entry.name == b"new"), "a rewound listing is read anew");
    assert_eq!(guest.readdir(ROOT, fh, 0, 10, false), Err(libc::EINVAL), "not even one entry fits");
}

#[test]
fn statfs_and_flush_and_fsync_succeed() {
    let (world, mut guest) = World::new();
    world.write("file", "");
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    let fh = guest.open(node, libc::O_RDWR).expect("OPEN");
    let dir = guest.opendir(ROOT).expect("OPENDIR");
    let statfs = guest.call(Opcode::Statfs, ROOT, &body(), 80).expect("STATFS");
    assert!(u64_at(&statfs, 0) > 0 && u32_at(&statfs, 44) == 255);
    assert_eq!(guest.call(Opcode::Flush, node, &body().u64(fh).zeros(16), 0), Ok(vec![]));
    assert_eq!(guest.call(Opcode::Fsync, node, &body().u64(fh).u32(0).u32(0), 0), Ok(vec![]));
    assert_eq!(guest.call(Opcode::Fsync, node, &body().u64(fh).u32(1).u32(0), 0), Ok(vec![]));
    assert_eq!(guest.call(Opcode::Fsyncdir, ROOT, &body().u64(dir).u32(0).u32(0), 0), Ok(vec![]));
    assert_eq!(guest.call(Opcode::Flush, node, &body().u64(1 << 40).zeros(16), 0), Err(libc::EBADF));
}

#[test]
fn forgetting_leaves_nothing_behind() {
    let (world, mut guest) = World::new();
    world.mkdir("a");
    world.mkdir("a/b");
    world.write("a/b/file", "x");
    let file = guest.walk("a/b/file").expect("walk");
    let b = guest.walk("a/b").expect("walk").node;
    let a = guest.lookup(ROOT, "a").expect("a").node;
    let fh = guest.open(file.node, libc::O_RDONLY).expect("OPEN");
    guest.forget(a, 3);
    guest.forget(b, 2);
    assert_eq!(world.stats.get(Counter::Inodes), 3, "children keep their parents");
    guest.forget(file.node, 1);
    assert_eq!(guest.read(file.node, fh, 0, 1).as_deref(), Ok(&b"x"[..]), "an open handle keeps its node");
    guest.release(file.node, fh).expect("RELEASE");
    assert_eq!(world.holdings(), (0, 0, 0));
    assert_eq!(world.verify().nodes, 1, "the root");
}

#[test]
fn a_batch_of_forgets_counts_each() {
    let (world, mut guest) = World::new();
    let mut batch = body().u32(3).u32(0);
    for name in ["a", "b", "c"] {
        world.write(name, "");
        batch = batch.u64(guest.lookup(ROOT, name).expect("LOOKUP").node).u64(1);
    }
    let short = guest.request(Opcode::BatchForget as u32, 0, &batch.0[..40]);
    assert_eq!(guest.raw(short, 0).0, Served::Silent);
    assert_eq!((world.holdings().0, world.stats.get(Counter::Malformed)), (3, 1), "fewer entries than announced");
    let request = guest.request(Opcode::BatchForget as u32, 0, &batch.0);
    assert_eq!(guest.raw(request, 0).0, Served::Silent);
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn another_process_finds_nodes_and_handles_in_the_arena() {
    let (world, mut guest) = World::new();
    world.write("file", "");
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    guest.open(node, libc::O_RDONLY).expect("OPEN");
    guest.opendir(ROOT).expect("OPENDIR");
    let report = world.verify();
    assert_eq!((report.nodes, report.handles), (2, 2));
    assert!(report.torn_nodes.is_empty() && report.torn_handles.is_empty());
}

#[test]
fn an_unknown_opcode_is_not_implemented() {
    let (world, mut guest) = World::new();
    let request = guest.request(4242, ROOT, &[1, 2, 3]);
    let (served, reply) = guest.raw(request, 16);
    assert_eq!(served, Served::Reply(16));
    assert_eq!(u32_at(&reply, 4) as i32, -libc::ENOSYS);
    assert_eq!(world.stats.get(Counter::Errors), 1);
}

#[test]
fn a_full_arena_refuses_more_nodes_and_goes_on() {
    let (world, mut guest) = World::unmounted(&config(), 64 << 10);
    guest.init(ALL_FLAGS).expect("INIT");
    let mut nodes = Vec::new();
    for number in 0..1000 {
        world.write(format!("{number}"), "");
        match guest.lookup(ROOT, format!("{number}")) {
            Ok(Entry { node, .. }) => nodes.push(node),
            Err(errno) => {
                assert_eq!(errno, libc::ENOMEM);
                break;
            }
        }
    }
    assert!((100..1000).contains(&nodes.len()), "{} nodes", nodes.len());
    guest.forget(nodes[0], 1);
    assert!(guest.lookup(ROOT, "5").is_ok());
    let listed = guest.list(ROOT, 65536, true);
    assert_eq!(listed.len(), nodes.len() + 3, "entries that cannot be held are listed all the same");
}
