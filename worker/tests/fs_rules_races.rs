//! Guests that race with themselves against path rules: what is frozen never changes, what is ruled is never planted.

mod fs_guest;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_guest::{ruled, rules, Guest, Picture, Setattr, World, ALL_FLAGS, ROOT};
use virtiofs_worker::config::Rules;
use virtiofs_worker::fuse::abi::setattr;

const ROUND: Duration = Duration::from_millis(1500);

/// Guests that do one thing over and over until the time is up.
struct Attack {
    world: World,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Attack {
    fn on(rules: Rules) -> Self {
        let (world, mut guest) = World::unmounted(&ruled(rules), 8 << 20);
        guest.init(ALL_FLAGS).expect("INIT");
        Self { world, done: Arc::default(), threads: Vec::new() }
    }

    /// Failures do not matter: most of what an attacker tries is refused or comes too late.
    fn with(mut self, mut act: impl FnMut(&mut Guest) -> Result<(), i32> + Send + 'static) -> Self {
        let (mut guest, done) = (self.world.guest(), Arc::clone(&self.done));
        self.threads.push(std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let _ = act(&mut guest);
            }
        }));
        self
    }

    /// Lets them run, looking at the share again and again.
    fn run(self, mut look: impl FnMut(&World)) -> World {
        let begun = Instant::now();
        while begun.elapsed() < ROUND {
            look(&self.world);
        }
        self.done.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a guest"));
        look(&self.world);
        self.world
    }
}

/// Opens, writes, truncates and changes whatever is behind *path*.
fn spoil(guest: &mut Guest, path: &str) -> Result<(), i32> {
    let node = guest.walk(path)?.node;
    if let Ok(fh) = guest.open(node, libc::O_RDWR) {
        let _ = guest.write(node, fh, 0, b"evil");
        guest.release(node, fh)?;
    }
    for valid in [setattr::SIZE, setattr::MODE, setattr::MTIME] {
        let _ = guest.setattr(node, &Setattr { valid, mode: 0o777, ..Setattr::default() });
    }
    Ok(())
}

#[test]
fn frozen_content_never_changes_while_names_around_it_move() {
    let attack = Attack::on(rules(&[], &["*/locked", "home/keys/**"]));
    let world = &attack.world;
    for directory in ["home", "home/keys", "work", "work/locked", "work/sub"] {
        world.mkdir(directory);
    }
    for file in ["home/keys/id", "work/locked/file", "work/plain"] {
        world.write(file, "kept");
    }
    let frozen = |world: &World| {
        let keys = Picture::of_all(&world.path("home/keys"));
        // The directory above moves: where it is now does not matter.
        let work = ["work", "moved"].into_iter().find_map(|name| {
            let path = world.path(name).join("locked");
            path.exists().then(|| Picture::of_all(&path).into_values().collect::<Vec<_>>())
        });
        (keys, work)
    };
    let before = frozen(world);
    let names = ["work", "moved", "home", "home/keys", "home/other", "work/sub", "work/sub/locked"];
    let mut turn = 0;
    let attack = attack
        .with(|guest| {
            guest.rename(ROOT, "work", ROOT, "moved")?;
            guest.rename(ROOT, "moved", ROOT, "work")
        })
        .with(move |guest| {
            turn += 1;
            let (from, to) = (names[turn % names.len()], names[turn / names.len() % names.len()]);
            let split = |path: &'static str| path.rsplit_once('/').unwrap_or(("", path));
            let ((above, old), (below, new)) = (split(from), split(to));
            let walk = |guest: &mut Guest, path: &str| {
                if path.is_empty() {
                    Ok(ROOT)
                } else {
                    guest.walk(path).map(|entry| entry.node)
                }
            };
            let (source, target) = (walk(guest, above)?, walk(guest, below)?);
            guest.rename2(source, old, target, new, [0, libc::RENAME_EXCHANGE][turn % 2])
        })
        .with(|guest| spoil(guest, "work/locked/file"))
        .with(|guest| spoil(guest, "moved/locked/file"))
        .with(|guest| {
            let file = guest.walk("work/locked/file")?.node;
            let _ = guest.link(file, ROOT, "alias");
            let locked = guest.walk("work/locked")?.node;
            let _ = guest.create(locked, "new", libc::O_RDWR, 0o600);
            let _ = guest.unlink(locked, "file");
            spoil(guest, "alias")
        })
        .with(|guest| spoil(guest, "home/keys/id"));
    let world = attack.run(|_| std::thread::sleep(Duration::from_millis(20)));
    let _ = fs::rename(world.path("moved"), world.path("work"));
    assert_eq!(frozen(&world), before);
    assert!(!world.path("alias").exists());
}

#[test]
fn nothing_is_planted_under_a_ruled_name_by_changing_what_a_rename_moves() {
    // As long as `e` is a file it may be renamed to `d`; once it is a directory with `frozen` in it, it may not.
    let attack = Attack::on(rules(&["d/hidden"], &["d/frozen"]))
        .with(|guest| guest.rename(ROOT, "e", ROOT, "d"))
        .with(|guest| {
            guest.rename2(ROOT, "e", ROOT, "f", libc::RENAME_EXCHANGE)?;
            guest.rename(ROOT, "f", ROOT, "e")
        })
        .with(|guest| {
            let (file, fh) = guest.create(ROOT, "e", libc::O_RDWR, 0o600)?;
            guest.release(file.node, fh)?;
            guest.unlink(ROOT, "e")
        })
        .with(|guest| {
            let directory = guest.mkdir(ROOT, "e", 0o700)?.node;
            let frozen = guest.mkdir(directory, "frozen", 0o700).map(|entry| entry.node);
            let _ = guest.create(directory, "hidden", libc::O_RDWR, 0o600);
            frozen.map(drop)
        })
        .with(|guest| {
            let _ = guest.unlink(ROOT, "d");
            let directory = guest.lookup(ROOT, "e")?.node;
            let _ = guest.rmdir(directory, "frozen");
            let _ = guest.unlink(directory, "hidden");
            let _ = guest.rmdir(ROOT, "e");
            guest.rmdir(ROOT, "d")
        });
    attack.run(|world| {
        for planted in ["d/frozen", "d/hidden"] {
            assert!(fs::symlink_metadata(world.path(planted)).is_err(), "{planted}");
        }
    });
}

#[test]
fn a_frozen_file_with_a_second_name_is_not_written_once_its_frozen_name_was_seen() {
    let attack = Attack::on(rules(&[], &["frozen"]));
    attack.world.mkdir("frozen");
    attack.world.write("frozen/file", "kept");
    fs::hard_link(attack.world.path("frozen/file"), attack.world.path("link")).expect("link");
    attack.world.guest().walk("frozen/file").expect("seen");
    let before = Picture::of(&attack.world.path("frozen/file"));
    let attack = attack
        .with(|guest| spoil(guest, "link"))
        .with(|guest| {
            // Looked up and forgotten under both names, so that its node comes and goes.
            for path in ["frozen/file", "link"] {
                let node = guest.walk(path)?.node;
                guest.forget(node, 1000);
            }
            Ok(())
        })
        .with(|guest| {
            guest.rename(ROOT, "link", ROOT, "link2").and_then(|()| guest.rename(ROOT, "link2", ROOT, "link"))
        })
        .with(|guest| guest.unlink(ROOT, "link"))
        .with(|guest| guest.create(ROOT, "link", libc::O_RDWR | libc::O_TRUNC, 0o600).map(drop));
    let world = attack.run(|_| std::thread::sleep(Duration::from_millis(20)));
    assert_eq!(Picture::of(&world.path("frozen/file")), before);
}

#[test]
fn rules_that_change_all_the_time_never_let_a_name_through_that_all_of_them_hide() {
    let attack = Attack::on(rules(&["secret", "a"], &[]));
    attack.world.mkdir("secret");
    attack.world.write("secret/file", "kept");
    attack.world.mkdir("b");
    let seen = Arc::new(AtomicBool::new(false));
    let (one, other) = (Arc::clone(&seen), Arc::clone(&seen));
    let attack = attack
        .with(move |guest| {
            if guest.walk("secret/file").is_ok() || guest.mkdir(ROOT, "secret", 0o700) != Err(libc::EACCES) {
                one.store(true, Ordering::Relaxed);
            }
            Ok(())
        })
        .with(move |guest| {
            if guest.list(ROOT, 4096, true).contains_key(&b"secret"[..]) {
                other.store(true, Ordering::Relaxed);
            }
            Ok(())
        })
        .with(|guest| guest.rename(ROOT, "b", ROOT, "c").and_then(|()| guest.rename(ROOT, "c", ROOT, "b")));
    let mut turn = 0;
    let world = attack.run(|world| {
        turn += 1;
        let hide = [["secret", "a"], ["secret", "other"], ["sec*", "x"]][turn % 3];
        world.server.adopt(virtiofs_worker::rules::Rules::compile(&rules(&hide, &["z"])).expect("patterns"));
        std::thread::sleep(Duration::from_micros(300));
    });
    assert!(!seen.load(Ordering::Relaxed));
    assert_eq!(fs::read_to_string(world.path("secret/file")).expect("read"), "kept");
}
