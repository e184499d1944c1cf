//! The host changes the share under a guest: what was looked up is found again, or is stale, and never another file.

mod fs_guest;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_guest::{body, config, u64_at, Guest, Scratch, Setattr, World, ALL_FLAGS, ROOT};
use virtiofs_worker::fuse::abi::setattr;
use virtiofs_worker::fuse::Opcode;

fn known(world: &World, guest: &mut Guest, name: &str, content: &str) -> u64 {
    world.write(name, content);
    guest.lookup(ROOT, name).expect("LOOKUP").node
}

fn make_fifo(path: &std::path::Path) {
    let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn a_file_that_the_host_moved_away_is_stale_until_it_is_found_again() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "content");
    fs::rename(world.path("file"), world.path("moved")).expect("rename");
    assert_eq!(guest.getattr(node), Err(libc::ESTALE));
    assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::ESTALE));
    assert_eq!(guest.lookup(ROOT, "moved").expect("LOOKUP").node, node);
    assert_eq!(guest.getattr(node).expect("GETATTR").size, 7);
}

#[test]
fn a_file_that_the_host_replaced_is_never_taken_for_the_old_one() {
    let (world, mut guest) = World::new();
    for round in 0..200 {
        let node = known(&world, &mut guest, "file", "old");
        fs::remove_file(world.path("file")).expect("remove");
        // The inode number comes back at once on some file systems, with the birth time of the same tick.
        world.write("file", "newer");
        assert_eq!(guest.getattr(node), Err(libc::ESTALE), "round {round}");
        assert_eq!(guest.open(node, libc::O_RDWR | libc::O_TRUNC), Err(libc::ESTALE), "round {round}");
        let size = Setattr { valid: setattr::SIZE, ..Setattr::default() };
        assert_eq!(guest.setattr(node, &size), Err(libc::ESTALE), "round {round}");
        let successor = guest.lookup(ROOT, "file").expect("LOOKUP");
        assert_ne!(successor.node, node, "round {round}");
        assert_eq!(fs::read_to_string(world.path("file")).expect("read"), "newer");
        guest.forget(node, 1);
        guest.forget(successor.node, 1);
        fs::remove_file(world.path("file")).expect("remove");
    }
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn an_old_file_is_known_by_its_birth_time_alone() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "content");
    World::age();
    assert_eq!(guest.lookup(ROOT, "file").expect("LOOKUP").node, node);
    assert_eq!(guest.getattr(node).expect("GETATTR").size, 7);
    fs::remove_file(world.path("file")).expect("remove");
    world.write("file", "x");
    assert_eq!(guest.getattr(node), Err(libc::ESTALE));
    guest.forget(node, 2);
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn a_fifo_in_place_of_a_file_blocks_nobody() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "content");
    fs::remove_file(world.path("file")).expect("remove");
    make_fifo(&world.path("file"));
    let begun = Instant::now();
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(guest.open(node, flags), Err(libc::ESTALE));
    }
    let fifo = guest.lookup(ROOT, "file").expect("LOOKUP").node;
    assert_eq!(guest.open(fifo, libc::O_RDONLY), Err(libc::ENXIO));
    assert_eq!(guest.create(ROOT, "file", libc::O_WRONLY, 0o600), Err(libc::ESTALE));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_link_in_place_of_a_file_or_directory_leads_nowhere() {
    let (world, mut guest) = World::new();
    let outside = Scratch::new();
    fs::write(outside.path.join("secret"), "decoy").expect("decoy");
    world.mkdir("dir");
    world.mkdir("dir/sub");
    world.write("dir/sub/secret", "ours");
    let file = guest.walk("dir/sub/secret").expect("walk").node;
    fs::rename(world.path("dir/sub"), world.path("dir/gone")).expect("rename");
    symlink(&outside.path, world.path("dir/sub")).expect("symlink");
    assert_eq!(guest.getattr(file).map(|attr| attr.size), Ok(4), "the descriptor of the directory is still held");
    let dir = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
    let link = guest.lookup(dir, "sub").expect("LOOKUP");
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(guest.lookup(link.node, "secret"), Err(libc::ENOTDIR));
    assert_eq!(guest.create(link.node, "x", libc::O_RDWR, 0o600), Err(libc::ENOTDIR));
    assert_eq!(guest.mkdir(link.node, "x", 0o700), Err(libc::ENOTDIR));
    assert_eq!(guest.unlink(link.node, "secret"), Err(libc::ENOTDIR));
    assert_eq!(guest.link(link.node, dir, "copy").map(|entry| entry.attr.mode & libc::S_IFMT), Ok(libc::S_IFLNK));
    assert_eq!(guest.create(dir, "sub", libc::O_RDWR | libc::O_TRUNC, 0o600), Err(libc::ESTALE));
    assert_eq!(fs::read_to_string(outside.path.join("secret")).expect("read"), "decoy");
    assert_eq!(fs::read_dir(&outside.path).expect("list").count(), 1);
}

#[test]
fn links_swapped_in_by_a_racing_host_never_open_what_lies_behind_them() {
    let outside = Scratch::new();
    fs::write(outside.path.join("file"), "decoy!").expect("decoy");
    let (world, mut guest) = World::unmounted(&config(), 4 << 20);
    guest.init(ALL_FLAGS).expect("INIT");
    world.mkdir("real");
    world.write("real/file", "ours");
    symlink(&outside.path, world.path("link")).expect("symlink");
    fs::rename(world.path("real"), world.path("dir")).expect("rename");
    let done = Arc::new(AtomicBool::new(false));
    let (stop, root) = (Arc::clone(&done), world.share.path.clone());
    let host = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // The directory and the link change places over and over.
            fs::rename(root.join("dir"), root.join("real")).expect("rename");
            fs::rename(root.join("link"), root.join("dir")).expect("rename");
            fs::rename(root.join("dir"), root.join("link")).expect("rename");
            fs::rename(root.join("real"), root.join("dir")).expect("rename");
        }
    });
    let (begun, mut opened) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_millis(700) {
        let Ok(dir) = guest.lookup(ROOT, "dir") else { continue };
        if let Ok(file) = guest.lookup(dir.node, "file") {
            assert_eq!(file.attr.size, 4);
            if let Ok(fh) = guest.open(file.node, libc::O_RDWR) {
                assert_eq!(guest.read(file.node, fh, 0, 9).as_deref(), Ok(&b"ours"[..]));
                guest.release(file.node, fh).expect("RELEASE");
                opened += 1;
            }
            guest.forget(file.node, 1);
        }
        if let Ok((made, fh)) = guest.create(dir.node, "new", libc::O_RDWR, 0o600) {
            guest.release(made.node, fh).expect("RELEASE");
            guest.forget(made.node, 1);
        }
        guest.forget(dir.node, 1);
    }
    done.store(true, Ordering::Relaxed);
    host.join().expect("the host's thread");
    assert!(opened > 10, "{opened} opens");
    assert_eq!(fs::read_dir(&outside.path).expect("list").count(), 1);
    assert_eq!(fs::read_to_string(outside.path.join("file")).expect("read"), "decoy!");
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn the_workers_own_renames_never_make_a_node_stale() {
    let (world, mut guest) = World::unmounted(&config(), 4 << 20);
    guest.init(ALL_FLAGS).expect("INIT");
    world.mkdir("a");
    world.mkdir("b");
    world.write("a/file", "content");
    let file = guest.walk("a/file").expect("walk").node;
    let done = Arc::new(AtomicBool::new(false));
    let (stop, mut mover) = (Arc::clone(&done), world.guest());
    let renames = std::thread::spawn(move || {
        let (a, b) = (mover.lookup(ROOT, "a").expect("a").node, mover.lookup(ROOT, "b").expect("b").node);
        while !stop.load(Ordering::Relaxed) {
            mover.rename(a, "file", b, "moved").expect("RENAME");
            mover.rename(b, "moved", a, "file").expect("RENAME");
        }
    });
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(guest.getattr(file).map(|attr| attr.size), Ok(7));
        let fh = guest.open(file, libc::O_RDONLY).expect("OPEN");
        guest.release(file, fh).expect("RELEASE");
    }
    done.store(true, Ordering::Relaxed);
    renames.join().expect("the renaming thread");
}

#[test]
fn directories_that_the_host_turned_inside_out_do_not_tie_the_table_in_a_ring() {
    let (world, mut guest) = World::new();
    world.mkdir("a");
    world.mkdir("a/b");
    let a = guest.lookup(ROOT, "a").expect("a").node;
    let b = guest.lookup(a, "b").expect("b").node;
    guest.opendir(b).expect("OPENDIR keeps b's descriptor");
    fs::rename(world.path("a/b"), world.path("b")).expect("rename");
    fs::rename(world.path("a"), world.path("b/a")).expect("rename");
    assert_eq!(guest.lookup(b, "a").expect("a below b").node, a);
    assert!(guest.getattr(a).is_ok() && guest.getattr(b).is_ok());
    assert_eq!(guest.lookup(ROOT, "b").expect("b").node, b);
    assert_eq!(guest.lookup(a, "..").expect("..").node, b);
    guest.forget(a, 9);
    guest.forget(b, 9);
    assert_eq!(world.holdings().0, 1, "b, for its handle");
}

#[test]
fn a_submount_is_announced_and_is_a_node_of_its_own() {
    let (world, _) = World::new();
    world.mkdir("plain");
    world.mkdir("mounted");
    world.write("plain/file", "x");
    let (plain, mounted) = (world.path("plain"), world.path("mounted"));
    let source = fs_guest::open_tree(&plain);
    fs_guest::attach(&source, &mounted);
    let (second, mut guest) = World::over(&world.share, &config());
    guest.init(ALL_FLAGS).expect("INIT");
    let plain = guest.lookup(ROOT, "plain").expect("plain");
    let mounted = guest.lookup(ROOT, "mounted").expect("mounted");
    assert_eq!((plain.attr.flags, mounted.attr.flags), (0, 1));
    assert_eq!(plain.attr.ino, mounted.attr.ino, "one directory, seen through two mounts");
    assert_ne!(plain.node, mounted.node);
    let (one, two) = (guest.lookup(plain.node, "file"), guest.lookup(mounted.node, "file"));
    assert_ne!(one.expect("file").node, two.expect("file").node);
    assert_eq!(guest.lookup(mounted.node, "..").expect("..").node, ROOT);
    assert_eq!(guest.rmdir(ROOT, "mounted"), Err(libc::EBUSY));
    drop(second);
    fs_guest::detach(&world.path("mounted"));
}

#[test]
fn without_birth_times_and_handles_a_descriptor_keeps_every_node_what_it_is() {
    let mounted = Scratch::new();
    fs_guest::mount_ramfs(&mounted.path);
    {
        let (world, mut guest) = World::over(&mounted, &config());
        guest.init(ALL_FLAGS).expect("INIT");
        let node = known(&world, &mut guest, "file", "old");
        assert_eq!(world.holdings(), (1, 0, 1));
        World::age();
        assert_eq!(guest.lookup(ROOT, "file").expect("LOOKUP").node, node);
        fs::remove_file(world.path("file")).expect("remove");
        world.write("file", "newer");
        assert_eq!(guest.getattr(node).map(|attr| (attr.size, attr.nlink)), Ok((3, 0)), "the old file, though gone");
        assert_ne!(guest.lookup(ROOT, "file").expect("LOOKUP").node, node);
        guest.forget(node, 2);
        assert_eq!(world.holdings(), (1, 0, 1));
    }
    fs_guest::detach(&mounted.path);
}

#[test]
fn a_file_made_by_the_host_while_it_was_missing_is_found() {
    let (world, mut guest) = World::new();
    assert_eq!(guest.lookup(ROOT, "late"), Err(libc::ENOENT));
    world.write("late", "x");
    let node = guest.lookup(ROOT, "late").expect("LOOKUP").node;
    let reply = guest.call(Opcode::Open, node, &body().zeros(8), 16).expect("OPEN");
    assert_ne!(u64_at(&reply, 0), 0);
}
