//! A driver that breaks its ring: that ring stops with its error descriptor, and nothing else happens (I5).
#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::AsFd;

use support::guest::{encode, kick, signalled, Desc, Guest, DATA, INDIRECT, NEXT, RING_SIZE, WRITE};
use support::monitor::{u32s, u64s, Events, Monitor};
use support::Worker;
use virtiofs_worker::ipc::Exit;
use virtiofs_worker::session::message::Code;
use virtiofs_worker::stats::Counter;

type Break = fn(&Guest);

/// What the driver does to a ring of 16 entries, and what the log must say of it.
const BROKEN: &[(&str, Break)] = &[
    ("descriptor 16 is beyond the ring", |guest| guest.offer(1, 16)),
    ("descriptor 65535 is beyond the ring", |guest| guest.offer(1, u16::MAX)),
    ("the available index jumped from 0 to 17", |guest| guest.set_available(1, RING_SIZE + 1)),
    ("the available index jumped from 0 to 65535", |guest| guest.set_available(1, u16::MAX)),
    ("runs in a circle", |guest| {
        direct(guest, &[data(guest, NEXT, 1), data(guest, NEXT, 0)]);
    }),
    ("runs in a circle", |guest| direct(guest, &[data(guest, NEXT, 0)])),
    ("goes on at 16, beyond its table", |guest| direct(guest, &[data(guest, NEXT, 16)])),
    ("lies outside guest memory", |guest| {
        direct(guest, &[Desc { address: guest.physical - 1, length: 1, flags: 0, next: 0 }]);
    }),
    ("lies outside guest memory", |guest| {
        direct(guest, &[Desc { address: guest.physical + guest.size - 4, length: 5, flags: WRITE, next: 0 }]);
    }),
    ("lies outside guest memory", |guest| {
        direct(guest, &[Desc { address: u64::MAX, length: u32::MAX, flags: WRITE, next: 0 }]);
    }),
    // The monitor's address of the same byte is not the guest's.
    ("lies outside guest memory", |guest| {
        direct(guest, &[Desc { address: guest.user, length: 1, flags: 0, next: 0 }]);
    }),
    ("a readable descriptor follows a writable one", |guest| {
        direct(guest, &[data(guest, WRITE | NEXT, 1), data(guest, 0, 0)]);
    }),
    ("an indirect table of 0 bytes", |guest| direct(guest, &[table(guest, 0)])),
    ("an indirect table of 17 bytes", |guest| direct(guest, &[table(guest, 17)])),
    ("an indirect table of 4294967280 bytes", |guest| direct(guest, &[table(guest, 0xffff_fff0)])),
    ("chain of more than 1024", |guest| direct(guest, &[table(guest, 16 * 1025)])),
    ("lies outside guest memory", |guest| {
        direct(guest, &[Desc { address: guest.physical + guest.size - 16, length: 32, flags: INDIRECT, next: 0 }]);
    }),
    ("an indirect descriptor with a successor", |guest| {
        direct(guest, &[Desc { flags: INDIRECT | NEXT, ..table(guest, 16) }, data(guest, 0, 0)]);
    }),
    ("an indirect descriptor in an indirect table", |guest| {
        indirect(guest, &[Desc { flags: INDIRECT, ..table(guest, 16) }]);
    }),
    ("runs in a circle", |guest| indirect(guest, &[data(guest, NEXT, 1), data(guest, NEXT, 0)])),
    ("goes on at 2, beyond its table", |guest| indirect(guest, &[data(guest, NEXT, 1), data(guest, NEXT, 2)])),
    ("goes on at 9, beyond its table", |guest| indirect(guest, &[data(guest, NEXT, 9), data(guest, 0, 0)])),
];

#[test]
fn a_broken_ring_stops_alone_and_works_again_after_a_restart() {
    let mut rounds = 0;
    // A line of this kind passes once a second: a worker per case, so that each case shows its own.
    for (said, break_ring) in BROKEN {
        let (worker, monitor) = Worker::serving();
        let guest = Guest::new();
        let events = monitor.set_up(&guest);
        let high = Events::new();
        monitor.start_ring(0, 0, &guest, &high);
        monitor.enable(0, true);
        break_ring(&guest);
        kick(&events.kick);
        assert!(signalled(&events.error), "{said}: no error event");
        assert_eq!(worker.counter(Counter::RingErrors), 1);
        assert_eq!(guest.used_index(1), 0, "{said}: nothing was given back");
        // The other ring and the session live on.
        assert_eq!(guest.round_trip(0, &high, 1).0, 1);
        kick(&events.kick);
        assert_eq!(monitor.vring_base(1), 0);
        restart(&monitor, &guest, &events);
        assert_eq!(guest.round_trip(1, &events, 2).0, 2, "{said}: after a restart");
        drop(monitor);
        let (code, log) = worker.end();
        assert_eq!(code, Exit::ClientLeft.code());
        assert!(log.contains("ring 1 stopped") && log.contains(said), "{said}: {log}");
        rounds += 1;
    }
    assert_eq!(rounds, BROKEN.len());
}

#[test]
fn requests_before_the_broken_one_are_answered() {
    let (worker, monitor) = Worker::serving();
    let (guest, events) = (Guest::new(), Events::new());
    monitor.negotiate();
    monitor.add_memory(&guest);
    monitor.start_ring(1, 0, &guest, &events);
    let places: Vec<_> = (0..3).map(|unique| guest.ask(1, &support::guest::fuse_request(9999, unique), 128)).collect();
    guest.offer(1, 16);
    monitor.enable(1, true);
    assert!(signalled(&events.error));
    assert!(signalled(&events.call));
    assert_eq!(guest.used_index(1), 3);
    for (unique, place) in (0..).zip(places) {
        assert_eq!(guest.reply(place).0, unique);
    }
    assert_eq!(monitor.vring_base(1), 3);
    drop((worker, monitor));
}

/// Ring parts a guest can choose: they stop the ring, since a monitor need not check them.
#[test]
fn a_ring_in_a_place_or_of_a_size_that_is_impossible_stops() {
    let guest = Guest::new();
    let start = guest.user + 0x1_0000;
    let end = guest.user + guest.size;
    let cases: [(&str, u32, [u64; 3]); 9] = [
        ("the descriptor table (256 bytes", 16, [end, start + 0xc000, start + 0x8000]),
        ("the descriptor table (256 bytes", 16, [end - 128, start + 0xc000, start + 0x8000]),
        ("the used ring", 16, [start, end - 4, start + 0x8000]),
        ("the available ring", 16, [start, start + 0xc000, u64::MAX - 1]),
        ("the descriptor table is not aligned", 16, [start + 8, start + 0xc000, start + 0x8000]),
        ("the available ring is not aligned", 16, [start, start + 0xc000, start + 0x8001]),
        ("the used ring is not aligned", 16, [start, start + 0xc002, start + 0x8000]),
        ("a ring of 3 entries", 3, [start, start + 0xc000, start + 0x8000]),
        // The guest's address of a ring is not the monitor's.
        ("outside guest memory", 16, [guest.physical, start + 0xc000, start + 0x8000]),
    ];
    for (said, size, addresses) in cases {
        let (worker, monitor) = Worker::serving();
        let events = monitor.set_up(&guest);
        monitor.vring_base(1);
        assert_eq!(monitor.demand(Code::SetVringNum, &u32s(&[1, size]), &[]), 0);
        let mut payload = u32s(&[1, 0]);
        payload.extend(u64s(&addresses));
        payload.extend(u64s(&[0]));
        assert_eq!(monitor.demand(Code::SetVringAddr, &payload, &[]), 0);
        assert_eq!(monitor.demand(Code::SetVringKick, &u64s(&[1]), &[events.kick.as_fd()]), 0);
        assert!(signalled(&events.error), "{said}");
        assert_eq!(monitor.vring_base(1), 0);
        drop(monitor);
        let (code, log) = worker.end();
        assert!(code == 0 && log.contains(said), "{said}: {log}");
    }
}

#[test]
fn memory_taken_away_under_a_ring_stops_it_and_not_the_session() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    guest.round_trip(1, &events, 1);
    let region = u64s(&[0, guest.physical, guest.size, guest.user, 0]);
    assert_eq!(monitor.demand(Code::RemMemReg, &region, &[]), 0);
    assert!(signalled(&events.error));
    assert_eq!(monitor.vring_base(1), 1);
    drop(monitor);
    assert_eq!(worker.end().0, 0);
}

/// Scribbles over rings and tables while they are served. Nothing may hang, and the worker must not die.
#[test]
fn random_rings_end_neither_worker_nor_session() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let mut random = support::Random::new(7);
    for _ in 0..300 {
        for index in 0..RING_SIZE {
            guest.describe(1, index, random_descriptor(&mut random, &guest));
            guest.write(DATA + 16 * u64::from(index), &encode(random_descriptor(&mut random, &guest)));
        }
        for _ in 0..random.below(8) {
            guest.offer(1, random.below(18) as u16);
        }
        kick(&events.kick);
        assert!(u16::try_from(monitor.vring_base(1)).is_ok());
        restart(&monitor, &guest, &events);
    }
    assert_eq!(guest.round_trip(1, &events, 3).0, 3);
    assert!(worker.counter(Counter::RingErrors) > 0, "the scribbling was noticed");
    drop(monitor);
    assert_eq!(worker.end().0, 0);
}

fn random_descriptor(random: &mut support::Random, guest: &Guest) -> Desc {
    let address = guest.physical + DATA + 16 * u64::from(random.below(16));
    let length = [0, 16, 40, 64, 256, 17, u32::MAX][random.below(7) as usize];
    // Mostly sane, so that walks get somewhere.
    let flags = [0, NEXT, NEXT, NEXT, WRITE, WRITE | NEXT, INDIRECT, INDIRECT | NEXT, 0xffff][random.below(9) as usize];
    Desc { address, length, flags, next: random.below(17) as u16 }
}

fn restart(monitor: &Monitor, guest: &Guest, events: &Events) {
    monitor.vring_base(1);
    guest.clear_ring(1);
    monitor.start_ring(1, 0, guest, events);
    monitor.enable(1, true);
}

fn data(guest: &Guest, flags: u16, next: u16) -> Desc {
    Desc { address: guest.physical + DATA, length: 40, flags, next }
}

fn table(guest: &Guest, length: u32) -> Desc {
    Desc { address: guest.physical + DATA, length, flags: INDIRECT, next: 1 }
}

/// A chain in the ring's own table, from descriptor 0.
fn direct(guest: &Guest, chain: &[Desc]) {
    for (index, desc) in (0..).zip(chain) {
        guest.describe(1, index, *desc);
    }
    guest.offer(1, 0);
}

/// A chain in an indirect table of exactly its length.
fn indirect(guest: &Guest, chain: &[Desc]) {
    for (index, desc) in (0..).zip(chain) {
        guest.write(DATA + 16 * index, &encode(*desc));
    }
    direct(guest, &[table(guest, 16 * chain.len() as u32)]);
}
