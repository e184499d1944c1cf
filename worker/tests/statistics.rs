//! The statistics page of a running worker, after requests through a ring. Runs the real binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::guest::{kick, Guest};
use support::monitor::{u32s, Events, Monitor};
use support::{memfd, Inheritance, Worker, LIMIT};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::ipc::Kind;
use virtiofs_worker::limit::Class;
use virtiofs_worker::stats::{
    Counter, BUCKETS, ERRNOS, ERRORS_BY_CLASS, LATENCY_BY_CLASS, NANOSECONDS_BY_OPCODE, RINGS,
};

const ROOT: u64 = 1;

struct Serving {
    worker: Worker,
    guest: Guest,
    events: Events,
    _monitor: Monitor,
}

impl Serving {
    /// A worker whose guest has sent INIT.
    fn new() -> Self {
        Self::under("null")
    }

    /// With these limits, as the configuration has them.
    fn under(limits: &str) -> Self {
        let mut inheritance = Inheritance::new(1);
        let document = support::document(1).replace(r#""limits":null"#, &format!(r#""limits":{limits}"#));
        inheritance.replace(4, Some(memfd(document.as_bytes(), true)));
        let worker = inheritance.start();
        assert_eq!(worker.hear().kind, Kind::Ready);
        let monitor = worker.connect();
        let guest = Guest::new();
        let events = monitor.set_up(&guest);
        let serving = Self { worker, guest, events, _monitor: monitor };
        serving.carry_out(&[(Opcode::Init as u32, &u32s(&[7, 38, 0, 0]))]);
        serving
    }

    /// Makes all of *requests*, on the root, available at once, and waits until all have come back.
    fn carry_out(&self, requests: &[(u32, &[u8])]) {
        let before = self.guest.used_index(1);
        self.post(requests);
        self.guest.wait_used(1, before.wrapping_add(requests.len() as u16));
    }

    fn post(&self, requests: &[(u32, &[u8])]) {
        for (opcode, body) in requests {
            let mut request = u32s(&[40 + body.len() as u32, *opcode, 1, 0]);
            request.extend(ROOT.to_le_bytes());
            request.extend([0; 16]);
            request.extend(*body);
            self.guest.ask(1, &request, 0x1100);
        }
        kick(&self.events.kick);
    }

    fn latencies(&self, class: Class) -> Vec<u64> {
        (0..BUCKETS).map(|bucket| self.worker.word(LATENCY_BY_CLASS + BUCKETS * class as usize + bucket)).collect()
    }

    fn errors(&self, class: Class, errno: i32) -> u64 {
        let place = ERRNOS.iter().position(|known| *known == errno).unwrap();
        self.worker.word(ERRORS_BY_CLASS + ERRNOS.len() * class as usize + place)
    }

    /// Of ring 1: requests in it, most since launch, batches, requests given back.
    fn ring(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|word| self.worker.word(RINGS + 8 + word))
    }
}

#[test]
fn every_request_is_in_a_bucket_of_its_class_and_in_the_time_of_its_opcode() {
    let serving = Serving::new();
    serving.carry_out(&[(Opcode::Getattr as u32, &[0; 16]), (Opcode::Statfs as u32, &[])]);
    let nobody_s_handle = [7; 40];
    serving.carry_out(&[(Opcode::Read as u32, &nobody_s_handle), (Opcode::Fallocate as u32, &[0; 32])]);
    let requests = |class| serving.latencies(class).iter().sum::<u64>();
    assert_eq!(Class::ALL.map(requests), [1, 1, 3]);
    for opcode in [Opcode::Init, Opcode::Getattr, Opcode::Statfs, Opcode::Read, Opcode::Fallocate] {
        let nanoseconds = serving.worker.word(NANOSECONDS_BY_OPCODE + opcode as usize);
        assert!(0 < nanoseconds && nanoseconds < 20_000_000_000, "{opcode:?} took {nanoseconds} ns");
    }
    assert_eq!(serving.worker.word(NANOSECONDS_BY_OPCODE + Opcode::Write as usize), 0);
}

#[test]
fn an_error_is_found_by_its_number_and_the_class_of_what_failed() {
    let serving = Serving::new();
    serving.carry_out(&[(Opcode::Lookup as u32, b"missing\0"), (Opcode::Read as u32, &[7; 40]), (9999, &[])]);
    assert_eq!(serving.errors(Class::Metadata, libc::ENOENT), 1);
    assert_eq!(serving.errors(Class::Read, libc::EBADF), 1);
    assert_eq!(serving.errors(Class::Metadata, libc::ENOSYS), 1);
    assert_eq!(serving.worker.counter(Counter::Errors), 3);
    assert_eq!(serving.latencies(Class::Metadata).iter().sum::<u64>(), 3, "INIT, LOOKUP and what nobody knows");
}

#[test]
fn a_ring_tells_its_depth_its_batches_and_what_was_in_them() {
    let serving = Serving::new();
    assert_eq!(serving.ring(), [0, 1, 1, 1]);
    let getattr: (u32, &[u8]) = (Opcode::Getattr as u32, &[0; 16]);
    // A worker that has not parked yet may take the first ones before the last one is there.
    let rounds = (1..100).find(|_| {
        serving.carry_out(&[getattr; 6]);
        serving.ring()[1] == 6
    });
    let rounds: u64 = rounds.expect("six requests at once");
    let [now, highest, batches, given_back] = serving.ring();
    assert_eq!((now, highest, given_back), (0, 6, 1 + 6 * rounds));
    assert!(batches > rounds && batches <= given_back, "{batches} batches in {rounds} rounds");
    serving.carry_out(&[getattr; 2]);
    let [now, highest, _, given_back] = serving.ring();
    assert_eq!((now, highest, given_back), (0, 6, 3 + 6 * rounds), "the highest stays");
}

#[test]
fn what_a_limit_holds_back_is_in_the_depth_and_not_in_the_time_that_requests_took() {
    let rates = r#""read":null,"write":null,"read_ops":null,"write_ops":null,"metadata_ops":1"#;
    let serving = Serving::under(&format!(r#"{{{rates},"burst_ms":1,"max_delay_ms":60000}}"#));
    let getattr: (u32, &[u8]) = (Opcode::Getattr as u32, &[0; 16]);
    serving.post(&[getattr; 4]);
    let start = Instant::now();
    while serving.ring()[0] != 2 {
        assert!(start.elapsed() < LIMIT, "{:?}", serving.ring());
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = serving.worker.word(NANOSECONDS_BY_OPCODE + Opcode::Getattr as usize);
    assert!(took < 900_000_000, "{took} ns, of which a second was waiting");
}
