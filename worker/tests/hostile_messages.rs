//! A monitor that breaks the protocol: its connection ends with a logged reason, never by a panic or a hang (I5).
#![allow(clippy::unwrap_used)]

mod support;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::guest::Guest;
use support::monitor::{message, u32s, u64s, Events, Monitor, NEED_REPLY};
use support::{Random, Worker};
use virtiofs_worker::ipc::{Exit, Kind, Message};
use virtiofs_worker::session::message::{features, protocol, Code};

/// What the log must say, the request and its payload.
type Case = (&'static str, Code, Vec<u8>);

/// The monitor's refusal: a failure reply where the request takes one, then the end, with the reason in the log.
fn refused(said: &str, code: Code, payload: &[u8], descriptors: &[BorrowedFd<'_>], prepare: fn(&Monitor)) {
    let (worker, monitor) = Worker::serving();
    prepare(&monitor);
    assert!(monitor.send(code as u32, 1 | NEED_REPLY, payload, descriptors));
    if !code.replies() {
        let reply = monitor.reply(code);
        assert_eq!(reply, u64s(&[1]), "{said}: failure reply");
    }
    assert!(monitor.is_hung_up(), "{said}: the connection ends");
    let (exit, log) = worker.end();
    assert_eq!(exit, Exit::Protocol.code(), "{said}: {log}");
    assert!(log.contains(code.name()) && log.contains(said), "{said}: {log}");
}

fn sizes(code: Code) -> usize {
    match code {
        Code::SetFeatures
        | Code::SetProtocolFeatures
        | Code::SetVringNum
        | Code::SetVringBase
        | Code::GetVringBase
        | Code::SetVringEnable
        | Code::SetVringKick
        | Code::SetVringCall
        | Code::SetVringErr => 8,
        Code::SetVringAddr | Code::AddMemReg | Code::RemMemReg | Code::SetMemTable => 40,
        Code::GetConfig | Code::SetConfig => 12,
        _ => 0,
    }
}

#[test]
fn every_request_with_a_wrong_length_is_refused() {
    for code in Code::ALL {
        let right = sizes(*code);
        // One region in a memory table, so that only its length is wrong.
        let mut payload = vec![0; right + 400];
        payload[0] = u8::from(*code == Code::SetMemTable);
        let wrong = [0, right.saturating_sub(1), right + 1, right + 400];
        for length in wrong.into_iter().filter(|length| *length != right) {
            // The table may be longer than it need be, up to eight regions.
            if *code != Code::SetMemTable || !(41..=264).contains(&length) {
                let said = if *code == Code::SetMemTable && length == 0 { "0 regions" } else { "a payload of" };
                refused(said, *code, &payload[..length], &[], Monitor::negotiate);
            }
        }
    }
}

#[test]
fn every_request_with_a_wrong_number_of_descriptors_is_refused() {
    let event = Events::new().call;
    for code in Code::ALL {
        let mut payload = vec![0; sizes(*code)];
        payload[..sizes(*code).min(1)].fill(u8::from(*code == Code::SetMemTable));
        let wrong: &[usize] = match code {
            Code::SetVringKick
            | Code::SetVringCall
            | Code::SetVringErr
            | Code::SetBackendReqFd
            | Code::AddMemReg
            | Code::SetMemTable => &[0, 2, 8],
            Code::RemMemReg => &[2, 8],
            _ => &[1, 8],
        };
        for count in wrong {
            refused("descriptors do not fit", *code, &payload, &vec![event.as_fd(); *count], Monitor::negotiate);
        }
    }
}

#[test]
fn a_flood_of_descriptors_ends_the_connection() {
    let (worker, monitor) = Worker::serving();
    let event = Events::new().call;
    assert!(monitor.send(Code::SetOwner as u32, 1, &[], &[event.as_fd(); 60]));
    assert!(monitor.is_hung_up());
    let (exit, log) = worker.end();
    assert_eq!(exit, Exit::Protocol.code());
    assert!(log.contains("more than 8 descriptors"), "{log}");
    // Spread over the bytes of one message they are as many.
    let (worker, monitor) = Worker::serving();
    for byte in message(Code::SetOwner as u32, 1, &[]) {
        support::send(monitor.socket.as_fd(), &[byte], &[event.as_fd()]);
    }
    assert!(monitor.is_hung_up());
    assert_eq!(worker.end().0, Exit::Protocol.code());
}

#[test]
fn requests_without_their_protocol_feature_are_refused() {
    for code in Code::ALL.iter().filter(|code| code.needs() != 0) {
        let stream = support::pair(rustix::net::SocketType::STREAM).0;
        let descriptors = [stream.as_fd()];
        let needed = matches!(code, Code::SetBackendReqFd | Code::AddMemReg);
        refused("was not negotiated", *code, &vec![0; sizes(*code)], &descriptors[..usize::from(needed)], |monitor| {
            monitor.tell(Code::SetProtocolFeatures, &u64s(&[protocol::REPLY_ACK]));
        });
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let base = 0x10_0000;
    let cases: Vec<Case> = vec![
        ("were not offered", Code::SetFeatures, u64s(&[features::OFFERED | 1 << 26])),
        ("were not offered", Code::SetProtocolFeatures, u64s(&[protocol::REPLY_ACK | 1 << 12])),
        ("there is no ring 2", Code::SetVringNum, u32s(&[2, 16])),
        ("there is no ring", Code::SetVringNum, u32s(&[u32::MAX, 16])),
        ("a ring of 0 entries", Code::SetVringNum, u32s(&[1, 0])),
        ("a ring of 32769 entries", Code::SetVringNum, u32s(&[1, 32769])),
        ("a ring of 65552 entries", Code::SetVringNum, u32s(&[1, 65552])),
        ("there is no ring 2", Code::SetVringBase, u32s(&[2, 0])),
        ("does not fit 16 bits", Code::SetVringBase, u32s(&[1, 65536])),
        ("there is no ring 9", Code::GetVringBase, u32s(&[9, 0])),
        ("there is no ring 2", Code::SetVringEnable, u32s(&[2, 1])),
        ("neither 0 nor 1", Code::SetVringEnable, u32s(&[1, 2])),
        ("there is no ring 2", Code::SetVringAddr, [u32s(&[2, 0]), u64s(&[0; 4])].concat()),
        ("logging was not offered", Code::SetVringAddr, [u32s(&[1, 1]), u64s(&[0; 4])].concat()),
        ("there is no ring 255", Code::SetVringCall, u64s(&[255 | 1 << 8])),
        ("unknown bits", Code::SetVringCall, u64s(&[1 << 9 | 1 << 8])),
        ("0 descriptors do not fit", Code::SetVringKick, u64s(&[1 | 1 << 8])),
        ("9 regions", Code::SetMemTable, [u32s(&[9, 0]), vec![0; 256]].concat()),
        ("4294967295 regions", Code::SetMemTable, [u32s(&[u32::MAX, 0]), vec![0; 256]].concat()),
        ("there is no such region", Code::RemMemReg, u64s(&[0, base, 4096, base, 0])),
    ];
    for (said, code, payload) in cases {
        refused(said, code, &payload, &[], Monitor::negotiate);
    }
}

#[test]
fn memory_that_makes_no_sense_is_refused() {
    let guest = Guest::new();
    let cases: [(&str, [u64; 4]); 6] = [
        ("the region is empty", [0, 0, 0, 0]),
        ("addresses overflow", [u64::MAX, 4096, 0, 0]),
        ("addresses overflow", [0, 4096, u64::MAX, 0]),
        ("addresses overflow", [0, 4096, 0, u64::MAX]),
        ("addresses overflow", [0, u64::MAX, 0, 0]),
        ("is guest memory shared", [0, guest.size + guest.offset + 1, 0, 0]),
    ];
    for (said, [physical, size, user, offset]) in cases {
        let region = u64s(&[0, physical, size, user, offset]);
        refused(said, Code::AddMemReg, &region, &[guest.file.as_fd()], Monitor::negotiate);
    }
    let region = [0x1000, 0x2000, 0x1000, 0];
    let table = [u32s(&[2, 0]), u64s(&region), u64s(&region)].concat();
    refused("overlaps", Code::SetMemTable, &table, &[guest.file.as_fd(); 2], Monitor::negotiate);
    let event = Events::new().call;
    let region = u64s(&[0, 0, 4096, 0, 0]);
    refused("no file that can be mapped", Code::AddMemReg, &region, &[event.as_fd()], Monitor::negotiate);
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let guest = Guest::new();
    let timer: OwnedFd = {
        use rustix::event::epoll;
        // Like an eventfd an anonymous inode: only its name tells.
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()
    };
    let pipe = rustix::pipe::pipe().unwrap();
    let ready: fn(&Monitor) = |monitor| {
        let guest = Guest::new();
        monitor.negotiate();
        monitor.add_memory(&guest);
        monitor.start_ring(1, 0, &guest, &Events::new());
    };
    for wrong in [&guest.file, &timer, &pipe.0] {
        refused("is not an eventfd", Code::SetVringKick, &u64s(&[1]), &[wrong.as_fd()], ready);
    }
    for wrong in [&guest.file, &timer, &pipe.1] {
        refused("is not an eventfd or a UNIX socket", Code::SetVringCall, &u64s(&[1]), &[wrong.as_fd()], ready);
        refused("is not an eventfd or a UNIX socket", Code::SetVringErr, &u64s(&[1]), &[wrong.as_fd()], ready);
    }
    refused("no UNIX stream socket", Code::SetBackendReqFd, &[], &[guest.file.as_fd()], ready);
}

#[test]
fn changes_that_need_a_ring_at_rest_are_refused_while_it_runs() {
    let running: fn(&Monitor) = |monitor| drop(monitor.set_up(&Guest::new()));
    refused("a ring is running", Code::SetVringNum, &u32s(&[1, 8]), &[], running);
    refused("a ring is running", Code::SetVringBase, &u32s(&[1, 0]), &[], running);
    refused("a ring is running", Code::SetFeatures, &u64s(&[features::VERSION_1]), &[], running);
    let event = Events::new().kick;
    refused("no size or no addresses", Code::SetVringKick, &u64s(&[1]), &[event.as_fd()], Monitor::negotiate);
}

#[test]
fn headers_that_make_no_sense_end_the_connection() {
    let cases = [
        ("request 0 is not known", u32s(&[0, 1, 0])),
        ("request 6 is not known", u32s(&[6, 1, 8])),
        ("request 4294967295 is not known", u32s(&[u32::MAX, 1, 0])),
        ("header flags 0x0", u32s(&[1, 0, 0])),
        ("header flags 0x2", u32s(&[1, 2, 0])),
        ("header flags 0x5", u32s(&[1, 5, 0])),
        ("header flags 0x11", u32s(&[1, 0x11, 0])),
        ("a payload of 4097 bytes", u32s(&[1, 1, 4097])),
        ("a payload of 4294967295 bytes", u32s(&[1, 1, u32::MAX])),
    ];
    for (said, header) in cases {
        let (worker, monitor) = Worker::serving();
        assert!(support::send(monitor.socket.as_fd(), &header, &[]));
        assert!(monitor.is_hung_up());
        let (exit, log) = worker.end();
        assert!(exit == Exit::Protocol.code() && log.contains(said), "{said}: {exit} {log}");
    }
}

#[test]
fn a_monitor_that_leaves_inside_a_message_is_told_from_one_that_leaves() {
    let whole = message(Code::SetFeatures as u32, 1, &[0; 8]);
    for length in 1..whole.len() {
        let (worker, monitor) = Worker::serving();
        assert!(support::send(monitor.socket.as_fd(), &whole[..length], &[]));
        drop(monitor);
        let (exit, log) = worker.end();
        assert_eq!(exit, Exit::Protocol.code(), "{length} bytes");
        assert!(log.contains("inside a message"), "{log}");
    }
}

#[test]
fn a_monitor_that_never_pauses_does_not_keep_the_supervisor_from_being_heard() {
    let (worker, monitor) = Worker::serving();
    let flood = message(Code::SetOwner as u32, 1, &[]).repeat(500);
    let flooding: Vec<_> = (0..3)
        .map(|_| {
            let (socket, flood) = (monitor.socket.try_clone().unwrap(), flood.clone());
            // Whole messages by one send each: the threads do not cut into one another.
            std::thread::spawn(move || while support::send(socket.as_fd(), &flood, &[]) {})
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    let mut stop = Message::new(Kind::Stop, support::GENERATION);
    stop.a = 100;
    worker.say(&stop, &[]);
    assert_eq!(worker.end().0, Exit::Stopped.code());
    for thread in flooding {
        thread.join().unwrap();
    }
}

/// Sessions in this very process, so that thousands fit: any panic fails the test, any hang runs into the limit.
mod random {
    use super::*;
    use virtiofs_worker::config::Config;
    use virtiofs_worker::fs::Server;
    use virtiofs_worker::notify::Waker;
    use virtiofs_worker::queue::{inflight::InFlight, thread::Work, Queue};
    use virtiofs_worker::session::{socket::Socket, Device, End, Session};
    use virtiofs_worker::stats::Stats;

    fn device() -> Device {
        let config = Config::parse(support::document(1).as_bytes()).unwrap();
        let stats: &'static Stats = Box::leak(Box::new(Stats::private()));
        let inheritance = support::Inheritance::new(1);
        let (share, arena) = (support::clone(&inheritance, 7), support::clone(&inheritance, 6));
        let server = Server::new(&config, share, support::procfs(), arena, stats, Box::new(|_| ())).unwrap();
        let server = Arc::new(server);
        let work =
            Arc::new(Work { server: Arc::clone(&server), inflight: InFlight::new(2, stats), stats, tightening: None });
        let wake = Arc::new(Waker::new().unwrap());
        let queues = (0..2).map(|ring| Queue::spawn(ring, &wake, &work).unwrap()).collect();
        Device { queues, server, proc: support::procfs(), config_space: Device::config_space("tag", 1) }
    }

    /// Advances until the session ends or has nothing more to read.
    fn exhaust(session: &mut Session<'_>) -> Option<End> {
        let start = Instant::now();
        loop {
            match session.advance() {
                Err(end) => return Some(end),
                Ok(()) if session.deadline().is_none() => return None,
                Ok(()) => std::thread::sleep(Duration::from_micros(100)),
            }
            assert!(start.elapsed() < support::LIMIT, "a ring never comes to rest");
        }
    }

    #[test]
    fn random_bytes_end_sessions_and_nothing_else() {
        let mut random = Random::new(3);
        let device = device();
        for _ in 0..2000 {
            let (ours, theirs) = support::pair(rustix::net::SocketType::STREAM);
            let mut session = Session::new(&device, Socket::new(theirs).unwrap());
            let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
            support::send(ours.as_fd(), &bytes, &[]);
            drop(ours);
            assert!(exhaust(&mut session).is_some(), "a closed connection ends its session");
        }
    }

    #[test]
    fn random_well_formed_messages_end_sessions_and_nothing_else() {
        let mut random = Random::new(5);
        let (guest, events) = (Guest::new(), Events::new());
        let (mut ended, mut refused) = (0, 0);
        for _ in 0..300 {
            let device = device();
            let (ours, theirs) = support::pair(rustix::net::SocketType::STREAM);
            let mut session = Session::new(&device, Socket::new(theirs).unwrap());
            support::send(
                ours.as_fd(),
                &message(Code::SetProtocolFeatures as u32, 1, &u64s(&[protocol::OFFERED])),
                &[],
            );
            let mut end = None;
            for _ in 0..15 {
                let (bytes, descriptors) = random_message(&mut random, &guest, &events);
                support::send(ours.as_fd(), &bytes, &descriptors);
                end = exhaust(&mut session);
                if end.is_some() {
                    break;
                }
                support::drain(&ours);
            }
            refused += u32::from(matches!(end, Some(End::Refused(..))));
            ended += u32::from(end.is_some());
        }
        assert!(refused > 0 && ended < 300, "some sessions end early ({ended}), some go on");
    }

    /// A message whose length and descriptors mostly fit, with values that sometimes do.
    fn random_message<'e>(random: &mut Random, guest: &'e Guest, events: &'e Events) -> (Vec<u8>, Vec<BorrowedFd<'e>>) {
        let code = Code::ALL[random.below(Code::ALL.len() as u32) as usize];
        let ring = random.below(2);
        let small = [0, 1, 16, 0, 1, 16, 0x1_0000][random.below(7) as usize];
        let mut descriptors = vec![];
        let payload = match code {
            Code::SetFeatures => u64s(&[features::OFFERED]),
            Code::SetProtocolFeatures => u64s(&[protocol::OFFERED]),
            Code::SetVringNum => u32s(&[ring, 16]),
            Code::SetVringBase | Code::GetVringBase => u32s(&[ring, small]),
            Code::SetVringEnable => u32s(&[ring, random.below(2)]),
            Code::SetVringAddr => guest.addresses(ring),
            Code::SetVringKick => {
                descriptors.push(events.kick.as_fd());
                u64s(&[u64::from(ring)])
            }
            Code::SetVringCall | Code::SetVringErr => {
                descriptors.push(events.call.as_fd());
                u64s(&[u64::from(ring)])
            }
            Code::AddMemReg => {
                descriptors.push(guest.file.as_fd());
                u64s(&[0, guest.physical, guest.size, guest.user, guest.offset])
            }
            Code::RemMemReg => u64s(&[0, guest.physical, guest.size, guest.user, 0]),
            Code::SetMemTable => {
                descriptors.push(guest.file.as_fd());
                [u32s(&[1, 0]), u64s(&[guest.physical, guest.size, guest.user, guest.offset])].concat()
            }
            _ => vec![0; sizes(code)],
        };
        let need_reply = if random.below(2) == 0 { NEED_REPLY } else { 0 };
        (message(code as u32, 1 | need_reply, &payload), descriptors)
    }
}
