//! The device's side of one ring, step by step, without threads.
#![allow(clippy::unwrap_used)]

mod support;

use support::guest::{fuse_request, Guest, RING_SIZE};
use virtiofs_worker::buffers::Buffers;
use virtiofs_worker::memory::{Memory, RegionDescription};
use virtiofs_worker::queue::ring::{Cursor, Layout, Ring};

const RING: u32 = 1;

fn memory(guest: &Guest) -> Memory {
    let region = RegionDescription { guest: guest.physical, size: guest.size, user: guest.user, offset: guest.offset };
    Memory::new().with(region, &guest.file).unwrap()
}

fn layout(guest: &Guest, event_idx: bool) -> Layout {
    let addresses = guest.addresses(RING);
    let field = |at: usize| u64::from_le_bytes(addresses[at..at + 8].try_into().unwrap());
    Layout { size: RING_SIZE, descriptors: field(8), used: field(16), available: field(24), event_idx, indirect: true }
}

/// Takes one chain and gives it back with *written* bytes.
fn serve(ring: &mut Ring<'_>, written: u32) {
    let head = ring.take(&mut Buffers::new(), &mut Buffers::new()).unwrap().expect("a chain");
    ring.complete(head, written);
}

#[test]
fn a_request_that_came_before_parking_is_noticed() {
    for event_idx in [true, false] {
        let (guest, mut cursor) = (Guest::new(), Cursor::default());
        let memory = memory(&guest);
        let mut ring = Ring::open(&memory, &layout(&guest, event_idx), &mut cursor).unwrap();
        assert_eq!(ring.take(&mut Buffers::new(), &mut Buffers::new()), Ok(None));
        assert!(!ring.ask_for_kick(), "an empty ring may park");
        guest.ask(RING, &fuse_request(1, 1), 64);
        assert!(ring.ask_for_kick(), "a request has come, perhaps without a kick");
    }
}

#[test]
fn kicks_are_refused_while_serving_and_asked_for_before_parking() {
    let (guest, mut cursor) = (Guest::new(), Cursor::default());
    let memory = memory(&guest);
    let mut ring = Ring::open(&memory, &layout(&guest, false), &mut cursor).unwrap();
    ring.refuse_kicks();
    assert_eq!(guest.used_flags(RING), 1);
    ring.ask_for_kick();
    assert_eq!(guest.used_flags(RING), 0);
    let mut cursor = Cursor { next_available: 7, next_used: 7 };
    guest.set_available(RING, 7);
    ring = Ring::open(&memory, &layout(&guest, true), &mut cursor).unwrap();
    ring.ask_for_kick();
    assert_eq!(guest.available_event(RING), 7);
}

#[test]
fn indices_run_over_the_end_of_their_range() {
    let (guest, mut cursor) = (Guest::new(), Cursor { next_available: u16::MAX - 1, next_used: 0 });
    let memory = memory(&guest);
    guest.set_available(RING, u16::MAX - 1);
    guest.set_used(RING, u16::MAX - 1);
    {
        let mut ring = Ring::open(&memory, &layout(&guest, true), &mut cursor).unwrap();
        ring.adopt_used();
        for round in 0..4 {
            guest.ask(RING, &fuse_request(1, round), 64);
            serve(&mut ring, 16);
        }
        assert_eq!(guest.used_index(RING), u16::MAX - 1, "nothing shows before it is published");
        guest.set_used_event(RING, 1);
        assert!(ring.publish(), "index 1 was passed");
        assert!(!ring.publish(), "and is not passed again");
    }
    assert_eq!(guest.used_index(RING), 2);
    assert_eq!(cursor, Cursor { next_available: 2, next_used: 2 });
    // Slot 15 holds what was number 65535, the second of the four.
    assert_eq!(guest.used_entry(RING, 15), (2, 16));
}

#[test]
fn without_event_indices_the_drivers_flag_decides_about_signals() {
    let (guest, mut cursor) = (Guest::new(), Cursor::default());
    let memory = memory(&guest);
    let mut ring = Ring::open(&memory, &layout(&guest, false), &mut cursor).unwrap();
    for (flag, wanted) in [(0, true), (1, false)] {
        guest.set_available_flags(RING, flag);
        guest.ask(RING, &fuse_request(1, 1), 64);
        serve(&mut ring, 0);
        assert_eq!(ring.publish(), wanted);
    }
}
