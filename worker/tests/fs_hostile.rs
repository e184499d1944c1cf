//! A hostile guest: malformed requests, names that are none, numbers that were never given out.

mod fs_guest;

use std::fs;

use fs_guest::{body, config, u32_at, Body, Guest, World, ALL_FLAGS, ROOT};
use virtiofs_worker::fs::Served;
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::stats::Counter;

const NO_REPLY: [Opcode; 3] = [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt];

/// A well-formed body for each opcode, on a node and handle that exist, and the room its reply needs.
fn well_formed(opcode: Opcode, node: u64, fh: u64) -> (Body, usize) {
    let long = body().u64(fh).u64(0).u32(4).zeros(20);
    match opcode {
        Opcode::Lookup => (body().name("file"), 128),
        Opcode::Forget | Opcode::Interrupt | Opcode::Syncfs => (body().u64(0), 0),
        Opcode::BatchForget => (body().u32(1).u32(0).u64(node).u64(0), 0),
        Opcode::Getattr => (body().zeros(16), 104),
        Opcode::Setattr => (body().zeros(88), 104),
        Opcode::Readlink | Opcode::Destroy => (body(), 0),
        Opcode::Symlink => (body().name("new").name("target"), 128),
        Opcode::Mknod => (body().u32(libc::S_IFREG).zeros(12).name("new"), 128),
        Opcode::Mkdir => (body().zeros(8).name("new"), 128),
        Opcode::Unlink | Opcode::Rmdir => (body().name("victim"), 0),
        Opcode::Rename => (body().u64(ROOT).name("victim").name("moved"), 0),
        Opcode::Rename2 => (body().u64(ROOT).zeros(8).name("victim").name("moved"), 0),
        Opcode::Link => (body().u64(node).name("new"), 128),
        Opcode::Open | Opcode::Opendir => (body().zeros(8), 16),
        Opcode::Read | Opcode::Readdir | Opcode::Readdirplus => (long, 4096),
        Opcode::Write => (long.bytes(b"data"), 8),
        Opcode::Statfs => (body(), 80),
        Opcode::Release | Opcode::Releasedir | Opcode::Flush => (body().u64(fh).zeros(16), 0),
        Opcode::Fsync | Opcode::Fsyncdir => (body().u64(fh).zeros(8), 0),
        Opcode::Setxattr => (body().u32(4).u32(0).name("user.x").bytes(b"data"), 0),
        Opcode::Getxattr => (body().u32(4).u32(0).name("user.x"), 64),
        Opcode::Listxattr => (body().u32(64).u32(0), 64),
        Opcode::Removexattr => (body().name("user.x"), 0),
        Opcode::Init => (body().u32(7).u32(38).u32(0).u32(0).zeros(48), 64),
        Opcode::Access => (body().zeros(8), 0),
        Opcode::Create => (body().zeros(16).name("new"), 144),
        Opcode::Fallocate => (body().u64(fh).u64(0).u64(4).zeros(8), 0),
        Opcode::Lseek => (body().u64(fh).u64(0).u32(3).u32(0), 8),
        Opcode::CopyFileRange => (body().u64(fh).u64(0).u64(node).u64(fh).u64(64).u64(4).u64(0), 8),
    }
}

/// A share with `file` (open for both) and `victim`; returns the file's node and handle.
fn furnished() -> (World, Guest, u64, u64) {
    let (world, mut guest) = World::new();
    world.write("file", "0123456789");
    world.write("victim", "");
    let node = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    let fh = guest.open(node, libc::O_RDWR).expect("OPEN");
    (world, guest, node, fh)
}

/// Where an opcode acts: names below the root, data on the file.
fn target(opcode: Opcode, node: u64) -> u64 {
    match opcode {
        Opcode::Open
        | Opcode::Read
        | Opcode::Write
        | Opcode::Release
        | Opcode::Flush
        | Opcode::Fsync
        | Opcode::Fallocate
        | Opcode::Lseek
        | Opcode::CopyFileRange
        | Opcode::Setxattr
        | Opcode::Getxattr => node,
        _ => ROOT,
    }
}

fn is_served(guest: &mut Guest) {
    assert!(guest.getattr(ROOT).is_ok(), "the server goes on");
}

#[test]
fn a_request_cut_anywhere_gets_an_error_and_changes_nothing() {
    for &opcode in Opcode::ALL {
        let (world, mut guest, node, fh) = furnished();
        let before = world.holdings();
        let (whole, room) = well_formed(opcode, node, fh);
        for cut in 0..whole.0.len() {
            // INIT of any size from a major and minor version on means something.
            if opcode == Opcode::Init && cut >= 16 {
                break;
            }
            let request = guest.request(opcode as u32, target(opcode, node), &whole.0[..cut]);
            let malformed = world.stats.get(Counter::Malformed);
            let (served, reply) = guest.raw(request, 16 + room);
            if let Served::Reply(_) = served {
                assert_eq!(u32_at(&reply, 4) as i32, -libc::EINVAL, "{opcode:?} cut to {cut}");
            } else {
                assert!(NO_REPLY.contains(&opcode), "{opcode:?} cut to {cut}");
            }
            assert_eq!(world.stats.get(Counter::Malformed), malformed + 1, "{opcode:?} cut to {cut}");
            assert_eq!(world.holdings(), before, "{opcode:?} cut to {cut}");
            assert!(world.path("victim").exists() && !world.path("new").exists(), "{opcode:?} cut to {cut}");
        }
        if !matches!(opcode, Opcode::Init | Opcode::Destroy) {
            is_served(&mut guest);
        }
    }
}

#[test]
fn a_reply_without_room_is_refused_before_anything_happens() {
    for &opcode in Opcode::ALL {
        let (_, least) = well_formed(opcode, 0, 0);
        let fixed = !matches!(
            opcode,
            Opcode::Read | Opcode::Readdir | Opcode::Readdirplus | Opcode::Getxattr | Opcode::Listxattr
        );
        if !fixed || least == 0 {
            continue;
        }
        let (world, mut guest, node, fh) = furnished();
        let before = world.holdings();
        let (whole, room) = well_formed(opcode, node, fh);
        for short in 0..16 + room {
            let request = guest.request(opcode as u32, target(opcode, node), &whole.0);
            let (served, reply) = guest.raw(request, short);
            if short < 16 {
                assert_eq!(served, Served::Silent, "{opcode:?} with {short} bytes");
            } else {
                assert_eq!(served, Served::Reply(16), "{opcode:?} with {short} bytes");
                assert_eq!(u32_at(&reply, 4) as i32, -libc::EINVAL, "{opcode:?} with {short} bytes");
            }
            assert_eq!(world.holdings(), before, "{opcode:?} with {short} bytes");
        }
        assert!(world.path("victim").exists() && !world.path("new").exists(), "{opcode:?}");
        assert_eq!(fs::read_to_string(world.path("file")).expect("read"), "0123456789", "{opcode:?}");
    }
}

#[test]
fn every_complete_request_is_answered_whatever_its_node_and_handle() {
    let numbers = [0, 1, 2, 3, 99, 1 << 32, 1 | 1 << 32, u64::MAX, u64::MAX >> 1];
    for &opcode in Opcode::ALL {
        let (world, mut guest) = World::new();
        for node in numbers {
            for fh in numbers {
                guest.init(ALL_FLAGS).expect("INIT");
                world.write("file", "x");
                let (whole, room) = well_formed(opcode, node, fh);
                let request = guest.request(opcode as u32, node, &whole.0);
                let (served, _) = guest.raw(request, 16 + room);
                assert_eq!(matches!(served, Served::Silent), NO_REPLY.contains(&opcode), "{opcode:?}");
                assert!(world.verify().torn_nodes.is_empty());
            }
        }
    }
}

#[test]
fn no_request_takes_a_name_that_is_not_one_component() {
    let (world, mut guest, node, _) = furnished();
    world.mkdir("inside");
    let outside = fs_guest::Scratch::new();
    fs::write(outside.path.join("decoy"), "untouched").expect("decoy");
    let up = format!("../{}/decoy", outside.path.file_name().expect("name").to_string_lossy());
    let absolute = outside.path.join("decoy").to_string_lossy().into_owned();
    let dir = guest.lookup(ROOT, "inside").expect("LOOKUP").node;
    let before = world.holdings();
    for name in [&up[..], &absolute, "", ".", "..", "/", "a/b", "a/", "../x", "./x", "x/../../y"] {
        let one = [
            (Opcode::Mkdir, body().zeros(8).name(name)),
            (Opcode::Mknod, body().u32(libc::S_IFREG).zeros(12).name(name)),
            (Opcode::Create, body().u32(libc::O_RDWR as u32).zeros(12).name(name)),
            (Opcode::Symlink, body().name(name).name("target")),
            (Opcode::Unlink, body().name(name)),
            (Opcode::Rmdir, body().name(name)),
            (Opcode::Link, body().u64(node).name(name)),
            (Opcode::Rename, body().u64(ROOT).name(name).name("new")),
            (Opcode::Rename, body().u64(ROOT).name("victim").name(name)),
            (Opcode::Rename2, body().u64(ROOT).zeros(8).name(name).name("new")),
            (Opcode::Rename2, body().u64(ROOT).zeros(8).name("victim").name(name)),
            (Opcode::Rename2, body().u64(ROOT).u32(2).u32(0).name("victim").name(name)),
        ];
        for (opcode, body) in one {
            assert_eq!(guest.call(opcode, dir, &body, 144), Err(libc::EINVAL), "{opcode:?} {name:?}");
        }
        if !matches!(name, "." | "..") {
            assert_eq!(guest.lookup(dir, name), Err(libc::EINVAL), "LOOKUP {name:?}");
        }
    }
    assert_eq!(guest.mkdir(dir, &"x".repeat(256), 0o700), Err(libc::ENAMETOOLONG));
    assert_eq!(guest.lookup(dir, "x".repeat(4000)), Err(libc::ENAMETOOLONG));
    assert_eq!(world.holdings(), before);
    assert_eq!(fs::read_to_string(outside.path.join("decoy")).expect("read"), "untouched");
    assert_eq!(fs::read_dir(world.path("inside")).expect("list").count(), 0);
}

#[test]
fn a_name_with_an_inner_nul_or_without_an_end_is_malformed() {
    let (world, mut guest) = World::new();
    world.write("a", "");
    for request in [&b"a\0b\0"[..], b"a", b"a\0\0", b""] {
        assert_eq!(guest.call(Opcode::Lookup, ROOT, &body().bytes(request), 128), Err(libc::EINVAL), "{request:?}");
        assert_eq!(guest.call(Opcode::Unlink, ROOT, &body().bytes(request), 0), Err(libc::EINVAL), "{request:?}");
    }
    assert_eq!(guest.call(Opcode::Rename, ROOT, &body().u64(ROOT).name("a"), 0), Err(libc::EINVAL));
    assert_eq!(world.stats.get(Counter::Malformed), 9);
    assert!(world.path("a").exists());
}

#[test]
fn a_request_shorter_than_a_header_is_silent_and_a_lying_length_is_refused() {
    let (world, mut guest) = World::new();
    for length in 0..40 {
        assert_eq!(guest.raw(vec![0xff; length], 200).0, Served::Silent);
    }
    assert_eq!(world.stats.get(Counter::Malformed), 40);
    for length in [0u32, 39, 1000, u32::MAX] {
        let mut request = guest.request(Opcode::Getattr as u32, ROOT, &[0; 16]);
        request[0..4].copy_from_slice(&length.to_le_bytes());
        let (served, reply) = guest.raw(request, 200);
        assert_eq!((served, u32_at(&reply, 4) as i32), (Served::Reply(16), -libc::EINVAL), "length {length}");
    }
    let mut request = guest.request(Opcode::Lookup as u32, ROOT, b"missing\0trailing rubbish");
    request[0..4].copy_from_slice(&48u32.to_le_bytes());
    let (_, reply) = guest.raw(request, 200);
    assert_eq!(u32_at(&reply, 4) as i32, -libc::ENOENT, "bytes behind the header's length do not count");
}

#[test]
fn a_request_longer_than_any_of_its_kind_is_refused() {
    let (_world, mut guest) = World::new();
    assert_eq!(guest.call(Opcode::Lookup, ROOT, &body().bytes(&vec![b'x'; 1 << 20]), 128), Err(libc::EINVAL));
    let value = vec![7; 65537];
    let set = body().u32(65537).u32(0).name("user.x").bytes(&value);
    assert_eq!(guest.call(Opcode::Setxattr, ROOT, &set, 0), Err(libc::E2BIG));
    let lying = body().u32(u32::MAX).u32(0).name("user.x").bytes(b"x");
    assert_eq!(guest.call(Opcode::Setxattr, ROOT, &lying, 0), Err(libc::EINVAL));
    let get = body().u32(u32::MAX).u32(0).name("user.x");
    assert_eq!(guest.call(Opcode::Getxattr, ROOT, &get, 16), Err(libc::ENODATA));
}

#[test]
fn a_write_that_announces_more_than_it_carries_writes_nothing() {
    let (world, mut guest, node, fh) = furnished();
    let lying = body().u64(fh).u64(0).u32(100).zeros(20).bytes(b"short");
    assert_eq!(guest.call(Opcode::Write, node, &lying, 8), Err(libc::EINVAL));
    let less = body().u64(fh).u64(0).u32(2).zeros(20).bytes(b"XYZ");
    assert_eq!(guest.call(Opcode::Write, node, &less, 8).map(|reply| u32_at(&reply, 0)), Ok(2));
    assert_eq!(fs::read_to_string(world.path("file")).expect("read"), "XY23456789");
}

#[test]
fn no_request_moves_more_than_init_allows() {
    let (world, mut guest, node, fh) = furnished();
    fs::write(world.path("file"), vec![b'x'; 3 << 20]).expect("write");
    let read = body().u64(fh).u64(0).u32(3 << 20).zeros(20);
    assert_eq!(guest.call(Opcode::Read, node, &read, 3 << 20).map(|data| data.len()), Ok(1 << 20));
    let data = vec![b'y'; 2 << 20];
    assert_eq!(guest.write(node, fh, 0, &data), Ok(1 << 20), "a short count, as a full disk gives");
    let dir = guest.opendir(ROOT).expect("OPENDIR");
    let list = body().u64(dir).u64(0).u32(u32::MAX).zeros(20);
    assert!(guest.call(Opcode::Readdir, ROOT, &list, 2 << 20).is_ok());
}

#[test]
fn forgetting_too_much_or_the_root_does_no_harm() {
    let (world, mut guest, node, fh) = furnished();
    guest.forget(node, u64::MAX);
    assert_eq!(guest.read(node, fh, 0, 2).as_deref(), Ok(&b"01"[..]), "the handle keeps it");
    guest.forget(ROOT, u64::MAX);
    guest.forget(12345, 1);
    is_served(&mut guest);
    guest.release(node, fh).expect("RELEASE");
    assert_eq!(world.holdings(), (0, 0, 0));
    guest.forget(node, 1);
    assert_eq!(guest.getattr(node), Err(libc::ESTALE));
}

#[test]
fn a_file_handle_is_no_directory_handle() {
    let (_world, mut guest, node, fh) = furnished();
    assert_eq!(guest.readdir(node, fh, 0, 4096, false), Err(libc::ENOTDIR));
    let dir = guest.opendir(ROOT).expect("OPENDIR");
    assert_eq!(guest.read(ROOT, dir, 0, 4), Err(libc::EISDIR));
    assert_eq!(guest.write(ROOT, dir, 0, b"x"), Err(libc::EBADF));
    assert_eq!(guest.call(Opcode::Lseek, ROOT, &body().u64(dir).u64(0).u32(3).u32(0), 8), Err(libc::EINVAL));
    assert_eq!(guest.readdir(ROOT, dir, u64::MAX, 4096, false), Err(libc::EINVAL));
    assert!(guest.readdir(ROOT, dir, 0, 4096, false).is_ok());
}

#[test]
fn many_threads_may_serve_at_once() {
    let (world, mut guest) = World::unmounted(&config(), 4 << 20);
    guest.init(ALL_FLAGS).expect("INIT");
    world.mkdir("dir");
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let mut guest = world.guest();
            std::thread::spawn(move || {
                let dir = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
                for round in 0..200 {
                    let (name, other) = (format!("{thread}-{round}"), format!("{thread}-moved"));
                    let (entry, fh) = guest.create(dir, &name, libc::O_RDWR, 0o600).expect("CREATE");
                    assert_eq!(guest.write(entry.node, fh, 0, name.as_bytes()), Ok(name.len() as u32));
                    guest.rename(dir, &name, dir, &other).expect("RENAME");
                    assert_eq!(guest.getattr(entry.node).expect("GETATTR").size, name.len() as u64);
                    guest.release(entry.node, fh).expect("RELEASE");
                    assert_eq!(guest.lookup(dir, &other).expect("LOOKUP").node, entry.node);
                    guest.unlink(dir, &other).expect("UNLINK");
                    guest.forget(entry.node, 2);
                }
                guest.forget(dir, 1);
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a thread");
    }
    assert_eq!(world.holdings(), (0, 0, 0));
    assert_eq!(world.verify().nodes, 1);
}
