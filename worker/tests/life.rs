//! The life of a worker: descriptors, orders, ends. Runs the real binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{ftruncate, Mode, OFlags, CWD};
use rustix::net::SocketType;
use rustix::process::{kill_process, Pid, Signal};

use support::guest::{fuse_request, kick, signalled, Guest};
use support::monitor::{message, u32s, u64s, Monitor};
use support::{document, memfd, pair, Inheritance, Worker, GENERATION, LIMIT};
use virtiofs_worker::ipc::{Client, Exit, Kind, Message};
use virtiofs_worker::session::message::Code;
use virtiofs_worker::stats::{Counter, MAGIC};

#[test]
fn a_worker_reports_ready_serves_and_leaves_with_its_client() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let (unique, error) = guest.round_trip(1, &events, 42);
    assert!(unique == 42 && error < 0, "reply to an unknown opcode: {unique} {error}");
    assert!(signalled(&events.call));
    let started = worker.hear();
    assert_eq!((started.kind, started.code), (Kind::Client, Client::DriverStarted as u32));
    drop(monitor);
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::ClientLeft as u32);
    assert_eq!(worker.counter(Counter::Magic), MAGIC);
    assert_eq!(worker.counter(Counter::OldestStart), 0);
    assert!(worker.counter(Counter::Kicks) >= 1);
    assert_eq!(worker.end(), (Exit::ClientLeft.code(), String::new()));
}

#[test]
fn a_missing_or_wrong_descriptor_ends_the_worker_and_is_named() {
    // Not /tmp: that is the root of a mount on many machines, and then just what is asked for.
    let plain_directory = || {
        let inside = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        rustix::fs::openat(CWD, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let unsealed = || rustix::fs::memfd_create("plain", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let blocking_pipe = || rustix::pipe::pipe().unwrap().1;
    let wrong: [(i32, fn() -> OwnedFd); 7] = [
        (3, || pair(SocketType::STREAM).0),
        (4, || memfd(document(1).as_bytes(), false)),
        (5, unsealed),
        (6, unsealed),
        (7, plain_directory),
        (8, plain_directory),
        (8, || Inheritance::new(1).take(7)),
    ];
    for (number, descriptor) in wrong {
        let mut inheritance = Inheritance::new(1);
        inheritance.replace(number, Some(descriptor()));
        let (code, log) = inheritance.start().end();
        assert_eq!(code, Exit::Descriptor.code(), "another thing at {number}: {log}");
        assert!(log.contains(&format!("descriptor {number} should be")), "{log}");
    }
    for number in 3..=8 {
        let mut inheritance = Inheritance::new(1);
        inheritance.replace(number, None);
        let (code, log) = inheritance.start().end();
        assert_eq!(code, Exit::Descriptor.code(), "nothing at {number}: {log}");
    }
    let mut inheritance = Inheritance::new(1);
    inheritance.replace(2, Some(blocking_pipe()));
    assert_eq!(inheritance.start().end().0, Exit::Descriptor.code(), "a log that could block");
}

#[test]
fn plain_directories_are_taken_where_the_configuration_knows_of_no_mounts() {
    let without_mounts = || {
        let path = |place: &str| rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let document = document(1).replace(r#""attributes":"path""#, r#""attributes":"open""#);
        let mut inheritance = Inheritance::new(1);
        inheritance.replace(4, Some(memfd(document.as_bytes(), true)));
        inheritance.replace(7, Some(path(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))));
        inheritance.replace(8, Some(path("/proc")));
        (inheritance, path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")))
    };
    let (inheritance, _) = without_mounts();
    assert_eq!(inheritance.start().hear().kind, Kind::Ready);
    for number in [7, 8] {
        let (mut inheritance, file) = without_mounts();
        inheritance.replace(number, Some(file));
        assert_eq!(inheritance.start().end().0, Exit::Descriptor.code(), "a file at {number}");
    }
}

#[test]
fn a_configuration_that_is_refused_ends_the_worker_with_the_reason() {
    let mut inheritance = Inheritance::new(1);
    inheritance.replace(4, Some(memfd(document(9).as_bytes(), true)));
    let (code, log) = inheritance.start().end();
    assert_eq!(code, Exit::Configuration.code());
    assert!(log.contains("9 queues, 1 to 8 are possible"), "{log}");
}

#[test]
fn a_worker_without_a_client_stops_when_told() {
    let worker = Worker::ready();
    worker.say(&stop(1000), &[]);
    assert_eq!(worker.end(), (Exit::Stopped.code(), String::new()));
}

#[test]
fn a_serving_worker_announces_its_stop_and_closes_the_connection() {
    let (worker, monitor) = Worker::serving();
    monitor.set_up(&Guest::new());
    worker.say(&stop(1000), &[]);
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::Stopped as u32);
    assert!(monitor.is_hung_up());
    assert_eq!(worker.end().0, Exit::Stopped.code());
}

#[test]
fn a_monitor_that_stalls_inside_a_message_does_not_hold_up_a_stop() {
    let (worker, monitor) = Worker::serving();
    assert!(support::send(monitor.socket.as_fd(), &message(2, 1, &[0; 8])[..15], &[]));
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    worker.say(&stop(60_000), &[]);
    assert_eq!(worker.end().0, Exit::Stopped.code());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_worker_ends_when_the_supervisor_is_gone() {
    let mut worker = Worker::ready();
    worker.control = None;
    assert_eq!(worker.end().0, Exit::SupervisorGone.code());
    let (mut worker, monitor) = Worker::serving();
    monitor.set_up(&Guest::new());
    worker.control = None;
    assert_eq!(worker.end().0, Exit::SupervisorGone.code());
}

#[test]
fn orders_that_make_no_sense_end_the_worker() {
    let (one, other) = pair(SocketType::STREAM);
    let start = Message::new(Kind::Start, GENERATION);
    let foreign = Message::new(Kind::Stop, GENERATION + 1);
    let cases: [(&str, &Message, Vec<_>); 6] = [
        ("START without a connection", &start, vec![]),
        ("START with two", &start, vec![one.as_fd(), other.as_fd()]),
        ("START with very many", &start, vec![one.as_fd(); 20]),
        ("STOP with a descriptor", &stop(0), vec![one.as_fd()]),
        ("another generation's", &foreign, vec![]),
        ("what only the worker says", &Message::new(Kind::Ready, GENERATION), vec![]),
    ];
    for (name, message, descriptors) in cases {
        let worker = Worker::ready();
        worker.say(message, &descriptors);
        let (code, log) = worker.end();
        assert_eq!(code, Exit::Internal.code(), "{name}: {log}");
        assert!(log.contains("control message"), "{name}: {log}");
    }
    let (worker, _monitor) = Worker::serving();
    worker.say(&start, &[one.as_fd()]);
    assert_eq!(worker.end().0, Exit::Internal.code(), "a second START");
}

#[test]
fn a_worker_killed_by_a_signal_is_reported_by_its_keeper() {
    let worker = Worker::ready();
    kill_process(child_of(worker.keeper()), Signal::KILL).unwrap();
    assert_eq!(worker.end().0, 128 + 9);
}

#[test]
fn a_worker_does_not_outlive_its_keeper() {
    let worker = Worker::ready();
    let (keeper, orphan) = (worker.keeper(), child_of(worker.keeper()));
    kill_process(Pid::from_raw(keeper as i32).unwrap(), Signal::KILL).unwrap();
    let start = Instant::now();
    while is_alive(orphan) {
        assert!(start.elapsed() < LIMIT);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn guest_memory_that_goes_away_ends_the_worker_with_a_reason() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    ftruncate(&guest.file, 0).unwrap();
    kick(&events.kick);
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::MemoryGone as u32);
    let (code, log) = worker.end();
    assert_eq!(code, Exit::MemoryGone.code());
    assert!(log.contains("guest memory went away"), "{log}");
}

#[test]
fn a_log_nobody_reads_costs_lines_and_nothing_else() {
    let mut inheritance = Inheritance::new(1);
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&write, &[0; 512]).is_ok() {}
    inheritance.replace(2, Some(write));
    let worker = inheritance.start();
    assert_eq!(worker.hear().kind, Kind::Ready);
    let monitor = worker.connect();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    // A broken ring is worth a line, which does not fit.
    guest.set_available(1, 1000);
    kick(&events.kick);
    assert!(signalled(&events.error));
    assert_eq!(worker.counter(Counter::LogDropped), 1);
    drop((monitor, read));
    assert_eq!(worker.end().0, Exit::ClientLeft.code());
}

#[test]
fn a_flood_of_resets_is_reported_to_the_supervisor_at_a_measured_pace() {
    let (worker, monitor) = Worker::serving();
    monitor.negotiate();
    let start = Instant::now();
    for _ in 0..2000 {
        assert_eq!(monitor.demand(Code::ResetDevice, &[], &[]), 0);
    }
    drop(monitor);
    let mut reports = 0;
    while worker.hear().kind == Kind::Client {
        reports += 1;
    }
    let allowed = 40 + start.elapsed().as_millis() / 100;
    assert!((30..=allowed).contains(&reports), "{reports} reports of 2000 resets");
    assert_eq!(worker.end().0, 0);
}

#[test]
fn requests_in_flight_are_answered_before_a_worker_ends() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let places: Vec<_> = (0..8).map(|unique| guest.ask(1, &fuse_request(9999, unique), 128)).collect();
    kick(&events.kick);
    assert!(signalled(&events.call));
    worker.say(&stop(5000), &[]);
    assert_eq!(worker.end().0, Exit::Stopped.code());
    // What was taken was given back: the used index counts only whole replies.
    for (unique, place) in (0..u64::from(guest.used_index(1))).zip(&places) {
        assert_eq!(guest.reply(*place).0, unique);
    }
}

/// A ring whose thread sits in a system call that does not return: its call descriptor blocks, since the monitor has
/// made it so again, and is full.
fn stuck_ring(worker: &Worker, monitor: &Monitor) -> OwnedFd {
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let (theirs, call) = pair(SocketType::STREAM);
    assert_eq!(monitor.demand(Code::SetVringCall, &u64s(&[1]), &[call.as_fd()]), 0);
    while rustix::io::write(&call, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&call, OFlags::RDWR).unwrap();
    guest.ask(1, &fuse_request(9999, 1), 128);
    kick(&events.kick);
    guest.wait_used(1, 1);
    assert_eq!(worker.hear_kind(Kind::Client).code, Client::DriverStarted as u32);
    theirs
}

#[test]
fn a_ring_that_does_not_come_to_rest_ends_the_worker_after_ten_seconds() {
    let (worker, monitor) = Worker::serving();
    let _full = stuck_ring(&worker, &monitor);
    let start = Instant::now();
    monitor.tell(Code::GetVringBase, &u32s(&[1, 0]));
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::NotDrained as u32);
    let (code, log) = worker.end();
    assert_eq!(code, Exit::NotDrained.code());
    assert!(start.elapsed() >= Duration::from_secs(10) && start.elapsed() < Duration::from_secs(15));
    assert!(log.contains("GET_VRING_BASE: requests still run after 10 seconds"), "{log}");
}

#[test]
fn a_stop_does_not_wait_longer_for_a_stuck_ring_than_it_says() {
    let (worker, monitor) = Worker::serving();
    let _full = stuck_ring(&worker, &monitor);
    monitor.tell(Code::GetVringBase, &u32s(&[1, 0]));
    let start = Instant::now();
    worker.say(&stop(300), &[]);
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::Stopped as u32);
    assert_eq!(worker.end().0, Exit::Stopped.code());
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(5));
}

fn stop(milliseconds: u64) -> Message {
    Message { a: milliseconds, ..Message::new(Kind::Stop, GENERATION) }
}

fn child_of(keeper: u32) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    Pid::from_raw(children.trim().parse().expect("one child")).unwrap()
}

fn is_alive(process: Pid) -> bool {
    // Gone, or dead and not yet reaped by whoever inherited it.
    std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}
