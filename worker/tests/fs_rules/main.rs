//! Path rules, opcode by opcode: what is hidden is not there, what is frozen does not change.

mod attempts;
#[path = "../fs_guest/mod.rs"]
mod fs_guest;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use attempts::{additions, changes_of_name, changes_of_node, is_change, looks, Request, Target};
use fs_guest::{body, ruled, rules, Guest, Picture, Setattr, World, ROOT};
use virtiofs_worker::config::{Case, Rules};
use virtiofs_worker::fs::Served;
use virtiofs_worker::fuse::abi::setattr;
use virtiofs_worker::fuse::Opcode;

/// What works whatever the rules say.
const BOOKKEEPING: [Opcode; 7] = [
    Opcode::Init,
    Opcode::Destroy,
    Opcode::Interrupt,
    Opcode::Forget,
    Opcode::BatchForget,
    Opcode::Release,
    Opcode::Releasedir,
];
const SILENT: [Opcode; 3] = [Opcode::Interrupt, Opcode::Forget, Opcode::BatchForget];

/// A share with one directory to be ruled (`ruled/file`, `ruled/sub`, `outer/ruled/file`) and one that is free.
struct Scene {
    world: World,
    guest: Guest,
    ruled: Target,
    free: Target,
}

fn target(guest: &mut Guest, directory: &'static str, name: &'static str) -> Target {
    let node = guest.walk(&format!("{directory}/{name}")).expect("walk").node;
    let directory = guest.walk(directory).expect("walk").node;
    let fh = guest.open(node, libc::O_RDWR).expect("OPEN");
    let symlink = guest.lookup(directory, "symlink").map_or(0, |entry| entry.node);
    Target { directory, name, node, fh, directory_fh: guest.opendir(directory).expect("OPENDIR"), symlink }
}

fn set_attribute(path: &std::path::Path) {
    let path = std::ffi::CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
    // SAFETY: the strings are NUL-terminated, the value has the length passed.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), c"user.kept".as_ptr(), c"value".as_ptr().cast(), 5, 0) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

impl Scene {
    /// Everything is looked up and opened before the rules come.
    fn new() -> Self {
        let (world, mut guest) = World::new();
        for directory in ["ruled", "ruled/sub", "free", "outer", "outer/ruled"] {
            world.mkdir(directory);
        }
        for file in ["ruled/file", "ruled/victim", "free/file", "outer/ruled/file"] {
            world.write(file, "0123456789");
        }
        set_attribute(&world.path("ruled/file"));
        std::os::unix::fs::symlink("target", world.path("ruled/symlink")).expect("symlink");
        fs::hard_link(world.path("ruled/file"), world.path("free/link")).expect("link");
        let (ruled, free) = (target(&mut guest, "ruled", "file"), target(&mut guest, "free", "file"));
        Self { world, guest, ruled, free }
    }

    fn pictures(&self) -> BTreeMap<PathBuf, Picture> {
        Picture::of_all(&self.world.path("ruled"))
    }

    fn ask(&mut self, opcode: Opcode, (node, body, room): &Request) -> Result<Vec<u8>, i32> {
        self.guest.call(opcode, *node, body, *room)
    }

    fn all_get(&mut self, opcode: Opcode, requests: &[Request], errno: i32, case: &str) {
        for (number, request) in requests.iter().enumerate() {
            assert_eq!(self.ask(opcode, request), Err(errno), "{opcode:?} {number}: {case}");
        }
    }
}

#[test]
fn every_opcode_but_bookkeeping_is_refused_on_a_hidden_node() {
    for &opcode in Opcode::ALL {
        let mut scene = Scene::new();
        assert_eq!(scene.world.adopt(&rules(&["ruled"], &[])), 2, "both handles are revoked");
        let (ruled, free) = (scene.ruled, scene.free);
        let on_node = [changes_of_node(opcode, ruled, free), looks(opcode, ruled)].concat();
        let in_directory = [
            additions(opcode, ruled.directory, "new", free),
            changes_of_name(opcode, Target { name: "file", ..ruled }, free),
        ]
        .concat();
        let asked = on_node.len() + in_directory.len();
        assert_eq!(asked == 0, BOOKKEEPING.contains(&opcode), "{opcode:?} is judged by some request");
        scene.all_get(opcode, &on_node, libc::ENOENT, "on a hidden node");
        scene.all_get(opcode, &in_directory, libc::ENOENT, "in a hidden directory");
        if opcode == Opcode::CopyFileRange {
            let body = body().u64(ruled.fh).u64(0).u64(free.node).u64(free.fh).u64(0).u64(4).u64(0);
            scene.all_get(opcode, &[(ruled.node, body, 8)], libc::ENOENT, "from a hidden file");
        }
        assert_eq!(fs::read_to_string(scene.world.path("free/file")).expect("read"), "0123456789");
    }
}

#[test]
fn bookkeeping_works_on_hidden_nodes() {
    let mut scene = Scene::new();
    let Target { node, fh, directory, .. } = scene.ruled;
    scene.guest.forget(scene.ruled.symlink, 1);
    scene.world.adopt(&rules(&["ruled"], &[]));
    assert_eq!(scene.guest.release(node, fh), Err(libc::EBADF), "revoked, which a guest does not mind");
    let before = scene.world.holdings();
    scene.guest.forget(node, 1);
    let batch = scene.guest.request(Opcode::BatchForget as u32, 0, &body().u32(1).u32(0).u64(directory).u64(2).0);
    assert_eq!(scene.guest.raw(batch, 0).0, Served::Silent);
    assert_eq!(scene.world.holdings().0, before.0 - 2);
    let interrupt = scene.guest.request(Opcode::Interrupt as u32, node, &body().u64(0).0);
    assert_eq!(scene.guest.raw(interrupt, 0).0, Served::Silent);
    assert!(scene.guest.call(Opcode::Destroy, node, &body(), 0).is_ok());
    assert_eq!(SILENT.len() + 4, BOOKKEEPING.len());
}

#[test]
fn every_change_by_every_opcode_is_refused_in_a_frozen_subtree_and_every_look_is_not() {
    for &opcode in Opcode::ALL {
        let mut scene = Scene::new();
        assert_eq!(scene.world.adopt(&rules(&[], &["ruled"])), 0);
        let (ruled, free, before) = (scene.ruled, scene.free, scene.pictures());
        let file = Target { name: "victim", ..ruled };
        let directory = Target { name: "sub", node: ruled.directory, ..ruled };
        scene.all_get(opcode, &changes_of_node(opcode, ruled, free), libc::EROFS, "frozen, open before the rule");
        scene.all_get(opcode, &changes_of_node(opcode, directory, free), libc::EROFS, "a frozen directory");
        let symlink = Target { node: ruled.symlink, ..ruled };
        scene.all_get(opcode, &changes_of_node(opcode, symlink, free), libc::EROFS, "a frozen symbolic link");
        scene.all_get(opcode, &changes_of_name(opcode, file, free), libc::EROFS, "frozen parent");
        scene.all_get(opcode, &changes_of_name(opcode, directory, free), libc::EROFS, "a directory in it");
        scene.all_get(opcode, &additions(opcode, ruled.directory, "new", free), libc::EROFS, "into it");
        let top = Target { directory: ROOT, name: "ruled", ..ruled };
        scene.all_get(opcode, &changes_of_name(opcode, top, free), libc::EROFS, "its own name");
        for request in looks(opcode, ruled) {
            assert!(scene.ask(opcode, &request).is_ok(), "{opcode:?} may look");
        }
        assert_eq!(scene.pictures(), before, "{opcode:?}");
        let changes = is_change(opcode, ruled);
        assert!(changes || !looks(opcode, ruled).is_empty() || BOOKKEEPING.contains(&opcode), "{opcode:?}");
    }
}

#[test]
fn a_file_seen_under_its_frozen_name_is_frozen_under_every_other() {
    for forgets in [false, true] {
        for &opcode in Opcode::ALL {
            let mut scene = Scene::new();
            let free = scene.free;
            scene.world.adopt(&rules(&[], &["ruled"]));
            let seen = scene.guest.walk("ruled/file").expect("walk").node;
            if forgets {
                scene.guest.release(seen, scene.ruled.fh).expect("RELEASE");
                scene.guest.forget(seen, 9);
                assert_eq!(scene.guest.getattr(seen), Err(libc::ESTALE));
            }
            let link = scene.guest.lookup(free.directory, "link").expect("LOOKUP").node;
            let fh = if forgets { scene.guest.open(link, libc::O_RDONLY).expect("OPEN") } else { scene.ruled.fh };
            let second = Target { name: "link", node: link, fh, ..free };
            let before = scene.pictures();
            scene.all_get(opcode, &changes_of_node(opcode, second, free), libc::EROFS, "by its second name");
            if opcode != Opcode::Rmdir {
                scene.all_get(opcode, &changes_of_name(opcode, second, free), libc::EROFS, "its second name itself");
            }
            assert_eq!(scene.pictures(), before, "{opcode:?}");
        }
    }
}

#[test]
fn a_second_name_found_first_is_frozen_once_the_frozen_one_is_seen() {
    let (world, mut guest) = World::with(&ruled(rules(&[], &["ruled"])));
    world.mkdir("ruled");
    world.write("ruled/file", "kept");
    fs::hard_link(world.path("ruled/file"), world.path("link")).expect("link");
    let link = guest.lookup(ROOT, "link").expect("LOOKUP").node;
    let fh = guest.open(link, libc::O_RDWR).expect("nobody can know yet");
    let directory = guest.lookup(ROOT, "ruled").expect("LOOKUP").node;
    guest.list(directory, 4096, true);
    assert_eq!(guest.write(link, fh, 0, b"evil"), Err(libc::EROFS), "seen by READDIRPLUS, though opened before");
    assert_eq!(guest.lookup(ROOT, "link").expect("LOOKUP").node, link);
    assert_eq!(guest.open(link, libc::O_WRONLY), Err(libc::EROFS));
    assert_eq!(guest.create(ROOT, "link", libc::O_RDWR | libc::O_TRUNC, 0o600), Err(libc::EROFS));
    assert_eq!(fs::read_to_string(world.path("link")).expect("read"), "kept");
    assert!(guest.create(ROOT, "link", libc::O_RDONLY, 0o600).is_ok(), "opened to read, by a guest that was late");
}

#[test]
fn a_file_known_by_a_name_that_is_frozen_later_stays_frozen_under_its_second_name() {
    let mut scene = Scene::new();
    scene.world.adopt(&rules(&[], &["ruled"]));
    let link = scene.guest.lookup(scene.free.directory, "link").expect("LOOKUP").node;
    assert_eq!(link, scene.ruled.node);
    assert_eq!(scene.guest.open(link, libc::O_RDWR), Err(libc::EROFS));
    assert_eq!(scene.guest.write(link, scene.ruled.fh, 0, b"evil"), Err(libc::EROFS));
}

#[test]
fn what_is_no_longer_frozen_may_be_written_again() {
    let mut scene = Scene::new();
    let Target { node, fh, .. } = scene.ruled;
    scene.world.adopt(&rules(&[], &["ruled"]));
    scene.guest.walk("ruled/file").expect("walk");
    scene.world.adopt(&rules(&["hidden"], &["ruled"]));
    scene.guest.lookup(scene.free.directory, "link").expect("LOOKUP");
    assert_eq!(scene.guest.write(node, fh, 0, b"evil"), Err(libc::EROFS), "other rules, and still frozen");
    scene.world.adopt(&rules(&[], &[]));
    assert_eq!(scene.guest.write(node, fh, 0, b"fine"), Ok(4));
    scene.world.adopt(&rules(&[], &["other"]));
    assert_eq!(scene.guest.write(node, fh, 0, b"fine"), Ok(4));
}

#[test]
fn a_hidden_name_is_answered_alike_whether_it_exists_or_not() {
    let hiding = || ruled(rules(&["hidden", "*/hidden"], &[]));
    let ask = |exists: bool| {
        let (world, mut guest) = World::with(&hiding());
        world.mkdir("free");
        world.write("free/file", "x");
        if exists {
            world.mkdir("hidden");
            world.write("free/hidden", "x");
        }
        let free = target(&mut guest, "free", "file");
        let mut answers = Vec::new();
        for &opcode in Opcode::ALL {
            for (directory, name) in [(ROOT, "hidden"), (free.directory, "hidden")] {
                let hidden = Target { directory, name, ..free };
                let requests = [changes_of_name(opcode, hidden, free), additions(opcode, directory, name, free)];
                for request in requests.concat() {
                    answers.push((opcode, guest.call(opcode, request.0, &request.1, request.2)));
                }
                if opcode == Opcode::Lookup {
                    answers.push((opcode, guest.call(opcode, directory, &body().name(name), 128)));
                }
            }
        }
        assert_eq!(world.path("hidden").exists() && world.path("free/hidden").exists(), exists);
        assert_eq!(fs::read_to_string(world.path("free/file")).expect("read"), "x");
        answers
    };
    let (there, missing) = (ask(true), ask(false));
    assert_eq!(there, missing);
    for (opcode, answer) in there {
        let expected = match opcode {
            Opcode::Lookup | Opcode::Unlink | Opcode::Rmdir => &[libc::ENOENT][..],
            Opcode::Rename | Opcode::Rename2 => &[libc::ENOENT, libc::EACCES],
            _ => &[libc::EACCES],
        };
        assert!(answer.as_ref().is_err_and(|errno| expected.contains(errno)), "{opcode:?}: {answer:?}");
    }
}

#[test]
fn hidden_names_are_not_listed_and_every_other_is_listed_once() {
    let (world, mut guest) = World::with(&ruled(rules(&["dir/*.key", "dir/a*"], &[])));
    world.mkdir("dir");
    for number in 0..300 {
        world.write(format!("dir/file-{number}"), "");
        world.write(format!("dir/{number}.key"), "");
        world.write(format!("dir/a{number}"), "");
    }
    let directory = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
    for plus in [false, true] {
        for size in [300, 1000, 4096, 65536] {
            let listed = guest.list(directory, size, plus);
            assert_eq!(listed.len(), 302, "{size} {plus}: the files and two dots");
            assert!(listed.keys().all(|name| name.starts_with(b"file-") || name.starts_with(b".")));
        }
    }
    // Every cookie leads on to the same rest.
    let fh = guest.opendir(directory).expect("OPENDIR");
    let all = guest.readdir(directory, fh, 0, 65536, false).expect("READDIR");
    for (index, entry) in all.iter().enumerate().step_by(37) {
        let rest = guest.readdir(directory, fh, entry.offset, 65536, false).expect("READDIR");
        assert_eq!(rest, all[index + 1..], "from entry {index}");
    }
}

#[test]
fn a_directory_of_hidden_names_alone_is_listed_as_empty() {
    let (world, mut guest) = World::with(&ruled(rules(&["dir/*"], &[])));
    world.mkdir("dir");
    for number in 0..2000 {
        world.write(format!("dir/{number}"), "");
    }
    let directory = guest.lookup(ROOT, "dir").expect("LOOKUP").node;
    assert_eq!(guest.list(directory, 300, true).len(), 2);
    assert_eq!(guest.rmdir(ROOT, "dir"), Err(libc::ENOTEMPTY));
}

#[test]
fn an_allow_list_shows_what_it_covers_and_the_directories_that_lead_there() {
    let allow = vec!["a/b/*.txt".to_owned(), "pub".to_owned()];
    let (world, mut guest) = World::with(&ruled(Rules { allow, ..Rules::default() }));
    for directory in ["a", "a/b", "a/c", "pub", "pub/any", "other"] {
        world.mkdir(directory);
    }
    for file in ["a/b/x.txt", "a/b/x.key", "a/file", "pub/any/thing", "top"] {
        world.write(file, "x");
    }
    let names = |guest: &mut Guest, path: &str| {
        let node = if path.is_empty() { ROOT } else { guest.walk(path).expect("walk").node };
        let mut names: Vec<_> = guest.list(node, 4096, true).into_keys().collect();
        names.retain(|name| !name.starts_with(b"."));
        names.sort();
        names.into_iter().map(|name| String::from_utf8(name).expect("text")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(&mut guest, ""), "a pub");
    assert_eq!(names(&mut guest, "a"), "b");
    assert_eq!(names(&mut guest, "a/b"), "x.txt");
    assert_eq!(names(&mut guest, "pub/any"), "thing");
    assert_eq!(guest.walk("top").map(|entry| entry.node), Err(libc::ENOENT));
    assert_eq!(guest.walk("a/c").map(|entry| entry.node), Err(libc::ENOENT));
    let (a, b) = (guest.walk("a").expect("a").node, guest.walk("a/b").expect("b").node);
    assert_eq!(guest.mkdir(ROOT, "new", 0o700), Err(libc::EACCES));
    assert_eq!(guest.create(b, "y.key", libc::O_RDWR, 0o600), Err(libc::EACCES));
    assert!(guest.create(b, "y.txt", libc::O_RDWR, 0o600).is_ok());
    // A file may not take the place that only a directory is visible in.
    fs::remove_file(world.path("a/b/x.key")).expect("remove");
    assert_eq!(guest.rename(b, "y.txt", a, "b2"), Err(libc::EACCES));
    assert_eq!(guest.rename(a, "b", a, "d"), Err(libc::EACCES));
    for name in ["x.txt", "y.txt"] {
        guest.unlink(b, name).expect("UNLINK");
    }
    guest.rmdir(a, "b").expect("RMDIR");
    assert_eq!(guest.create(a, "b", libc::O_RDWR, 0o600), Err(libc::EACCES));
    assert_eq!(guest.symlink(a, "b", "x"), Err(libc::EACCES));
    assert!(guest.mkdir(a, "b", 0o700).is_ok());
}

#[test]
fn renaming_a_directory_needs_equal_states_of_old_and_new_place() {
    let (world, mut guest) = World::with(&ruled(rules(&["secrets/key", "**/.env"], &["etc/*/conf", "fixed"])));
    for directory in ["etc", "etc/app", "etc/app/conf", "plain", "plain/sub", "secrets", "fixed"] {
        world.mkdir(directory);
    }
    world.write("plain/.env", "hidden and stays so");
    let (etc, plain) = (guest.walk("etc").expect("etc").node, guest.walk("plain").expect("plain").node);
    assert_eq!(guest.rename(ROOT, "etc", ROOT, "moved"), Err(libc::EXDEV), "conf would thaw");
    assert_eq!(guest.rename(etc, "app", ROOT, "app"), Err(libc::EXDEV));
    assert_eq!(guest.rename(ROOT, "secrets", plain, "secrets"), Err(libc::EXDEV), "key would appear");
    assert_eq!(guest.rename(plain, "sub", etc, "sub"), Err(libc::EXDEV), "what is in it would freeze");
    assert_eq!(guest.rename2(plain, "sub", etc, "app", libc::RENAME_EXCHANGE), Err(libc::EXDEV));
    assert_eq!(guest.rename2(etc, "app", plain, "sub", libc::RENAME_EXCHANGE), Err(libc::EXDEV));
    assert_eq!(guest.rename(plain, "sub", ROOT, "fixed"), Err(libc::EROFS));
    guest.rename(etc, "app", etc, "application").expect("equal states, though something in it is frozen");
    let conf = guest.walk("etc/application/conf").expect("walk").node;
    assert_eq!(guest.mkdir(conf, "new", 0o700), Err(libc::EROFS));
    guest.rename(ROOT, "plain", ROOT, "renamed").expect("**/.env is the same everywhere");
    assert_eq!(guest.walk("renamed/.env").map(|entry| entry.node), Err(libc::ENOENT));
    assert_eq!(guest.mkdir(plain, ".env", 0o700), Err(libc::EACCES));
}

#[test]
fn no_device_node_stays_where_only_directories_are_visible() {
    let (world, mut guest) = World::with(&ruled(Rules { allow: vec!["*/pub".into()], ..Rules::default() }));
    world.mkdir("one");
    assert_eq!(guest.rename2(ROOT, "one", ROOT, "two", libc::RENAME_WHITEOUT), Err(libc::EACCES));
    assert!(world.path("one").is_dir());
    guest.rename2(ROOT, "one", ROOT, "two", 0).expect("RENAME2");
}

#[test]
fn a_file_may_be_renamed_wherever_neither_name_is_ruled() {
    let (world, mut guest) = World::with(&ruled(rules(&["a/key"], &["a/conf"])));
    world.mkdir("a");
    world.write("file", "x");
    let a = guest.lookup(ROOT, "a").expect("LOOKUP").node;
    guest.rename(ROOT, "file", a, "file").expect("RENAME");
    assert_eq!(guest.rename(a, "file", a, "key"), Err(libc::EACCES));
    assert_eq!(guest.rename(a, "file", a, "conf"), Err(libc::EROFS));
    guest.rename(a, "file", ROOT, "a2").expect("RENAME");
    assert_eq!(guest.rename2(ROOT, "a2", ROOT, "a", libc::RENAME_EXCHANGE), Err(libc::EXDEV));
    guest.rename2(ROOT, "a2", ROOT, "whited", libc::RENAME_WHITEOUT).expect("RENAME2");
}

#[test]
fn names_that_differ_in_case_alone_are_ruled_alike_where_the_policy_says_so() {
    let insensitive = Rules { case: Case::Insensitive, ..rules(&["Secrets", "\u{e4}*"], &[".git/HOOKS"]) };
    let (world, mut guest) = World::with(&ruled(insensitive));
    world.mkdir("SECRETS");
    world.mkdir(".Git");
    world.mkdir(".Git/hooks");
    world.write(".Git/hooks/run", "kept");
    assert_eq!(guest.lookup(ROOT, "SECRETS"), Err(libc::ENOENT));
    assert_eq!(guest.mkdir(ROOT, "secretS", 0o700), Err(libc::EACCES));
    assert_eq!(guest.mkdir(ROOT, "\u{c4}rger", 0o700), Err(libc::EACCES));
    let run = guest.walk(".Git/hooks/run").expect("walk").node;
    assert_eq!(guest.open(run, libc::O_RDWR), Err(libc::EROFS));
    let git = guest_node(&mut guest, ".Git");
    assert_eq!(guest.mkdir(git, "Hooks", 0o700), Err(libc::EROFS));
    assert_eq!(guest.list(ROOT, 4096, true).len(), 3);
}

fn guest_node(guest: &mut Guest, path: &str) -> u64 {
    guest.walk(path).expect("walk").node
}

#[test]
fn strict_links_refuse_to_write_files_with_several_names() {
    let strict = Rules { strict_links: true, ..rules(&[], &["ruled"]) };
    let (world, mut guest) = World::with(&ruled(strict));
    world.mkdir("ruled");
    world.write("ruled/file", "kept");
    fs::hard_link(world.path("ruled/file"), world.path("link")).expect("link");
    world.write("alone", "x");
    let (link, alone) = (guest_node(&mut guest, "link"), guest_node(&mut guest, "alone"));
    let free = Target { directory: ROOT, name: "alone", node: alone, fh: 0, directory_fh: 0, symlink: 0 };
    let second = Target { name: "link", node: link, ..free };
    let before = Picture::of(&world.path("link"));
    for opcode in [Opcode::Open, Opcode::Setattr, Opcode::Setxattr, Opcode::Removexattr, Opcode::Link, Opcode::Access] {
        for request in changes_of_node(opcode, second, free) {
            assert_eq!(guest.call(opcode, request.0, &request.1, request.2), Err(libc::EROFS), "{opcode:?}");
        }
    }
    assert_eq!(guest.create(ROOT, "link", libc::O_RDWR, 0o600), Err(libc::EROFS));
    assert_eq!(Picture::of(&world.path("link")), before);
    assert!(guest.open(link, libc::O_RDONLY).is_ok());
    let fh = guest.open(alone, libc::O_RDWR).expect("OPEN");
    assert_eq!(guest.write(alone, fh, 0, b"y"), Ok(1));
    guest.link(alone, ROOT, "pair").expect("LINK");
    assert_eq!(guest.write(alone, fh, 0, b"z"), Err(libc::EROFS), "it has several names now");
    guest.unlink(ROOT, "pair").expect("UNLINK");
    assert_eq!(guest.write(alone, fh, 0, b"z"), Ok(1));
}

#[test]
fn the_root_of_a_tree_takes_no_changes_and_what_is_mounted_there_does() {
    let tree = virtiofs_worker::config::Config { tree: true, ..fs_guest::config() };
    let (world, mut guest) = World::with(&tree);
    world.mkdir("child");
    world.write("child/file", "x");
    let child = target(&mut guest, "child", "file");
    for &opcode in Opcode::ALL {
        let root = Target { directory: ROOT, name: "child", node: ROOT, ..child };
        let mut requests = changes_of_name(opcode, root, child);
        requests.extend(additions(opcode, ROOT, "new", child));
        if !matches!(opcode, Opcode::Open | Opcode::Write | Opcode::Fallocate | Opcode::CopyFileRange) {
            requests.extend(changes_of_node(opcode, root, child));
        }
        for request in requests {
            assert_eq!(guest.call(opcode, request.0, &request.1, request.2), Err(libc::EROFS), "{opcode:?}");
        }
    }
    assert_eq!(guest.write(child.node, child.fh, 0, b"y"), Ok(1));
    assert!(guest.mkdir(child.directory, "new", 0o700).is_ok());
    let mode = Setattr { valid: setattr::MODE, mode: 0o750, ..Setattr::default() };
    assert!(guest.setattr(child.directory, &mode).is_ok());
    assert_eq!(guest.list(ROOT, 4096, true).len(), 3);
}

#[test]
fn an_unlinked_file_keeps_the_state_of_its_last_name() {
    let mut scene = Scene::new();
    let Target { node, fh, directory, .. } = scene.ruled;
    let (free, free_fh) = (scene.free.node, scene.free.fh);
    scene.guest.unlink(directory, "file").expect("UNLINK");
    scene.guest.unlink(scene.free.directory, "file").expect("UNLINK");
    scene.world.adopt(&rules(&[], &["ruled"]));
    assert_eq!(scene.guest.write(node, fh, 0, b"evil"), Err(libc::EROFS));
    assert_eq!(scene.guest.read(node, fh, 0, 4).as_deref(), Ok(&b"0123"[..]));
    assert_eq!(scene.guest.write(free, free_fh, 0, b"fine"), Ok(4));
    scene.world.adopt(&rules(&["ruled"], &[]));
    assert_eq!(scene.guest.read(node, fh, 0, 4), Err(libc::ENOENT));
    scene.world.adopt(&rules(&[], &[]));
    assert_eq!(scene.guest.read(node, fh, 0, 4), Err(libc::EBADF), "its handle was revoked, and nothing leads to it");
    assert_eq!(scene.guest.getattr(node), Err(libc::ESTALE));
}

#[test]
fn the_host_s_renames_carry_nodes_into_other_states() {
    let (world, mut guest) = World::with(&ruled(rules(&["hidden"], &["frozen"])));
    world.mkdir("free");
    world.mkdir("free/sub");
    world.write("free/sub/file", "x");
    let file = guest.walk("free/sub/file").expect("walk").node;
    assert!(guest.open(file, libc::O_RDWR).is_ok());
    fs::rename(world.path("free"), world.path("frozen")).expect("rename");
    assert_eq!(guest.walk("frozen/sub/file").expect("walk").node, file);
    assert_eq!(guest.open(file, libc::O_RDWR), Err(libc::EROFS));
    fs::rename(world.path("frozen"), world.path("free")).expect("rename");
    assert_eq!(guest.walk("free/sub/file").expect("walk").node, file);
    assert_eq!(guest.open(file, libc::O_RDWR), Err(libc::EROFS), "seen frozen, for as long as it is known");
    let sub = guest_node(&mut guest, "free/sub");
    assert_eq!(guest.mkdir(sub, "new", 0o700), Err(libc::EROFS), "the directory as well");
    fs::rename(world.path("free"), world.path("hidden")).expect("rename");
    assert_eq!(guest.lookup(ROOT, "hidden"), Err(libc::ENOENT));
}

#[test]
fn a_node_without_a_path_is_hidden() {
    let (world, mut guest) = World::with(&ruled(rules(&[], &["frozen"])));
    world.mkdir("a");
    world.mkdir("a/b");
    let a = guest.lookup(ROOT, "a").expect("a").node;
    let b = guest.lookup(a, "b").expect("b").node;
    guest.opendir(b).expect("OPENDIR keeps b's descriptor");
    fs::rename(world.path("a/b"), world.path("b")).expect("rename");
    fs::rename(world.path("a"), world.path("b/a")).expect("rename");
    assert_eq!(guest.lookup(b, "a").expect("a below b").node, a);
    assert_eq!(guest.getattr(b), Err(libc::ENOENT), "what leads to b is not known until it is looked up again");
    assert_eq!(guest.getattr(a), Err(libc::ENOENT));
    assert_eq!(guest.lookup(ROOT, "b").expect("b").node, b);
    assert!(guest.getattr(a).is_ok() && guest.getattr(b).is_ok());
}

#[test]
fn what_a_rule_hides_live_is_closed_so_that_a_mount_is_not_kept_busy() {
    let (world, mut guest) = World::new();
    world.mkdir("child");
    let mount = world.path("child");
    fs_guest::mount_ramfs(&mount);
    let (second, mut other) = World::over(&world.share, &fs_guest::config());
    other.init(fs_guest::ALL_FLAGS).expect("INIT");
    fs::create_dir(mount.join("sub")).expect("mkdir");
    fs::write(mount.join("sub/file"), "x").expect("write");
    fs::write(mount.join("gone"), "x").expect("write");
    let file = other.walk("child/sub/file").expect("walk").node;
    let child = other.walk("child").expect("walk").node;
    other.open(file, libc::O_RDWR).expect("OPEN");
    other.opendir(child).expect("OPENDIR");
    let gone = other.lookup(child, "gone").expect("LOOKUP").node;
    let kept = other.open(gone, libc::O_RDWR).expect("OPEN");
    other.unlink(child, "gone").expect("UNLINK");
    assert!(second.holdings().2 > 4);
    assert_eq!(second.adopt(&rules(&["child"], &[])), 3);
    assert_eq!((second.holdings().1, second.holdings().2), (0, 0), "no handle and no descriptor is left");
    assert_eq!(other.getattr(file), Err(libc::ENOENT));
    assert_eq!(other.read(gone, kept, 0, 1), Err(libc::ENOENT));
    assert_eq!(other.list(ROOT, 4096, true).len(), 2);
    drop(guest.init(fs_guest::ALL_FLAGS));
    fs_guest::detach(&mount);
}
