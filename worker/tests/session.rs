//! A vhost-user session as monitors really hold it, byte by byte against the real worker.
#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::AsFd;

use support::guest::{fuse_request, kick, signalled, signalled_within, Desc, Guest, DATA, INDIRECT, NEXT, WRITE};
use support::monitor::{u32s, u64s, Events, Monitor};
use support::{Inheritance, Worker};
use virtiofs_worker::ipc::{Client, Exit, Kind};
use virtiofs_worker::session::message::{features, protocol, Code};

/// Long enough for a ring that is wrongly served to show itself.
const QUIET: std::time::Duration = std::time::Duration::from_millis(100);

#[test]
fn qemu_connects_starts_stops_continues_and_resets_on_one_connection() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    // Connect: features, owner, masked call descriptors, reset at power-on.
    monitor.negotiate();
    assert_eq!(monitor.ask_u64(Code::GetQueueNum), 2);
    assert_eq!(monitor.ask_u64(Code::GetMaxMemSlots), 509);
    let (backend, _theirs) = support::pair(rustix::net::SocketType::STREAM);
    assert_eq!(monitor.demand(Code::SetBackendReqFd, &[], &[backend.as_fd()]), 0);
    assert_eq!(monitor.demand(Code::ResetDevice, &[], &[]), 0);
    assert_eq!(worker.hear().code, Client::DeviceReset as u32);
    // Driver start.
    let (high, events) = (Events::new(), Events::new());
    monitor.tell(Code::SetFeatures, &u64s(&[features::OFFERED]));
    monitor.add_memory(&guest);
    for (ring, events) in [(0, &high), (1, &events)] {
        monitor.start_ring(ring, 0, &guest, events);
        monitor.enable(ring, true);
    }
    assert_eq!(worker.hear().code, Client::DriverStarted as u32);
    for unique in 1..=3 {
        assert_eq!(guest.round_trip(1, &events, unique).0, unique);
    }
    // Stop and cont: the base that was returned comes back, and memory is not sent again.
    monitor.enable(1, false);
    assert_eq!((monitor.vring_base(1), monitor.vring_base(0)), (3, 0));
    monitor.start_ring(1, 3, &guest, &events);
    monitor.enable(1, true);
    assert_eq!(worker.hear().code, Client::DriverStarted as u32);
    assert_eq!(guest.round_trip(1, &events, 4).0, 4);
    // Reset: the rings begin anew, more than once.
    for _ in 0..3 {
        monitor.enable(1, false);
        monitor.vring_base(1);
        for _ in 0..2 {
            assert_eq!(monitor.demand(Code::ResetDevice, &[], &[]), 0);
        }
        guest.clear_ring(1);
        monitor.start_ring(1, 0, &guest, &events);
        monitor.enable(1, true);
        assert_eq!(guest.round_trip(1, &events, 5).0, 5);
    }
    drop(monitor);
    assert_eq!(worker.end(), (0, String::new()));
}

#[test]
fn user_mode_linux_starts_and_leaves_in_its_own_way() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    monitor.tell(Code::SetOwner, &[]);
    monitor.ask_u64(Code::GetFeatures);
    let wanted = protocol::REPLY_ACK | protocol::BACKEND_REQ | protocol::CONFIG;
    assert_eq!(monitor.ask_u64(Code::GetProtocolFeatures) & wanted, wanted);
    monitor.tell(Code::SetProtocolFeatures, &u64s(&[wanted]));
    assert_eq!(monitor.demand(Code::SetFeatures, &u64s(&[features::OFFERED]), &[]), 0);
    for size in (1..=36).chain([40]) {
        let config = monitor.ask(Code::GetConfig, &config_request(0, size));
        assert_eq!(config.len(), 12 + size as usize);
        assert!(config[12..].starts_with(&b"tag"[..3.min(size as usize)]));
    }
    // One region in a payload with room for two.
    let mut table = u32s(&[1, 0]);
    table.extend(u64s(&[guest.physical, guest.size, guest.user, guest.offset, 0, 0, 0, 0]));
    assert_eq!(table.len(), 72);
    assert_eq!(monitor.demand(Code::SetMemTable, &table, &[guest.file.as_fd()]), 0);
    // Its interrupts come through a socket.
    let events = Events::new();
    let (interrupts, call) = support::pair(rustix::net::SocketType::STREAM);
    monitor.start_ring(1, 0, &guest, &events);
    assert_eq!(monitor.demand(Code::SetVringCall, &u64s(&[1]), &[call.as_fd()]), 0);
    monitor.enable(1, true);
    assert_eq!(guest.round_trip(1, &events, 77).0, 77);
    assert!(signalled(&interrupts));
    // Shutdown: disabled, one more question, closed.
    monitor.enable(1, false);
    monitor.ask_u64(Code::GetFeatures);
    drop(monitor);
    assert_eq!(worker.end(), (0, String::new()));
}

#[test]
fn rings_of_a_monitor_without_protocol_features_need_no_enabling() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    monitor.tell(Code::SetOwner, &[]);
    monitor.tell(Code::SetFeatures, &u64s(&[features::VERSION_1]));
    let mut table = u32s(&[1, 0]);
    table.extend(u64s(&[guest.physical, guest.size, guest.user, guest.offset]));
    assert!(monitor.send(Code::SetMemTable as u32, 1, &table, &[guest.file.as_fd()]));
    let events = Events::new();
    let event = |code: Code, fd: &std::os::fd::OwnedFd| {
        assert!(monitor.send(code as u32, 1, &u64s(&[1]), &[fd.as_fd()]));
    };
    event(Code::SetVringCall, &events.call);
    monitor.tell(Code::SetVringNum, &u32s(&[1, 16]));
    monitor.tell(Code::SetVringBase, &u32s(&[1, 0]));
    monitor.tell(Code::SetVringAddr, &guest.addresses(1));
    event(Code::SetVringKick, &events.kick);
    assert_eq!(guest.round_trip(1, &events, 9).0, 9);
    assert!(signalled(&events.call), "without EVENT_IDX every batch is signalled");
    assert_eq!(monitor.vring_base(1), 1);
    drop(monitor);
    assert_eq!(worker.end().0, 0);
}

#[test]
fn the_configuration_space_answers_every_window_with_zeros_beyond_it() {
    let worker = Inheritance::new(3).start();
    assert_eq!(worker.hear().kind, Kind::Ready);
    let monitor = worker.connect();
    monitor.negotiate();
    assert_eq!(monitor.ask_u64(Code::GetQueueNum), 4);
    let mut space = b"tag".to_vec();
    space.resize(36, 0);
    space.extend(3u32.to_le_bytes());
    space.resize(600, 0);
    for (offset, size) in [(0, 40), (0, 0), (36, 4), (38, 4), (1, 2), (40, 8), (200, 56), (0, 256), (0, 500)] {
        let config = monitor.ask(Code::GetConfig, &config_request(offset, size));
        assert_eq!(config[..12], u32s(&[offset, size, 0]), "window at {offset}, {size} bytes");
        assert_eq!(config[12..], space[offset as usize..(offset + size) as usize]);
    }
    let far = monitor.ask(Code::GetConfig, &config_request(u32::MAX, 4));
    assert_eq!(far[12..], [0; 4]);
}

#[test]
fn a_write_to_the_configuration_space_fails_and_the_session_goes_on() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    assert_eq!(monitor.demand(Code::SetConfig, &config_request(0, 4), &[]), 1);
    assert_eq!(guest.round_trip(1, &events, 1).0, 1);
    drop(monitor);
    let (code, log) = worker.end();
    assert_eq!(code, 0);
    assert!(log.contains("SET_CONFIG refused"), "{log}");
}

#[test]
fn a_request_offered_before_the_ring_is_enabled_is_served_on_enabling() {
    let (_worker, monitor) = Worker::serving();
    let (guest, events) = (Guest::new(), Events::new());
    monitor.negotiate();
    monitor.add_memory(&guest);
    monitor.start_ring(1, 0, &guest, &events);
    let place = guest.ask(1, &fuse_request(9999, 5), 128);
    kick(&events.kick);
    std::thread::sleep(QUIET);
    assert_eq!(guest.used_index(1), 0, "a disabled ring is left alone");
    // The kick may be gone by now; the ring is looked at all the same.
    signalled_within(&events.kick, 0);
    monitor.enable(1, true);
    guest.wait_used(1, 1);
    assert_eq!(guest.reply(place).0, 5);
}

#[test]
fn a_disabled_ring_rests_and_goes_on_where_it_was() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    assert_eq!(guest.round_trip(1, &events, 1).0, 1);
    monitor.enable(1, false);
    guest.ask(1, &fuse_request(9999, 2), 128);
    kick(&events.kick);
    std::thread::sleep(QUIET);
    assert_eq!(guest.used_index(1), 1);
    monitor.enable(1, true);
    guest.wait_used(1, 2);
    assert_eq!(monitor.vring_base(1), 2);
}

#[test]
fn a_stopped_ring_is_never_touched_again() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    for round in 0..20u16 {
        for unique in 0..6 {
            guest.ask(1, &fuse_request(9999, unique), 128);
        }
        kick(&events.kick);
        let base = monitor.vring_base(1) as u16;
        let used = guest.used_index(1);
        assert_eq!(used, base, "everything taken has been given back");
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(guest.used_index(1), used, "round {round}");
        monitor.start_ring(1, u32::from(base), &guest, &events);
        guest.wait_used(1, 6 * (round + 1));
    }
}

#[test]
fn a_call_descriptor_may_change_while_the_ring_runs() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let real = Events::new().call;
    assert_eq!(monitor.demand(Code::SetVringCall, &u64s(&[1]), &[real.as_fd()]), 0);
    assert!(signalled(&real), "the driver may have missed the last signal to the old one");
    guest.set_used_event(1, guest.used_index(1));
    guest.round_trip(1, &events, 1);
    assert!(signalled(&real));
    // None at all: the driver polls.
    assert_eq!(monitor.demand(Code::SetVringCall, &u64s(&[1 | 1 << 8]), &[]), 0);
    guest.set_used_event(1, guest.used_index(1));
    guest.round_trip(1, &events, 2);
    assert!(!signalled_within(&real, 50));
}

#[test]
fn a_batch_is_signalled_once_and_only_where_the_driver_asked() {
    let (_worker, monitor) = Worker::serving();
    let (guest, events) = (Guest::new(), Events::new());
    monitor.negotiate();
    monitor.add_memory(&guest);
    monitor.start_ring(1, 0, &guest, &events);
    guest.set_used_event(1, 5);
    for unique in 0..8 {
        guest.ask(1, &fuse_request(9999, unique), 128);
    }
    monitor.enable(1, true);
    guest.wait_used(1, 8);
    assert!(signalled(&events.call), "index 5 was passed");
    assert_eq!(guest.available_event(1), 8, "a parked ring asks for a kick at the next request");
    guest.set_used_event(1, 100);
    guest.round_trip(1, &events, 9);
    assert!(!signalled_within(&events.call, 50), "index 100 was not");
}

#[test]
fn a_driver_that_kicks_only_when_asked_is_never_left_waiting() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let mut kicks = 0;
    for round in 0..10_000u16 {
        guest.ask(1, &fuse_request(9999, u64::from(round)), 64);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        // The driver's rule for an index that moved by one.
        if guest.available_event(1) == round {
            kick(&events.kick);
            kicks += 1;
        }
        let start = std::time::Instant::now();
        while guest.used_index(1) != round.wrapping_add(1) {
            assert!(start.elapsed() < support::LIMIT, "round {round} was missed");
            std::hint::spin_loop();
        }
        // Every other request comes while the ring is about to park.
        if round % 3 == 0 {
            std::thread::yield_now();
        }
    }
    drop(monitor);
    worker.end();
    assert!(kicks > 0);
}

#[test]
fn an_indirect_request_is_served_like_a_direct_one() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let (request, reply, table) = (DATA, DATA + 0x1000, DATA + 0x2008);
    guest.write(request, &fuse_request(9999, 11));
    // Split in the middle of the header, an empty piece between, table not aligned.
    let at = |offset| guest.physical + offset;
    let pieces = [
        Desc { address: at(request), length: 7, flags: NEXT, next: 3 },
        Desc { address: at(reply), length: 64, flags: WRITE, next: 0 },
        Desc { address: at(request) + 7, length: 33, flags: NEXT, next: 1 },
        Desc { address: 0, length: 0, flags: NEXT, next: 2 },
    ];
    for (index, piece) in pieces.into_iter().enumerate() {
        guest.write(table + 16 * index as u64, &support::guest::encode(piece));
    }
    guest.describe(1, 4, Desc { address: at(table), length: 64, flags: INDIRECT | WRITE, next: 0 });
    guest.offer(1, 4);
    kick(&events.kick);
    guest.wait_used(1, 1);
    assert_eq!(guest.reply(reply).0, 11);
    assert_eq!(guest.used_entry(1, 0).0, 4);
}

#[test]
fn both_rings_serve_at_the_same_time() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let high = Events::new();
    monitor.start_ring(0, 0, &guest, &high);
    monitor.enable(0, true);
    for unique in 0..50 {
        assert_eq!(guest.round_trip(0, &high, unique).0, unique);
        assert_eq!(guest.round_trip(1, &events, unique).0, unique);
    }
}

#[test]
fn memory_is_added_and_removed_under_a_running_ring() {
    let (_worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let more = Guest::new();
    for round in 0..50 {
        let (physical, user) = (0x1_0000_0000 + 0x100_0000 * round, 0x10_0000_0000 + 0x100_0000 * round);
        let region = u64s(&[0, physical, more.size, user, 0x1000]);
        guest.ask(1, &fuse_request(9999, round), 128);
        kick(&events.kick);
        assert_eq!(monitor.demand(Code::AddMemReg, &region, &[more.file.as_fd()]), 0);
        // The descriptor of a removal is closed unused.
        assert_eq!(monitor.demand(Code::RemMemReg, &region, &[more.file.as_fd()]), 0);
        guest.wait_used(1, round as u16 + 1);
    }
    let mut table = u32s(&[2, 0]);
    table.extend(u64s(&[guest.physical, guest.size, guest.user, guest.offset]));
    table.extend(u64s(&[0, more.size, 0x1000, 0]));
    assert_eq!(monitor.demand(Code::SetMemTable, &table, &[guest.file.as_fd(), more.file.as_fd()]), 0);
    assert_eq!(guest.round_trip(1, &events, 99).0, 99);
}

#[test]
fn another_driver_that_comes_without_a_reset_is_noticed() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    guest.round_trip(1, &events, 1);
    assert_eq!(monitor.vring_base(1), 1);
    guest.clear_ring(1);
    monitor.start_ring(1, 0, &guest, &events);
    let codes: Vec<u32> = (0..2).map(|_| worker.hear().code).collect();
    assert_eq!(codes, [Client::DriverStarted as u32, Client::DeviceReset as u32]);
    assert_eq!(guest.round_trip(1, &events, 2).0, 2);
}

#[test]
fn a_monitor_that_sends_byte_by_byte_or_all_at_once_is_understood() {
    let (_worker, monitor) = Worker::serving();
    for byte in support::monitor::message(Code::GetFeatures as u32, 1, &[]) {
        assert!(support::send(monitor.socket.as_fd(), &[byte], &[]));
    }
    monitor.reply(Code::GetFeatures);
    let one = support::monitor::message(Code::GetFeatures as u32, 1, &[]);
    assert!(support::send(monitor.socket.as_fd(), &one.repeat(100), &[]));
    for _ in 0..100 {
        monitor.reply(Code::GetFeatures);
    }
}

#[test]
fn a_monitor_that_reads_no_replies_is_waited_for_and_a_stop_still_works() {
    let (worker, monitor) = Worker::serving();
    rustix::net::sockopt::set_socket_timeout(
        &monitor.socket,
        rustix::net::sockopt::Timeout::Send,
        Some(std::time::Duration::from_millis(200)),
    )
    .unwrap();
    let one = support::monitor::message(Code::GetFeatures as u32, 1, &[]).repeat(100);
    while support::send(monitor.socket.as_fd(), &one, &[]) {}
    let mut stop = virtiofs_worker::ipc::Message::new(Kind::Stop, support::GENERATION);
    stop.a = 1000;
    worker.say(&stop, &[]);
    assert_eq!(worker.end().0, Exit::Stopped.code());
    drop::<Monitor>(monitor);
}

fn config_request(offset: u32, size: u32) -> Vec<u8> {
    let mut payload = u32s(&[offset, size, 0]);
    payload.resize(12 + size as usize, 0xaa);
    payload
}
