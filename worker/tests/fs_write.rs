//! Changing a share: what is created, written, moved and removed, and what the nodes behind it become.

mod fs_guest;

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

use fs_guest::{body, config, keep_capabilities, u32_at, u64_at, Guest, Setattr, World, ROOT};
use virtiofs_worker::config::{Config, Ids};
use virtiofs_worker::fuse::abi::{setattr, WRITE_CACHE};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::stats::Counter;

/// A file that the guest knows, as (node, nothing open).
fn known(world: &World, guest: &mut Guest, name: &str, content: &str) -> u64 {
    world.write(name, content);
    guest.lookup(ROOT, name).expect("LOOKUP").node
}

#[test]
fn what_is_created_and_written_is_on_the_host() {
    let (world, mut guest) = World::new();
    let (entry, fh) = guest.create(ROOT, "file", libc::O_RDWR, 0o640).expect("CREATE");
    assert_eq!(guest.write(entry.node, fh, 0, b"hello world"), Ok(11));
    assert_eq!(guest.write(entry.node, fh, 6, b"there"), Ok(5));
    assert_eq!(guest.read(entry.node, fh, 0, 100).as_deref(), Ok(&b"hello there"[..]));
    assert_eq!(fs::read_to_string(world.path("file")).expect("read"), "hello there");
    assert_eq!(fs::metadata(world.path("file")).expect("stat").mode(), libc::S_IFREG | 0o640);
    assert_eq!(guest.getattr(entry.node).expect("GETATTR").size, 11);
    assert_eq!(world.stats.get(Counter::BytesWritten), 16);
    guest.release(entry.node, fh).expect("RELEASE");
    guest.forget(entry.node, 1);
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn a_large_write_from_many_ranges_arrives_in_order() {
    use virtiofs_worker::buffers::Buffers;
    let (world, mut guest) = World::new();
    let (entry, fh) = guest.create(ROOT, "file", libc::O_RDWR, 0o600).expect("CREATE");
    let data: Vec<u8> = (0..600_000u32).map(|number| (number % 251) as u8).collect();
    let write = body().u64(fh).u64(0).u32(data.len() as u32).zeros(20).bytes(&data);
    let mut request = guest.request(Opcode::Write as u32, entry.node, &write.0);
    let mut buffers = Buffers::new();
    for part in request.chunks_mut(333) {
        // SAFETY: the vector outlives the buffers and is not touched otherwise meanwhile.
        unsafe { buffers.push(part.as_mut_ptr(), part.len()) };
    }
    let mut reply = [0; 24];
    guest.server.serve(&mut guest.state, &buffers, &Buffers::of(&mut reply));
    assert_eq!(u32_at(&reply, 16), 600_000, "more ranges than one system call takes");
    assert_eq!(fs::read(world.path("file")).expect("read"), data);
}

#[test]
fn appending_is_done_by_each_uncached_write() {
    let (world, mut guest) = World::new();
    let (entry, fh) = guest.create(ROOT, "log", libc::O_WRONLY | libc::O_APPEND, 0o600).expect("CREATE");
    guest.write_with(entry.node, fh, 0, b"one", 0, libc::O_APPEND).expect("WRITE");
    guest.write_with(entry.node, fh, 0, b"two", 0, libc::O_APPEND).expect("WRITE");
    guest.write_with(entry.node, fh, 0, b"O", WRITE_CACHE, libc::O_APPEND).expect("WRITE");
    assert_eq!(fs::read_to_string(world.path("log")).expect("read"), "Onetwo", "cached pages go where they were");
}

#[test]
fn create_opens_what_somebody_else_made_meanwhile() {
    let (world, mut guest) = World::new();
    world.write("file", "old");
    assert_eq!(guest.create(ROOT, "file", libc::O_RDWR | libc::O_EXCL, 0o600), Err(libc::EEXIST));
    let (entry, fh) = guest.create(ROOT, "file", libc::O_RDWR, 0o600).expect("CREATE");
    assert_eq!(guest.read(entry.node, fh, 0, 10).as_deref(), Ok(&b"old"[..]));
    let (_, fh) = guest.create(ROOT, "file", libc::O_RDWR | libc::O_TRUNC, 0o600).expect("CREATE");
    assert_eq!(guest.read(entry.node, fh, 0, 10).as_deref(), Ok(&b""[..]));
    world.mkdir("dir");
    assert_eq!(guest.create(ROOT, "dir", libc::O_RDWR, 0o600), Err(libc::ESTALE), "the guest looks again");
    assert_eq!(world.holdings().0, 1, "a refused CREATE leaves no count behind");
}

#[test]
fn open_truncates_after_it_has_the_right_file() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "content");
    for access in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY] {
        world.write("file", "content");
        let fh = guest.open(node, access | libc::O_TRUNC).expect("OPEN");
        assert_eq!(fs::read_to_string(world.path("file")).expect("read"), "");
        assert_eq!(guest.write(node, fh, 0, b"x").is_ok(), access != libc::O_RDONLY);
    }
    assert_eq!(guest.open(node, libc::O_ACCMODE), Err(libc::EINVAL));
}

#[test]
fn writeback_makes_write_only_files_readable_for_the_guests_cache() {
    let (world, mut guest) = World::with(&Config { writeback: true, ..config() });
    let (entry, fh) = guest.create(ROOT, "new", libc::O_WRONLY, 0o600).expect("CREATE");
    guest.write(entry.node, fh, 0, b"abc").expect("WRITE");
    assert_eq!(guest.read(entry.node, fh, 0, 3).as_deref(), Ok(&b"abc"[..]));
    let node = known(&world, &mut guest, "old", "xyz");
    let fh = guest.open(node, libc::O_WRONLY).expect("OPEN");
    assert_eq!(guest.read(node, fh, 0, 3).as_deref(), Ok(&b"xyz"[..]));
}

#[test]
fn every_kind_of_node_can_be_made() {
    let (world, mut guest) = World::new();
    let dir = guest.mkdir(ROOT, "dir", 0o1770).expect("MKDIR");
    assert_eq!(dir.attr.mode, libc::S_IFDIR | 0o1770);
    assert_eq!(guest.mkdir(ROOT, "dir", 0o700), Err(libc::EEXIST));
    let link = guest.symlink(ROOT, "link", "../../etc/passwd").expect("SYMLINK");
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(fs::read_link(world.path("link")).expect("readlink").to_str(), Some("../../etc/passwd"));
    guest.mknod(dir.node, "fifo", libc::S_IFIFO | 0o600, 0).expect("MKNOD");
    guest.mknod(dir.node, "socket", libc::S_IFSOCK | 0o600, 0).expect("MKNOD");
    let file = guest.mknod(dir.node, "file", libc::S_IFREG | 0o644, 0).expect("MKNOD");
    assert!(fs::metadata(world.path("dir/fifo")).expect("stat").file_type().is_fifo());
    assert_eq!(fs::metadata(world.path("dir/file")).expect("stat").ino(), file.attr.ino);
    assert_eq!(guest.mknod(ROOT, "x", 0o644, 0), Err(libc::EINVAL), "no type");
    assert_eq!(guest.mknod(ROOT, "x", libc::S_IFDIR | 0o755, 0), Err(libc::EINVAL));
    assert_eq!(guest.symlink(ROOT, "empty", ""), Err(libc::ENOENT));
}

#[test]
fn new_files_belong_to_the_caller() {
    keep_capabilities();
    let (world, _) = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o700)).expect("chmod");
    let mut guest = Guest { uid: 1234, gid: 5678, ..world.guest() };
    guest.create(ROOT, "file", libc::O_RDWR, 0o600).expect("CREATE");
    guest.mkdir(ROOT, "dir", 0o700).expect("MKDIR");
    guest.symlink(ROOT, "link", "x").expect("SYMLINK");
    guest.mknod(ROOT, "fifo", libc::S_IFIFO | 0o600, 0).expect("MKNOD");
    for name in ["file", "dir", "link", "fifo"] {
        let stat = fs::symlink_metadata(world.path(name)).expect("stat");
        assert_eq!((stat.uid(), stat.gid()), (1234, 5678), "{name}");
    }
    guest.uid = 0;
    guest.gid = 0;
    let (entry, _) = guest.create(ROOT, "roots", libc::O_RDWR, 0o600).expect("CREATE");
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0), "the thread's own ids are back");
    guest.uid = u32::MAX;
    assert_eq!(guest.mkdir(ROOT, "nobody", 0o700), Err(libc::EPERM), "an id the kernel does not take");
}

#[test]
fn with_own_ids_new_files_belong_to_the_worker() {
    let (_world, mut guest) = World::with(&Config { ids: Ids::Own, ..config() });
    guest.uid = 1234;
    let entry = guest.mkdir(ROOT, "dir", 0o700).expect("MKDIR");
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
}

#[test]
fn attributes_are_set_with_and_without_a_handle() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "0123456789");
    let mode = Setattr { valid: setattr::MODE, mode: 0o4711, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &mode).expect("mode").mode & 0o7777, 0o4711);
    let owner = Setattr { valid: setattr::UID | setattr::MODE, uid: 77, mode: 0o4700, ..Setattr::default() };
    let attr = guest.setattr(node, &owner).expect("owner and mode");
    assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (77, 0, 0o4700), "the set-id bit is set after the owner");
    let size = Setattr { valid: setattr::SIZE, size: 4, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &size).expect("size").size, 4);
    let fh = guest.open(node, libc::O_RDWR).expect("OPEN");
    let size = Setattr { valid: setattr::SIZE | setattr::FH, fh, size: 6, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &size).expect("size by handle").size, 6);
    let times = Setattr { valid: setattr::ATIME | setattr::MTIME, atime: 1000, mtime: 2000, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &times).expect("times").mtime, 2000);
    assert_eq!(fs::metadata(world.path("file")).expect("stat").atime(), 1000);
    let now = Setattr { valid: setattr::MTIME | setattr::MTIME_NOW, ..Setattr::default() };
    assert!(guest.setattr(node, &now).expect("now").mtime > 1_700_000_000);
    assert_eq!(fs::metadata(world.path("file")).expect("stat").atime(), 1000, "left alone");
    let bad = Setattr { valid: setattr::FH | setattr::SIZE, fh: 1 << 33, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &bad), Err(libc::EBADF));
    let dir = Setattr { valid: setattr::SIZE, size: 4, ..Setattr::default() };
    assert_eq!(guest.setattr(ROOT, &dir), Err(libc::EISDIR));
}

#[test]
fn attributes_of_links_and_fifos_are_their_own() {
    let (world, mut guest) = World::new();
    world.write("target", "x");
    let link = guest.symlink(ROOT, "link", "target").expect("SYMLINK").node;
    let fifo = guest.mknod(ROOT, "fifo", libc::S_IFIFO | 0o600, 0).expect("MKNOD").node;
    let owner = Setattr { valid: setattr::UID, uid: 9, ..Setattr::default() };
    assert_eq!(guest.setattr(link, &owner).expect("owner of a link").uid, 9);
    assert_eq!(fs::metadata(world.path("target")).expect("stat").uid(), 0, "not the target's");
    let mode = Setattr { valid: setattr::MODE, mode: 0o644, ..Setattr::default() };
    assert_eq!(guest.setattr(fifo, &mode).expect("mode of a FIFO").mode & 0o777, 0o644);
    assert_eq!(guest.setattr(link, &mode), Err(libc::EOPNOTSUPP));
    let size = Setattr { valid: setattr::SIZE, ..Setattr::default() };
    assert_eq!(guest.setattr(fifo, &size), Err(libc::EINVAL));
}

#[test]
fn hard_links_are_one_node_that_survives_either_name() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "one", "content");
    let linked = guest.link(node, ROOT, "two").expect("LINK");
    assert_eq!((linked.node, linked.attr.nlink), (node, 2));
    guest.unlink(ROOT, "two").expect("UNLINK");
    assert_eq!(guest.getattr(node).expect("GETATTR").nlink, 1, "the reference was to the name that went");
    assert_eq!(guest.lookup(ROOT, "one").expect("LOOKUP").node, node);
    guest.forget(node, 3);
    assert_eq!(world.holdings(), (0, 0, 0));
    world.mkdir("dir");
    let dir = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
    assert_eq!(guest.link(dir, ROOT, "x"), Err(libc::EPERM));
    let soft = guest.symlink(ROOT, "soft", "one").expect("SYMLINK");
    assert_eq!(guest.link(soft.node, ROOT, "soft too").expect("LINK of a link").attr.nlink, 2);
}

#[test]
fn an_unlinked_file_lives_on_while_it_is_open_or_referenced() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "content");
    let fh = guest.open(node, libc::O_RDWR).expect("OPEN");
    guest.unlink(ROOT, "file").expect("UNLINK");
    assert!(!world.path("file").exists());
    world.write("file", "another");
    assert_eq!(guest.read(node, fh, 0, 7).as_deref(), Ok(&b"content"[..]));
    assert_eq!(guest.getattr(node).expect("GETATTR").nlink, 0);
    guest.release(node, fh).expect("RELEASE");
    assert_eq!(guest.getattr(node).expect("GETATTR").size, 7, "pinned until it is forgotten");
    let fh = guest.open(node, libc::O_RDONLY).expect("OPEN of an unlinked file");
    assert_eq!(guest.read(node, fh, 0, 7).as_deref(), Ok(&b"content"[..]));
    assert_ne!(guest.lookup(ROOT, "file").expect("LOOKUP").node, node);
    guest.release(node, fh).expect("RELEASE");
    guest.forget(node, 1);
    assert_eq!(guest.getattr(node), Err(libc::ESTALE));
}

#[test]
fn a_removal_that_fails_pins_nothing() {
    let (world, mut guest) = World::new();
    world.mkdir("dir");
    world.write("dir/file", "");
    let dir = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
    assert_eq!(guest.rmdir(ROOT, "dir"), Err(libc::ENOTEMPTY));
    assert_eq!(guest.unlink(ROOT, "dir"), Err(libc::EISDIR));
    assert_eq!(guest.rmdir(dir, "file"), Err(libc::ENOTDIR));
    assert_eq!(guest.unlink(ROOT, "missing"), Err(libc::ENOENT));
    guest.unlink(dir, "file").expect("UNLINK");
    guest.rmdir(ROOT, "dir").expect("RMDIR");
    assert_eq!(guest.create(dir, "x", libc::O_RDWR, 0o600), Err(libc::ENOENT), "a directory without a name");
    assert_eq!(guest.getattr(dir).expect("GETATTR").nlink, 0);
    guest.forget(dir, 1);
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn nodes_follow_their_renames() {
    let (world, mut guest) = World::new();
    world.mkdir("a");
    world.mkdir("b");
    world.write("a/file", "content");
    let (a, b) = (guest.lookup(ROOT, "a").expect("a").node, guest.lookup(ROOT, "b").expect("b").node);
    let file = guest.lookup(a, "file").expect("file").node;
    guest.rename(a, "file", b, "moved").expect("RENAME");
    assert_eq!(guest.getattr(file).expect("GETATTR").size, 7);
    guest.rename(ROOT, "b", a, "c").expect("RENAME of the directory above");
    assert_eq!(fs::read_to_string(world.path("a/c/moved")).expect("read"), "content");
    assert_eq!(guest.getattr(file).expect("GETATTR").size, 7);
    assert_eq!(guest.lookup(b, "..").expect("..").node, a);
    assert_eq!(guest.rename(ROOT, "a", b, "x"), Err(libc::EINVAL), "into itself");
    assert_eq!(guest.rename(ROOT, "missing", b, "x"), Err(libc::ENOENT));
    for (node, count) in [(file, 1), (b, 1), (a, 2)] {
        guest.forget(node, count);
    }
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn a_file_that_a_rename_replaces_stays_usable() {
    let (world, mut guest) = World::new();
    let (new, old) = (known(&world, &mut guest, "new", "new"), known(&world, &mut guest, "old", "older"));
    guest.rename(ROOT, "new", ROOT, "old").expect("RENAME");
    assert_eq!(fs::read_to_string(world.path("old")).expect("read"), "new");
    assert_eq!(guest.getattr(old).expect("replaced").size, 5);
    assert_eq!(guest.getattr(new).expect("moved").size, 3);
    let fh = guest.open(old, libc::O_RDONLY).expect("OPEN");
    assert_eq!(guest.read(old, fh, 0, 9).as_deref(), Ok(&b"older"[..]));
    assert_eq!(guest.lookup(ROOT, "old").expect("LOOKUP").node, new);
}

#[test]
fn rename_flags_are_obeyed() {
    let (world, mut guest) = World::new();
    let (one, two) = (known(&world, &mut guest, "one", "1"), known(&world, &mut guest, "two", "22"));
    assert_eq!(guest.rename2(ROOT, "one", ROOT, "two", libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    guest.rename2(ROOT, "one", ROOT, "two", libc::RENAME_EXCHANGE).expect("EXCHANGE");
    assert_eq!(fs::read_to_string(world.path("one")).expect("read"), "22");
    assert_eq!((guest.getattr(one).expect("one").size, guest.getattr(two).expect("two").size), (1, 2));
    assert_eq!(guest.lookup(ROOT, "two").expect("LOOKUP").node, one);
    assert_eq!(guest.rename2(ROOT, "one", ROOT, "three", libc::RENAME_EXCHANGE), Err(libc::ENOENT));
    assert_eq!(guest.rename2(ROOT, "one", ROOT, "three", 8), Err(libc::EINVAL));
    guest.rename2(ROOT, "one", ROOT, "three", 0).expect("RENAME2");
}

#[test]
fn renaming_one_link_onto_another_of_the_same_file_changes_nothing() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "a", "x");
    guest.link(node, ROOT, "b").expect("LINK");
    guest.rename(ROOT, "a", ROOT, "b").expect("RENAME");
    assert!(world.path("a").exists() && world.path("b").exists());
    assert_eq!(guest.getattr(node).expect("GETATTR").nlink, 2);
    guest.forget(node, 2);
    assert_eq!(world.holdings(), (0, 0, 0));
}

#[test]
fn space_is_allocated_found_and_copied() {
    let (world, mut guest) = World::new();
    let (from, from_fh) = guest.create(ROOT, "from", libc::O_RDWR, 0o600).expect("CREATE");
    let allocate = body().u64(from_fh).u64(0).u64(1 << 20).u32(0).u32(0);
    guest.call(Opcode::Fallocate, from.node, &allocate, 0).expect("FALLOCATE");
    assert_eq!(guest.getattr(from.node).expect("GETATTR").size, 1 << 20);
    let punch = body().u64(from_fh).u64(0).u64(65536).u32(3).u32(0);
    guest.call(Opcode::Fallocate, from.node, &punch, 0).expect("FALLOCATE with a hole");
    guest.write(from.node, from_fh, 65536, b"data").expect("WRITE");
    let seek = |whence: u32| body().u64(from_fh).u64(0).u32(whence).u32(0);
    let data = guest.call(Opcode::Lseek, from.node, &seek(libc::SEEK_DATA as u32), 8).expect("LSEEK");
    assert_eq!(u64_at(&data, 0), 65536);
    assert_eq!(guest.call(Opcode::Lseek, from.node, &seek(libc::SEEK_CUR as u32), 8), Err(libc::EINVAL));
    let (to, to_fh) = guest.create(ROOT, "to", libc::O_RDWR, 0o600).expect("CREATE");
    let copy = |flags: u64| body().u64(from_fh).u64(65536).u64(to.node).u64(to_fh).u64(0).u64(4).u64(flags);
    let copied = guest.call(Opcode::CopyFileRange, from.node, &copy(0), 8).expect("COPY_FILE_RANGE");
    assert_eq!(u32_at(&copied, 0), 4);
    assert_eq!(fs::read(world.path("to")).expect("read"), b"data");
    assert_eq!(guest.call(Opcode::CopyFileRange, from.node, &copy(1), 8), Err(libc::EINVAL));
    guest.call(Opcode::Syncfs, ROOT, &body().u64(0), 0).expect("SYNCFS");
}

#[test]
fn access_is_judged_by_owner_and_mode() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "");
    fs::set_permissions(world.path("file"), fs::Permissions::from_mode(0o640)).expect("chmod");
    let ask = |mask: i32| body().u32(mask as u32).u32(0);
    assert_eq!(guest.call(Opcode::Access, node, &ask(libc::R_OK | libc::W_OK), 0), Ok(vec![]));
    assert_eq!(guest.call(Opcode::Access, node, &ask(libc::X_OK), 0), Err(libc::EACCES));
    guest.uid = 5;
    assert_eq!(guest.call(Opcode::Access, node, &ask(libc::R_OK), 0), Ok(vec![]), "the group");
    assert_eq!(guest.call(Opcode::Access, node, &ask(libc::W_OK), 0), Err(libc::EACCES));
    assert_eq!(guest.call(Opcode::Access, node, &ask(8), 0), Err(libc::EINVAL));
}

fn attribute(guest: &mut Guest, node: u64, name: &str, value: &[u8]) -> Result<(), i32> {
    let set = body().u32(value.len() as u32).u32(0).name(name).bytes(value);
    guest.call(Opcode::Setxattr, node, &set, 0).map(drop)
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let (world, mut guest) = World::new();
    let file = known(&world, &mut guest, "file", "");
    let link = guest.symlink(ROOT, "link", "file").expect("SYMLINK").node;
    for (node, name) in [(file, "user.one"), (ROOT, "user.one"), (link, "trusted.one")] {
        attribute(&mut guest, node, name, b"value").expect("SETXATTR");
        let get = |size: u32| body().u32(size).u32(0).name(name);
        assert_eq!(guest.call(Opcode::Getxattr, node, &get(64), 64).as_deref(), Ok(&b"value"[..]));
        let length = guest.call(Opcode::Getxattr, node, &get(0), 8).expect("length");
        assert_eq!(u32_at(&length, 0), 5);
        assert_eq!(guest.call(Opcode::Getxattr, node, &get(2), 64), Err(libc::ERANGE));
        let list = guest.call(Opcode::Listxattr, node, &body().u32(100).u32(0), 100).expect("LISTXATTR");
        assert_eq!(list, [name.as_bytes(), b"\0"].concat());
        let length = guest.call(Opcode::Listxattr, node, &body().u32(0).u32(0), 8).expect("length");
        assert_eq!(u32_at(&length, 0) as usize, list.len());
        guest.call(Opcode::Removexattr, node, &body().name(name), 0).expect("REMOVEXATTR");
        assert_eq!(guest.call(Opcode::Getxattr, node, &get(64), 64), Err(libc::ENODATA));
    }
    assert_eq!(attribute(&mut guest, file, "system.posix_acl_access", b"x"), Err(libc::EOPNOTSUPP));
    assert_eq!(attribute(&mut guest, file, "", b"x"), Err(libc::ERANGE));
    assert_eq!(attribute(&mut guest, file, &"x".repeat(256), b"x"), Err(libc::ERANGE));
}

/// Makes the calls of Linux 6.13 unknown to this thread.
fn without_relative_calls() {
    const OFFSET_OF_NUMBER: u32 = 0;
    let (load, at_least, above, answer) = (0x20, 0x35, 0x25, 0x06);
    let filter = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: OFFSET_OF_NUMBER },
        libc::sock_filter { code: at_least, jt: 0, jf: 2, k: 463 },
        libc::sock_filter { code: above, jt: 1, jf: 0, k: 466 },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its instructions live through the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn older_kernels_have_extended_attributes_of_files_and_directories_only() {
    let (world, mut guest) = World::new();
    without_relative_calls();
    let file = known(&world, &mut guest, "file", "");
    let link = guest.symlink(ROOT, "link", "file").expect("SYMLINK").node;
    for node in [file, ROOT] {
        attribute(&mut guest, node, "user.one", b"value").expect("SETXATTR");
        let get = body().u32(64).u32(0).name("user.one");
        assert_eq!(guest.call(Opcode::Getxattr, node, &get, 64).as_deref(), Ok(&b"value"[..]));
        let list = guest.call(Opcode::Listxattr, node, &body().u32(100).u32(0), 100);
        assert_eq!(list.as_deref(), Ok(&b"user.one\0"[..]));
        guest.call(Opcode::Removexattr, node, &body().name("user.one"), 0).expect("REMOVEXATTR");
    }
    assert_eq!(attribute(&mut guest, link, "trusted.one", b"value"), Err(libc::EOPNOTSUPP));
    assert_eq!(world.holdings().2, 2, "what was opened for the calls is closed: the two nodes stay");
}

#[test]
fn without_extended_attributes_in_the_policy_none_of_the_calls_exists() {
    let (world, mut guest) = World::with(&Config { xattr: false, ..config() });
    let node = known(&world, &mut guest, "file", "");
    assert_eq!(attribute(&mut guest, node, "user.one", b"value"), Err(libc::ENOSYS));
    assert_eq!(guest.call(Opcode::Getxattr, node, &body().u32(9).u32(0).name("user.one"), 9), Err(libc::ENOSYS));
}

#[test]
fn a_read_only_share_refuses_every_change() {
    let (world, mut guest) = World::with(&Config { readonly: true, ..config() });
    let node = known(&world, &mut guest, "file", "content");
    assert_eq!(guest.create(ROOT, "x", libc::O_RDONLY, 0o600), Err(libc::EROFS));
    assert_eq!(guest.mkdir(ROOT, "x", 0o700), Err(libc::EROFS));
    assert_eq!(guest.mknod(ROOT, "x", libc::S_IFREG, 0), Err(libc::EROFS));
    assert_eq!(guest.symlink(ROOT, "x", "y"), Err(libc::EROFS));
    assert_eq!(guest.link(node, ROOT, "x"), Err(libc::EROFS));
    assert_eq!(guest.unlink(ROOT, "file"), Err(libc::EROFS));
    assert_eq!(guest.rmdir(ROOT, "file"), Err(libc::EROFS));
    assert_eq!(guest.rename(ROOT, "file", ROOT, "x"), Err(libc::EROFS));
    assert_eq!(guest.rename2(ROOT, "file", ROOT, "x", 0), Err(libc::EROFS));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(node, flags), Err(libc::EROFS));
    }
    let mode = Setattr { valid: setattr::MODE, ..Setattr::default() };
    assert_eq!(guest.setattr(node, &mode), Err(libc::EROFS));
    assert_eq!(attribute(&mut guest, node, "user.one", b"x"), Err(libc::EROFS));
    assert_eq!(guest.call(Opcode::Access, node, &body().u32(2).u32(0), 0), Err(libc::EROFS));
    let fh = guest.open(node, libc::O_RDONLY).expect("OPEN");
    assert_eq!(guest.write(node, fh, 0, b"x"), Err(libc::EROFS));
    assert_eq!(guest.call(Opcode::Fallocate, node, &body().u64(fh).zeros(24), 0), Err(libc::EROFS));
    assert_eq!(guest.read(node, fh, 0, 7).as_deref(), Ok(&b"content"[..]));
}

#[test]
fn sync_flags_reach_the_host_and_others_do_not() {
    let (world, mut guest) = World::new();
    let node = known(&world, &mut guest, "file", "x");
    let wild = libc::O_RDWR | libc::O_SYNC | libc::O_APPEND | libc::O_DIRECT | libc::O_NOATIME | libc::O_CREAT;
    let fh = guest.open(node, wild).expect("OPEN");
    guest.write(node, fh, 0, b"y").expect("an unaligned write");
    let mut content = [0; 2];
    let file = fs::File::open(world.path("file")).expect("open");
    assert_eq!((file.read_at(&mut content, 0).expect("read"), content[0]), (1, b'y'), "not appended");
}
