//! Random requests: against the host's own file system as the model, and as plain rubbish.

mod fs_guest;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use fs_guest::{config, ruled, rules, Guest, Picture, Scratch, Setattr, World, ALL_FLAGS, ROOT};
use proptest::prelude::*;
use virtiofs_worker::fuse::abi::setattr;
use virtiofs_worker::fuse::Opcode;

/// One step of a guest, by paths of at most three components.
#[derive(Clone, Debug)]
enum Step {
    Create(String),
    Write(String, u8),
    Truncate(String, u8),
    Mkdir(String),
    Symlink(String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String),
    Exchange(String, String),
    Chmod(String, u8),
    List(String),
    /// Keeps the file open until the end.
    Hold(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => path().prop_map(Step::Create),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Step::Write(path, byte)),
        1 => (path(), any::<u8>()).prop_map(|(path, size)| Step::Truncate(path, size)),
        4 => path().prop_map(Step::Mkdir),
        1 => path().prop_map(Step::Symlink),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        2 => path().prop_map(Step::Unlink),
        1 => path().prop_map(Step::Rmdir),
        3 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (path(), path()).prop_map(|(from, to)| Step::Exchange(from, to)),
        1 => (path(), any::<u8>()).prop_map(|(path, mode)| Step::Chmod(path, mode)),
        1 => path().prop_map(Step::List),
        1 => path().prop_map(Step::Hold),
    ]
}

/// A guest that remembers what it must give back.
struct Walker {
    guest: Guest,
    lookups: BTreeMap<u64, u64>,
    handles: Vec<(u64, u64)>,
    /// Paths that a listing showed.
    listed: Vec<String>,
}

impl Walker {
    fn new(guest: Guest) -> Self {
        Self { guest, lookups: BTreeMap::new(), handles: Vec::new(), listed: Vec::new() }
    }

    fn count(&mut self, node: u64) -> u64 {
        *self.lookups.entry(node).or_default() += 1;
        node
    }

    fn walk(&mut self, path: &str) -> Result<u64, i32> {
        let mut node = ROOT;
        for name in path.split('/') {
            node = self.guest.lookup(node, name)?.node;
            self.count(node);
        }
        Ok(node)
    }

    /// The directory above *path* and its last component.
    fn above<'p>(&mut self, path: &'p str) -> Result<(u64, &'p str), i32> {
        match path.rsplit_once('/') {
            Some((above, name)) => Ok((self.walk(above)?, name)),
            None => Ok((ROOT, path)),
        }
    }

    fn open(&mut self, path: &str, flags: i32) -> Result<(u64, u64), i32> {
        let node = self.walk(path)?;
        let fh = self.guest.open(node, flags)?;
        self.handles.push((node, fh));
        Ok((node, fh))
    }

    fn take(&mut self, step: &Step) -> Result<(), i32> {
        match step {
            Step::Create(path) => {
                let (parent, name) = self.above(path)?;
                let (entry, fh) = self.guest.create(parent, name, libc::O_RDWR | libc::O_EXCL, 0o600)?;
                self.count(entry.node);
                self.handles.push((entry.node, fh));
            }
            Step::Write(path, byte) => {
                let (node, fh) = self.open(path, libc::O_RDWR)?;
                assert_eq!(self.guest.write(node, fh, u64::from(*byte), &[*byte; 3]), Ok(3));
            }
            Step::Truncate(path, size) => {
                let node = self.walk(path)?;
                let change = Setattr { valid: setattr::SIZE, size: u64::from(*size), ..Setattr::default() };
                let attr = self.guest.setattr(node, &change)?;
                assert_eq!(attr.size, u64::from(*size));
            }
            Step::Mkdir(path) => {
                let (parent, name) = self.above(path)?;
                let node = self.guest.mkdir(parent, name, 0o700)?.node;
                self.count(node);
            }
            Step::Symlink(path) => {
                let (parent, name) = self.above(path)?;
                let node = self.guest.symlink(parent, name, "../x")?.node;
                self.count(node);
            }
            Step::Link(from, to) => {
                let (node, (parent, name)) = (self.walk(from)?, self.above(to)?);
                let linked = self.guest.link(node, parent, name)?.node;
                assert_eq!(self.count(linked), node);
            }
            Step::Unlink(path) => {
                let (parent, name) = self.above(path)?;
                self.guest.unlink(parent, name)?;
            }
            Step::Rmdir(path) => {
                let (parent, name) = self.above(path)?;
                self.guest.rmdir(parent, name)?;
            }
            Step::Rename(from, to) => {
                let ((parent, old), (target, new)) = (self.above(from)?, self.above(to)?);
                self.guest.rename(parent, old, target, new)?;
            }
            Step::Exchange(from, to) => {
                let ((parent, old), (target, new)) = (self.above(from)?, self.above(to)?);
                self.guest.rename2(parent, old, target, new, libc::RENAME_EXCHANGE)?;
            }
            Step::Chmod(path, mode) => {
                let node = self.walk(path)?;
                let change = Setattr { valid: setattr::MODE, mode: u32::from(*mode) | 0o700, ..Setattr::default() };
                self.guest.setattr(node, &change)?;
            }
            Step::List(path) => {
                let node = self.walk(path)?;
                self.guest.opendir(node).map(|fh| self.handles.push((node, fh)))?;
                let entries = self.guest.list(node, 300, true);
                self.listed.extend(entries.keys().map(|name| format!("{path}/{}", String::from_utf8_lossy(name))));
                for entry in entries.into_values().filter(|entry| entry.node != 0) {
                    self.count(entry.node);
                }
            }
            Step::Hold(path) => {
                self.open(path, libc::O_RDONLY)?;
            }
        }
        Ok(())
    }

    /// Every node that was looked up and not forgotten answers, whatever has happened to its name.
    fn all_answer(&mut self) {
        for &node in self.lookups.keys() {
            assert!(self.guest.getattr(node).is_ok(), "node {node:#x}");
        }
    }

    fn give_back(mut self) {
        for (node, fh) in self.handles {
            self.guest.release(node, fh).expect("RELEASE");
        }
        for (node, count) in self.lookups {
            self.guest.forget(node, count);
        }
    }
}

/// The same step by the host's own calls, without following links.
fn take_on_host(root: &Path, step: &Step) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    let is_open_able = |path: &Path| match fs::symlink_metadata(path)?.mode() & libc::S_IFMT {
        libc::S_IFREG => Ok(()),
        libc::S_IFDIR => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        _ => Err(io::Error::from_raw_os_error(libc::ENXIO)),
    };
    let write = |path: &str| {
        is_open_able(&at(path))?;
        fs::OpenOptions::new().write(true).open(at(path))
    };
    match step {
        Step::Create(path) => fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(at(path)).map(drop),
        Step::Write(path, byte) => {
            std::os::unix::fs::FileExt::write_all_at(&write(path)?, &[*byte; 3], u64::from(*byte))
        }
        Step::Truncate(path, size) => write(path)?.set_len(u64::from(*size)),
        Step::Mkdir(path) => fs::DirBuilder::new().mode(0o700).create(at(path)),
        Step::Symlink(path) => symlink("../x", at(path)),
        Step::Link(from, to) => fs::hard_link(at(from), at(to)),
        Step::Unlink(path) => {
            let path = CString::new(at(path).as_os_str().as_bytes())?;
            // SAFETY: the path is NUL-terminated.
            if unsafe { libc::unlink(path.as_ptr()) } == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        }
        Step::Rmdir(path) => fs::remove_dir(at(path)),
        Step::Rename(from, to) => fs::rename(at(from), at(to)),
        Step::Exchange(from, to) => {
            let from = CString::new(at(from).as_os_str().as_bytes())?;
            let to = CString::new(at(to).as_os_str().as_bytes())?;
            // SAFETY: the paths are NUL-terminated.
            let result = unsafe {
                let here = libc::AT_FDCWD;
                libc::renameat2(here, from.as_ptr(), here, to.as_ptr(), libc::RENAME_EXCHANGE)
            };
            if result == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        }
        // A link's own mode cannot be changed.
        Step::Chmod(path, _) if fs::symlink_metadata(at(path))?.is_symlink() => {
            Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
        }
        Step::Chmod(path, mode) => fs::set_permissions(at(path), fs::Permissions::from_mode(u32::from(*mode) | 0o700)),
        Step::List(path) if fs::symlink_metadata(at(path))?.is_dir() => Ok(()),
        Step::List(_) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        Step::Hold(path) => is_open_able(&at(path)),
    }
}

/// Path, type, link count and content of everything below *root*.
fn tree(root: &Path) -> BTreeMap<String, (u32, u64, Vec<u8>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path()) {
            let stat = fs::symlink_metadata(&entry).expect("stat");
            let content = if stat.is_file() { fs::read(&entry).expect("read") } else { Vec::new() };
            let name = entry.strip_prefix(root).expect("below").to_string_lossy().into_owned();
            found.insert(name, (stat.mode(), stat.nlink(), content));
            if stat.is_dir() {
                open.push(entry);
            }
        }
    }
    found
}

impl Step {
    fn paths(&self) -> Vec<&str> {
        match self {
            Self::Link(one, other) | Self::Rename(one, other) | Self::Exchange(one, other) => vec![one, other],
            Self::Create(path)
            | Self::Write(path, _)
            | Self::Truncate(path, _)
            | Self::Mkdir(path)
            | Self::Symlink(path)
            | Self::Unlink(path)
            | Self::Rmdir(path)
            | Self::Chmod(path, _)
            | Self::List(path)
            | Self::Hold(path) => vec![path],
        }
    }

    fn only_looks(&self) -> bool {
        matches!(self, Self::List(_) | Self::Hold(_))
    }

    fn moves(&self) -> bool {
        matches!(self, Self::Rename(..) | Self::Exchange(..))
    }
}

/// Whether one of the patterns, of names, `*` and `**`, covers the path: tries every way.
fn is_covered(patterns: &[&str], path: &str) -> bool {
    fn covers(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], _) => true,
            (["**", rest @ ..], []) => covers(rest, path),
            (["**", rest @ ..], [_, below @ ..]) => covers(rest, path) || covers(pattern, below),
            (_, []) => false,
            ([wanted, rest @ ..], [name, below @ ..]) => (*wanted == "*" || wanted == name) && covers(rest, below),
        }
    }
    let split = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let path = split(path);
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    patterns.iter().any(|pattern| covers(&pattern.split('/').collect::<Vec<_>>(), &path))
}

/// Hidden and frozen patterns.
type Ruling = (&'static [&'static str], &'static [&'static str]);

fn ruling() -> impl Strategy<Value = Ruling> {
    prop::sample::select(vec![
        (&["a/c"][..], &["b"][..]),
        (&["**/c/a"], &["a/*/b"]),
        (&["c"], &["**/b/c"]),
        (&["*/a"], &["a/b/c", "c/**"]),
        (&[], &["*/b"]),
    ])
}

/// Directories two deep and files below them, so that there is something to rule.
fn furnish(root: &Path) {
    for (outer, inner) in ["a", "b", "c"].into_iter().flat_map(|outer| ["a", "b", "c"].map(|inner| (outer, inner))) {
        let directory = root.join(outer).join(inner);
        fs::create_dir_all(&directory).expect("mkdir");
        if outer != inner {
            fs::write(directory.join("a"), format!("{outer}{inner}a")).expect("write");
            fs::write(directory.join("c"), format!("{outer}{inner}c")).expect("write");
        }
    }
}

/// Pictures of all that is hidden or frozen, in no order of paths: a directory above may have got another name.
fn ruled_pictures(root: &Path, (hide, readonly): Ruling) -> Vec<Picture> {
    let all = Picture::of_all(root).into_iter();
    let is_ruled = |path: &str| !path.is_empty() && (is_covered(hide, path) || is_covered(readonly, path));
    let relative = |path: &Path| path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
    let mut pictures: Vec<_> = all.filter(|(path, _)| is_ruled(&relative(path))).map(|(_, picture)| picture).collect();
    pictures.sort();
    pictures
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn under_rules_a_share_becomes_what_the_host_would_make_of_it_and_what_is_ruled_stays_as_it_is(
        ruling in ruling(), steps in prop::collection::vec(step(), 1..80),
    ) {
        let (hide, readonly) = ruling;
        let (world, guest) = World::with(&ruled(rules(hide, readonly)));
        let model = Scratch::new();
        furnish(&world.share.path);
        furnish(&model.path);
        let before = ruled_pictures(&world.share.path, ruling);
        let mut walker = Walker::new(guest);
        for (number, step) in steps.iter().enumerate() {
            let result = walker.take(step);
            let hidden = step.paths().iter().any(|path| is_covered(hide, path));
            let frozen = step.paths().iter().any(|path| is_covered(readonly, path));
            if hidden || frozen && !step.only_looks() {
                let Err(errno) = result else { panic!("step {number}: {step:?} was carried out") };
                prop_assert!(!matches!(errno, libc::ESTALE | libc::EIO | libc::EBADF), "step {}: {}", number, errno);
                continue;
            }
            if step.moves() && result == Err(libc::EXDEV) {
                continue;
            }
            let expected = take_on_host(&model.path, step);
            prop_assert_eq!(result.is_ok(), expected.is_ok(), "step {}: {:?} against {:?}", number, result, expected);
        }
        prop_assert!(walker.listed.iter().all(|path| !is_covered(hide, path)), "{:?}", walker.listed);
        prop_assert_eq!(ruled_pictures(&world.share.path, ruling), before);
        prop_assert_eq!(tree(&world.share.path), tree(&model.path));
        walker.all_answer();
        walker.give_back();
        prop_assert_eq!(world.holdings(), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_share_becomes_what_the_host_itself_would_make_of_it(steps in prop::collection::vec(step(), 1..80)) {
        let (world, guest) = World::new();
        let mut walker = Walker::new(guest);
        let model = Scratch::new();
        for (number, step) in steps.iter().enumerate() {
            let expected = take_on_host(&model.path, step).map_err(|error| error.raw_os_error().expect("errno"));
            let result = walker.take(step);
            prop_assert_eq!(result.is_ok(), expected.is_ok(), "step {}: {:?} against {:?}", number, result, expected);
            if let (Err(ours), Err(host)) = (result, expected) {
                // Which of two faults is reported may differ; that the guest sees neither ESTALE nor EIO does not.
                prop_assert!(ours == host || !matches!(ours, libc::ESTALE | libc::EIO | libc::EBADF | libc::ENFILE));
            }
        }
        prop_assert_eq!(tree(&world.share.path), tree(&model.path));
        walker.all_answer();
        prop_assert!(world.verify().torn_nodes.is_empty());
        walker.give_back();
        prop_assert_eq!(world.holdings(), (0, 0, 0));
    }

    #[test]
    fn rubbish_is_answered_and_changes_nothing_outside(
        requests in prop::collection::vec(
            (prop::sample::select(Opcode::ALL.to_vec()), 0u64..6, prop::collection::vec(0u8..4, 0..120), 0usize..300),
            1..60,
        ),
    ) {
        let (world, mut guest) = World::unmounted(&config(), 1 << 20);
        guest.init(ALL_FLAGS).expect("INIT");
        world.write("\u{1}", "file");
        world.mkdir("\u{2}");
        for (opcode, node, body, room) in requests {
            let request = guest.request(opcode as u32, node, &body);
            guest.raw(request, room);
        }
        prop_assert!(world.verify().torn_nodes.is_empty());
        guest.init(ALL_FLAGS).expect("INIT");
        prop_assert_eq!(world.holdings(), (0, 0, 0));
        prop_assert!(guest.getattr(ROOT).is_ok());
    }
}
