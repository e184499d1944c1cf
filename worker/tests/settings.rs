//! SETTINGS under a running session: when they hold, what they close, and how they are refused. Runs the real binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use support::guest::{kick, Guest};
use support::monitor::{Events, Monitor};
use support::{memfd, Worker, GENERATION, LIMIT};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::ipc::{Exit, Kind, Message};
use virtiofs_worker::stats::Counter;

const ROOT: u64 = 1;

fn settings(hide: &str, readonly: &str, level: &str) -> OwnedFd {
    let document = format!(
        r#"{{"rules": {{"hide": [{hide}], "readonly": [{readonly}], "allow": [], "case": "sensitive",
             "strict_links": false}}, "limits": null, "log_level": "{level}"}}"#
    );
    memfd(document.as_bytes(), true)
}

fn order(worker: &Worker, serial: u64, document: &OwnedFd) {
    let message = Message { a: serial, ..Message::new(Kind::Settings, GENERATION) };
    worker.say(&message, &[document.as_fd()]);
}

/// Serial number, errno and number of revoked handles.
fn applied(worker: &Worker) -> (u64, u32, u64) {
    let message = worker.hear_kind(Kind::Applied);
    (message.a, message.code, message.b)
}

/// A mounted share on ring 1.
struct Mounted {
    worker: Worker,
    monitor: Monitor,
    guest: Guest,
    events: Events,
}

impl Mounted {
    fn new() -> Self {
        let (worker, monitor) = Worker::serving();
        let guest = Guest::new();
        let events = monitor.set_up(&guest);
        let mounted = Self { worker, monitor, guest, events };
        let init: Vec<u8> = [7u32, 38, 0, 0].iter().flat_map(|field| field.to_le_bytes()).collect();
        mounted.ask(Opcode::Init, 0, &init).expect("INIT");
        mounted
    }

    fn post(&self, opcode: Opcode, node: u64, body: &[u8]) -> u64 {
        let mut request = Vec::new();
        request.extend((40 + body.len() as u32).to_le_bytes());
        request.extend((opcode as u32).to_le_bytes());
        request.extend(1u64.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend([0; 16]);
        request.extend(body);
        let place = self.guest.ask(1, &request, 1024);
        kick(&self.events.kick);
        place
    }

    fn ask(&self, opcode: Opcode, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let before = self.guest.used_index(1);
        let place = self.post(opcode, node, body);
        self.guest.wait_used(1, before.wrapping_add(1));
        match self.guest.reply(place).1 {
            0 => Ok(self.guest.read(place + 16, 256)),
            error => Err(-error),
        }
    }

    fn lookup(&self, name: &str) -> Result<u64, i32> {
        let reply = self.ask(Opcode::Lookup, ROOT, format!("{name}\0").as_bytes())?;
        Ok(u64::from_le_bytes(reply[..8].try_into().unwrap()))
    }

    fn open(&self, node: u64, flags: i32) -> Result<u64, i32> {
        let reply = self.ask(Opcode::Open, node, &open_body(flags))?;
        Ok(u64::from_le_bytes(reply[..8].try_into().unwrap()))
    }

    fn write(&self, node: u64, fh: u64) -> Result<Vec<u8>, i32> {
        self.ask(Opcode::Write, node, &write_body(fh, *b"data"))
    }
}

fn write_body(fh: u64, data: [u8; 4]) -> Vec<u8> {
    let mut body = fh.to_le_bytes().to_vec();
    body.extend([0; 8]);
    body.extend(4u32.to_le_bytes());
    body.extend([0; 20]);
    body.extend(data);
    body
}

fn open_body(flags: i32) -> Vec<u8> {
    [flags.to_le_bytes(), [0; 4]].concat()
}

#[test]
fn from_applied_on_every_request_is_judged_by_the_new_rules() {
    let mounted = Mounted::new();
    for name in ["secret", "frozen", "free"] {
        fs::write(mounted.worker.share.join(name), "content").unwrap();
    }
    let [secret, frozen, free] = ["secret", "frozen", "free"].map(|name| mounted.lookup(name).unwrap());
    let [secret_fh, frozen_fh, free_fh] = [secret, frozen, free].map(|node| mounted.open(node, libc::O_RDWR).unwrap());
    order(&mounted.worker, 5, &settings("\"secret\"", "\"frozen\"", "info"));
    assert_eq!(applied(&mounted.worker), (5, 0, 1), "one handle is revoked");
    assert_eq!(mounted.lookup("secret"), Err(libc::ENOENT));
    assert_eq!(mounted.write(secret, secret_fh).err(), Some(libc::ENOENT));
    assert_eq!(mounted.write(frozen, frozen_fh).err(), Some(libc::EROFS));
    assert!(mounted.write(free, free_fh).is_ok());
    order(&mounted.worker, 6, &settings("", "", "info"));
    assert_eq!(applied(&mounted.worker), (6, 0, 0));
    assert_eq!(mounted.lookup("secret"), Ok(secret));
    assert!(mounted.write(frozen, frozen_fh).is_ok());
}

#[test]
fn settings_are_taken_over_before_a_client_comes_and_each_is_answered_in_order() {
    let worker = Worker::ready();
    for serial in 1..=50 {
        order(&worker, serial, &settings(&format!("\"hidden{serial}\""), "", "info"));
    }
    for serial in 1..=50 {
        assert_eq!(applied(&worker), (serial, 0, 0));
    }
    order(&worker, 51, &settings("\"hidden50\"", "", "info"));
    assert_eq!(applied(&worker), (51, 0, 0), "the same again");
}

#[test]
fn refused_settings_are_answered_with_the_reason_and_the_old_ones_hold() {
    let mounted = Mounted::new();
    fs::write(mounted.worker.share.join("secret"), "").unwrap();
    order(&mounted.worker, 1, &settings("\"secret\"", "", "info"));
    assert_eq!(applied(&mounted.worker).1, 0);
    let plain = File::open(mounted.worker.share.join("secret")).unwrap();
    let blank = vec![b' '; 256 * 1024 + 1];
    let cases = [
        (settings("\"a//b\"", "", "info"), libc::EINVAL, "pattern \"a//b\": it has two '/' in a row"),
        (memfd(b"{}", true), libc::EINVAL, "missing field `rules`"),
        (memfd(b"\xff", true), libc::EINVAL, "configuration:"),
        (memfd(&blank, true), libc::EFBIG, "262145 bytes"),
        (memfd(b"{}", false), libc::EPERM, "sealed against everything"),
        (plain.into(), libc::EPERM, "sealed against everything"),
    ];
    for (serial, (document, errno, _)) in cases.iter().enumerate() {
        order(&mounted.worker, serial as u64, document);
        assert_eq!(applied(&mounted.worker), (serial as u64, errno.unsigned_abs(), 0));
        assert_eq!(mounted.lookup("secret"), Err(libc::ENOENT));
    }
    let Mounted { worker, monitor, .. } = mounted;
    drop(monitor);
    let (_, log) = worker.end();
    assert_eq!(log.lines().count(), cases.len(), "{log}");
    for ((_, _, reason), line) in cases.iter().zip(log.lines()) {
        assert!(line.starts_with("<3>live settings") && line.contains(reason), "{line}");
    }
}

/// Posts the OPEN of a file that is not answered until the holder of its lease, which is returned, gives it up.
fn hanging_open(mounted: &Mounted) -> File {
    // SAFETY: ignoring a signal; the kernel tells a lease holder by SIGIO, which would end the test.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let leased = mounted.worker.share.join("leased");
    fs::write(&leased, "content").unwrap();
    let node = mounted.lookup("leased").unwrap();
    let holder = File::options().read(true).write(true).open(&leased).unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    mounted.post(Opcode::Open, node, &open_body(libc::O_RDWR));
    let start = Instant::now();
    while mounted.worker.counter(Counter::OldestStart) == 0 {
        assert!(start.elapsed() < LIMIT);
    }
    holder
}

#[test]
fn limits_alone_are_applied_beside_a_request_that_hangs() {
    let mounted = Mounted::new();
    let holder = hanging_open(&mounted);
    let limits = r#"{"read": 65536, "write": null, "read_ops": null, "write_ops": null, "metadata_ops": null,
                     "burst_ms": 1000, "max_delay_ms": 5000}"#;
    let document = format!(
        r#"{{"rules": {{"hide": [], "readonly": [], "allow": [], "case": "sensitive", "strict_links": false}},
             "limits": {limits}, "log_level": "info"}}"#
    );
    order(&mounted.worker, 1, &memfd(document.as_bytes(), true));
    assert_eq!(applied(&mounted.worker), (1, 0, 0));
    assert_ne!(mounted.worker.counter(Counter::OldestStart), 0, "it hangs still");
    drop(holder);
}

#[test]
fn a_request_that_began_under_the_old_rules_holds_back_applied_and_nothing_else() {
    let mounted = Mounted::new();
    fs::write(mounted.worker.share.join("secret"), "").unwrap();
    let before = mounted.guest.used_index(1);
    let holder = hanging_open(&mounted);
    order(&mounted.worker, 1, &settings("\"leased\", \"secret\"", "", "info"));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!mounted.worker.has_said_something_of(Kind::Applied), "the request still runs");
    drop(holder);
    assert_eq!(applied(&mounted.worker), (1, 0, 1), "it has opened its file, and the handle is revoked");
    mounted.guest.wait_used(1, before.wrapping_add(2));
    assert_eq!(mounted.lookup("secret"), Err(libc::ENOENT));
}

#[test]
fn under_a_stream_of_writes_none_takes_effect_after_applied() {
    let mounted = Mounted::new();
    let path = mounted.worker.share.join("file");
    fs::write(&path, "content").unwrap();
    let node = mounted.lookup("file").unwrap();
    let fh = mounted.open(node, libc::O_RDWR).unwrap();
    let mut written = 0u32;
    // Three requests are always under way, also when the rules change.
    let mut write = || {
        let before = mounted.guest.used_index(1);
        for _ in 0..3 {
            written += 1;
            mounted.post(Opcode::Write, node, &write_body(fh, written.to_le_bytes()));
        }
        mounted.guest.wait_used(1, before.wrapping_add(3));
    };
    for round in 0..40 {
        write();
        order(&mounted.worker, 2 * round, &settings("", "\"file\"", "info"));
        while !mounted.worker.has_said_something_of(Kind::Applied) {
            write();
        }
        let frozen = fs::read(&path).unwrap();
        write();
        assert_eq!(fs::read(&path).unwrap(), frozen, "round {round}");
        order(&mounted.worker, 2 * round + 1, &settings("", "", "info"));
        assert_eq!(applied(&mounted.worker), (2 * round + 1, 0, 0));
        write();
        assert_ne!(fs::read(&path).unwrap(), frozen, "round {round}");
    }
}

#[test]
fn the_log_level_changes_too() {
    let worker = Worker::ready();
    order(&worker, 1, &settings("", "", "debug"));
    assert_eq!(applied(&worker).1, 0);
    drop(worker.connect());
    let (_, log) = worker.end();
    assert!(log.starts_with("<7>serving the monitor"), "{log}");
}

#[test]
fn settings_without_exactly_one_document_end_the_worker() {
    let document = settings("", "", "info");
    for descriptors in [vec![], vec![document.as_fd(), document.as_fd()]] {
        let worker = Worker::ready();
        worker.say(&Message::new(Kind::Settings, GENERATION), &descriptors);
        assert_eq!(worker.end().0, Exit::Internal.code());
    }
}
