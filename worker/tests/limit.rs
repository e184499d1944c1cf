//! Limits on a running ring: what waits, what does not, and where it comes out. Runs the real binary.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use support::guest::{kick, Guest, RING_SIZE};
use support::monitor::{u32s, Events, Monitor};
use support::{memfd, Inheritance, Worker, GENERATION, LIMIT};
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::ipc::{Exit, Kind, Message};
use virtiofs_worker::limit::Class;
use virtiofs_worker::session::message::Code;
use virtiofs_worker::stats::{Counter, LIMITS_BY_CLASS};

const ROOT: u64 = 1;
/// No hang, on a machine however busy; the promise is 200 ms.
const PROMPT: Duration = Duration::from_secs(2);

/// A `limits` object; rates that are not given are none.
fn limits(rates: &[(&str, u64)], max_delay_ms: u32) -> String {
    let rate = |name: &str| {
        let found = rates.iter().find(|(other, _)| *other == name);
        found.map_or("null".into(), |(_, rate)| rate.to_string())
    };
    let rates = ["read", "write", "read_ops", "write_ops", "metadata_ops"];
    let rates: Vec<String> = rates.iter().map(|name| format!(r#""{name}": {}"#, rate(name))).collect();
    format!(r#"{{{}, "burst_ms": 1, "max_delay_ms": {max_delay_ms}}}"#, rates.join(", "))
}

fn slow(rates: &[(&str, u64)]) -> String {
    limits(rates, 5000)
}

/// A mounted share with a file of 64 KiB that is open, on ring 1 and as many more as wanted.
struct Mounted {
    worker: Worker,
    monitor: Monitor,
    guest: Guest,
    events: Vec<Events>,
    node: u64,
    fh: u64,
    granted: Vec<u8>,
}

impl Mounted {
    fn new(limits: &str) -> Self {
        Self::with_queues(limits, 1)
    }

    fn with_queues(limits: &str, queues: u16) -> Self {
        let mut inheritance = Inheritance::new(queues);
        let document = support::document(queues).replace(r#""limits":null"#, &format!(r#""limits":{limits}"#));
        inheritance.replace(4, Some(memfd(document.as_bytes(), true)));
        let worker = inheritance.start();
        assert_eq!(worker.hear().kind, Kind::Ready);
        let monitor = worker.connect();
        let guest = Guest::new();
        fs::write(worker.share.join("file"), content()).unwrap();
        let mut events = vec![monitor.set_up(&guest)];
        for ring in 2..=u32::from(queues) {
            let of_ring = Events::new();
            monitor.start_ring(ring, 0, &guest, &of_ring);
            monitor.enable(ring, true);
            events.push(of_ring);
        }
        let mut mounted = Self { worker, monitor, guest, events, node: 0, fh: 0, granted: Vec::new() };
        let init: Vec<u8> = [7u32, 38, 0, 0].iter().flat_map(|field| field.to_le_bytes()).collect();
        mounted.granted = mounted.ask(Opcode::Init, 0, &init).expect("INIT");
        let entry = mounted.ask(Opcode::Lookup, ROOT, b"file\0").expect("LOOKUP");
        mounted.node = u64::from_le_bytes(entry[..8].try_into().unwrap());
        let open = mounted.ask(Opcode::Open, mounted.node, &u32s(&[libc::O_RDWR as u32, 0])).expect("OPEN");
        mounted.fh = u64::from_le_bytes(open[..8].try_into().unwrap());
        mounted
    }

    fn post_to(&self, ring: u32, unique: u64, opcode: Opcode, node: u64, body: &[u8]) -> u64 {
        let mut request = u32s(&[40 + body.len() as u32, opcode as u32]);
        request.extend(unique.to_le_bytes());
        request.extend(node.to_le_bytes());
        request.extend([0; 16]);
        request.extend(body);
        let place = self.guest.ask(ring, &request, 0x1100);
        kick(&self.events[ring as usize - 1].kick);
        place
    }

    fn post(&self, unique: u64, opcode: Opcode, body: &[u8]) -> u64 {
        self.post_to(1, unique, opcode, self.node, body)
    }

    fn ask(&self, opcode: Opcode, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let place = self.post_to(1, 1, opcode, node, body);
        let start = Instant::now();
        while self.guest.reply(place).0 == 0 {
            assert!(start.elapsed() < LIMIT, "no reply to {opcode:?}");
            std::thread::sleep(Duration::from_micros(200));
        }
        match self.guest.reply(place).1 {
            0 => Ok(self.guest.read(place + 16, 256)),
            error => Err(-error),
        }
    }

    fn read_body(&self, offset: u64, size: u32) -> Vec<u8> {
        let mut body = self.fh.to_le_bytes().to_vec();
        body.extend(offset.to_le_bytes());
        body.extend(size.to_le_bytes());
        body.extend([0; 20]);
        body
    }

    fn post_read(&self, unique: u64, offset: u64) -> u64 {
        self.post(unique, Opcode::Read, &self.read_body(offset, 4096))
    }

    fn post_write(&self, unique: u64, offset: u64, data: &[u8]) -> u64 {
        let body = [self.read_body(offset, data.len() as u32), data.to_vec()].concat();
        self.post(unique, Opcode::Write, &body)
    }

    /// Which requests have been answered on *ring* since used index *from*, in order, by their uniques.
    fn answered(&self, ring: u32, from: u16) -> Vec<u64> {
        let places = (from..self.guest.used_index(ring)).map(|index| self.guest.used_entry(ring, index).0);
        places.map(|head| self.guest.reply(place(ring, head)).0).collect()
    }

    fn wait_answered(&self, ring: u32, from: u16, count: usize) -> Vec<u64> {
        self.guest.wait_used(ring, from + count as u16);
        self.answered(ring, from)
    }

    fn change(&self, serial: u64, limits: &str) {
        let document: OwnedFd = memfd(
            format!(
                r#"{{"rules": {{"hide": [], "readonly": [], "allow": [], "case": "sensitive", "strict_links": false}},
                     "limits": {limits}, "log_level": "info"}}"#
            )
            .as_bytes(),
            true,
        );
        let message = Message { a: serial, ..Message::new(Kind::Settings, GENERATION) };
        self.worker.say(&message, &[document.as_fd()]);
        let applied = self.worker.hear_kind(Kind::Applied);
        assert_eq!((applied.a, applied.code), (serial, 0));
    }

    /// Comes back when everything that was posted has been taken from the ring.
    fn taken(&self) {
        self.ask(Opcode::Getattr, self.node, &[0; 16]).unwrap();
    }

    /// Admitted, delayed, nanoseconds delayed and bytes of a class.
    fn counters(&self, class: Class) -> [u64; 4] {
        let first = LIMITS_BY_CLASS + 4 * class as usize;
        [0, 1, 2, 3].map(|word| self.worker.word(first + word))
    }
}

/// Where the reply to the chain at *head* lies.
fn place(ring: u32, head: u32) -> u64 {
    support::guest::DATA + 0x4_0000 * u64::from(ring) + 0x4000 * u64::from(head / 2) + 0x2000
}

fn content() -> Vec<u8> {
    (0..65536u32).map(|at| (at / 4096) as u8 + 1).collect()
}

/// A second of the machine's time at the most, in the middle of which nothing comes.
fn stays<T: PartialEq + std::fmt::Debug>(expected: &T, look: impl Fn() -> T) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert_eq!(look(), *expected);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_waits_comes_out_in_order_with_its_own_bytes_and_on_time() {
    let mounted = Mounted::new(&slow(&[("read", 32 * 1024)]));
    let before = mounted.guest.used_index(1);
    let start = Instant::now();
    let places: Vec<u64> = (0..6).map(|number| mounted.post_read(10 + number, number * 8192)).collect();
    assert_eq!(mounted.wait_answered(1, before, 6), [10, 11, 12, 13, 14, 15]);
    // The first goes at once, and each of the others when the one before is paid for.
    assert!(start.elapsed() >= Duration::from_millis(620), "{:?}", start.elapsed());
    for (number, place) in places.into_iter().enumerate() {
        assert_eq!(mounted.guest.read(place + 16, 4096), [2 * number as u8 + 1; 4096]);
    }
    let [admitted, delayed, nanoseconds, bytes] = mounted.counters(Class::Read);
    assert_eq!((admitted, delayed, bytes), (6, 5, 6 * 4096));
    assert!(nanoseconds >= 1_500_000_000, "{nanoseconds}");
}

#[test]
fn what_never_waits_passes_what_waits_and_so_does_another_class() {
    let mounted = Mounted::new(&slow(&[("read", 1024), ("write_ops", 1)]));
    mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    let before = mounted.guest.used_index(1);
    mounted.post_read(20, 0);
    mounted.post_write(21, 0, b"first");
    mounted.post_write(22, 0, b"waits");
    mounted.post(23, Opcode::Getattr, &[0; 16]);
    mounted.post(24, Opcode::Flush, &[mounted.fh.to_le_bytes(), [0; 8], [0; 8]].concat());
    mounted.post(25, Opcode::Statfs, &[]);
    mounted.post_to(1, 0, Opcode::Forget, 99, &1u64.to_le_bytes());
    let start = Instant::now();
    assert_eq!(mounted.wait_answered(1, before, 5), [21, 23, 24, 25, 0]);
    assert!(start.elapsed() < PROMPT);
    assert_eq!(mounted.wait_answered(1, before, 6)[5], 22);
    assert_eq!(fs::read(mounted.worker.share.join("file")).unwrap()[..5], *b"waits");
}

#[test]
fn a_ring_full_of_waiting_requests_holds_up_no_other_ring() {
    let mounted = Mounted::with_queues(&slow(&[("read", 1024), ("write", 1024)]), 2);
    mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    let before = mounted.guest.used_index(1);
    for number in 0..u64::from(RING_SIZE) / 2 {
        mounted.post_read(number, 0);
    }
    let start = Instant::now();
    for round in 0..4 {
        let place = mounted.post_to(2, 100 + round, Opcode::Getattr, mounted.node, &[0; 16]);
        mounted.post_to(2, 0, Opcode::Forget, 99, &1u64.to_le_bytes());
        mounted.guest.wait_used(2, 2 * (round as u16 + 1));
        assert_eq!(mounted.guest.reply(place), (100 + round, 0));
    }
    assert!(start.elapsed() < PROMPT);
    assert_eq!(mounted.guest.used_index(1), before);
}

#[test]
fn queues_draw_from_one_budget() {
    let mounted = Mounted::with_queues(&slow(&[("read_ops", 20)]), 2);
    let before = mounted.guest.used_index(1);
    let start = Instant::now();
    for number in 0..8 {
        mounted.post_read(number, 0);
        mounted.post_to(2, number, Opcode::Read, mounted.node, &mounted.read_body(0, 512));
    }
    mounted.guest.wait_used(1, before + 8);
    mounted.guest.wait_used(2, 8);
    assert!(start.elapsed() >= Duration::from_millis(740), "{:?}", start.elapsed());
}

#[test]
fn a_short_read_pays_for_what_it_got() {
    let mounted = Mounted::new(&slow(&[("read", 1000)]));
    fs::write(mounted.worker.share.join("file"), [7; 10]).unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    }
    assert!(start.elapsed() < LIMIT, "{:?}, and 78 s if all were charged", start.elapsed());
    assert_eq!(mounted.counters(Class::Read)[3], 200);
}

#[test]
fn a_ring_that_comes_to_rest_runs_what_waits_at_once_and_it_is_owed() {
    let mounted = Mounted::new(&slow(&[("write", 1024)]));
    mounted.post_write(1, 0, &[1; 1024]);
    let before = mounted.guest.used_index(1);
    for number in 1..=4u64 {
        mounted.post_write(30 + number, 4096 * number, &[0x30 + number as u8; 2048]);
    }
    mounted.taken();
    let start = Instant::now();
    let base = mounted.monitor.vring_base(1);
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert_eq!(base, u32::from(mounted.guest.used_index(1)), "all that was taken has come back");
    let answered = mounted.answered(1, before);
    assert_eq!(answered[answered.len() - 4..], [31, 32, 33, 34]);
    let file = fs::read(mounted.worker.share.join("file")).unwrap();
    for number in 1..=4 {
        assert_eq!(file[4096 * number..][..2048], [0x30 + number as u8; 2048]);
    }
    // Started again where it stood: 9 KiB are owed now, at 1 KiB a second.
    let events = Events::new();
    mounted.monitor.start_ring(1, base, &mounted.guest, &events);
    let mounted = Mounted { events: vec![events], ..mounted };
    let again = mounted.guest.used_index(1);
    mounted.post_write(40, 0, b"x");
    stays(&again, || mounted.guest.used_index(1));
    mounted.change(1, "null");
    assert_eq!(mounted.wait_answered(1, again, 1), [40]);
}

#[test]
fn a_client_that_leaves_a_stop_and_a_reset_lose_nothing_that_waits() {
    type Ending = fn(&Mounted);
    let endings: [(Ending, Option<Exit>); 3] = [
        (
            |mounted| rustix::net::shutdown(&mounted.monitor.socket, rustix::net::Shutdown::Both).unwrap(),
            Some(Exit::ClientLeft),
        ),
        (
            |mounted| mounted.worker.say(&Message { a: 5000, ..Message::new(Kind::Stop, GENERATION) }, &[]),
            Some(Exit::Stopped),
        ),
        (|mounted| assert_eq!(mounted.monitor.demand(Code::ResetDevice, &[], &[]), 0), None),
    ];
    for (end, exit) in endings {
        let mounted = Mounted::new(&slow(&[("write", 1024)]));
        let before = mounted.guest.used_index(1);
        for number in 0..5u8 {
            mounted.post_write(30 + u64::from(number), 0x1000 * u64::from(number), &[0x40 + number; 2048]);
        }
        mounted.taken();
        assert_eq!(mounted.guest.used_index(1), before + 2);
        let start = Instant::now();
        end(&mounted);
        mounted.guest.wait_used(1, before + 6);
        assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        let file = fs::read(mounted.worker.share.join("file")).unwrap();
        for number in 0..5u8 {
            assert_eq!(file[0x1000 * usize::from(number)..][..2048], [0x40 + number; 2048]);
        }
        if let Some(exit) = exit {
            assert_eq!(mounted.worker.end().0, exit.code());
        }
    }
}

#[test]
fn new_memory_or_addresses_leave_waiting_what_waits() {
    let mounted = Mounted::new(&slow(&[("read", 8192)]));
    let before = mounted.guest.used_index(1);
    for number in 0..3 {
        mounted.post_read(50 + number, 4096 * number);
    }
    mounted.taken();
    assert_eq!(mounted.monitor.demand(Code::SetVringAddr, &mounted.guest.addresses(1), &[]), 0);
    let mut answered = mounted.wait_answered(1, before, 4);
    answered.retain(|unique| *unique >= 50);
    assert_eq!(answered, [50, 51, 52]);
    assert_eq!(mounted.counters(Class::Read)[1], 2);
}

#[test]
fn limits_change_ten_times_under_load_and_nothing_is_lost_or_out_of_order() {
    let mounted = Mounted::new(&slow(&[("read", 16 * 1024)]));
    let first = mounted.guest.used_index(1);
    let (mut posted, mut serial) = (0u64, 0);
    let rates = ["64", "null", "100000", "1", "50000", "null", "3", "70000", "2", "1000000"];
    for rate in rates {
        for _ in 0..8 {
            // A slot is free again once its answer is there.
            let done = u64::from(mounted.guest.used_index(1) - first);
            if posted - done < 8 {
                mounted.post_read(1000 + posted, 4096 * (posted % 16));
                posted += 1;
            }
        }
        serial += 1;
        mounted.change(serial, &if rate == "null" { rate.into() } else { slow(&[("read", rate.parse().unwrap())]) });
        std::thread::sleep(Duration::from_millis(50));
    }
    mounted.guest.wait_used(1, first + posted as u16);
    let last: Vec<u64> = mounted.answered(1, mounted.guest.used_index(1) - 8);
    assert_eq!(last, (1000 + posted - 8..1000 + posted).collect::<Vec<_>>());
    assert!(posted > 20, "{posted}");
    for at in 0..8 {
        let reply = place(1, 2 * at);
        let (unique, error) = mounted.guest.reply(reply);
        assert_eq!(error, 0);
        assert_eq!(mounted.guest.read(reply + 16, 4096), [((unique - 1000) % 16) as u8 + 1; 4096]);
    }
}

#[test]
fn a_new_limit_holds_at_once_for_what_waits_already() {
    let mounted = Mounted::new(&slow(&[("read", 1)]));
    mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    let before = mounted.guest.used_index(1);
    mounted.post_read(60, 0);
    stays(&before, || mounted.guest.used_index(1));
    assert_eq!(mounted.worker.counter(Counter::OldestStart), 0, "waiting for a limit is no work");
    let start = Instant::now();
    mounted.change(1, &slow(&[("read", 1 << 30)]));
    mounted.guest.wait_used(1, before + 1);
    assert!(start.elapsed() < PROMPT);
}

#[test]
fn a_wait_beyond_max_delay_is_counted_each_time_and_told_of_once() {
    let mounted = Mounted::new(&limits(&[("metadata_ops", 10)], 50));
    let before = mounted.guest.used_index(1);
    for number in 0..6 {
        mounted.post(70 + number, Opcode::Getattr, &[0; 16]);
    }
    mounted.guest.wait_used(1, before + 6);
    let overdue = mounted.worker.counter(Counter::Overdue);
    assert!((4..=8).contains(&overdue), "{overdue}");
    rustix::net::shutdown(&mounted.monitor.socket, rustix::net::Shutdown::Both).unwrap();
    let (_, log) = mounted.worker.end();
    assert_eq!(log.matches("throttled: a metadata operation waits for").count(), 1, "{log}");
}

#[test]
fn init_offers_so_little_that_a_quarter_of_the_ring_is_filled_at_most() {
    let field = |granted: &[u8], at: usize, bytes: usize| {
        let mut value = [0; 4];
        value[..bytes].copy_from_slice(&granted[at..at + bytes]);
        u32::from_le_bytes(value)
    };
    let cases = [
        ("null".to_owned(), 4096, 1 << 20),
        (slow(&[("metadata_ops", 1000)]), 4, 1 << 20),
        (slow(&[("read", 1000)]), 4, 64 << 10),
        (slow(&[("write", 1_000_000), ("read", 1 << 30)]), 4, 249_856),
        (slow(&[("write", 1 << 30)]), 4, 1 << 20),
    ];
    for (limits, background, most) in cases {
        let granted = Mounted::new(&limits).granted;
        assert_eq!(field(&granted, 16, 2), background, "max_background under {limits}");
        assert_eq!(field(&granted, 20, 4), most, "max_write under {limits}");
        assert_eq!(field(&granted, 28, 2), most / 4096, "max_pages under {limits}");
    }
}

#[test]
fn a_chain_that_changes_while_it_waits_is_served_as_what_it_was() {
    let mounted = Mounted::new(&slow(&[("read_ops", 2)]));
    mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    let before = mounted.guest.used_index(1);
    let place = mounted.post_read(80, 0);
    std::thread::sleep(Duration::from_millis(50));
    // The opcode in the guest's memory becomes one that never waits, which would be a way around the limit.
    mounted.guest.write(place - 0x2000 + 4, &(Opcode::Statfs as u32).to_le_bytes());
    mounted.guest.wait_used(1, before + 1);
    assert_eq!(mounted.guest.reply(place), (80, 0));
    assert_eq!(mounted.guest.read(place + 16, 4096), [1; 4096]);
    let slot = (place - 0x2000 - support::guest::DATA - 0x4_0000) / 0x4000;
    let place = mounted.post_read(81, 0);
    std::thread::sleep(Duration::from_millis(50));
    // One that leads out of memory ends the ring, as it would have when it was taken.
    let desc = support::guest::Desc { address: 1 << 60, length: 40, flags: 0, next: 0 };
    mounted.guest.describe(1, 2 * ((slot as u16 + 1) % 8), desc);
    assert!(support::guest::signalled(&mounted.events[0].error));
    assert_eq!(mounted.guest.reply(place).0, 0);
    assert_eq!(mounted.worker.counter(Counter::RingErrors), 1);
}

#[test]
fn a_driver_with_more_requests_waiting_than_its_ring_has_entries_breaks_it() {
    let mounted = Mounted::new(&slow(&[("read", 1)]));
    mounted.ask(Opcode::Read, mounted.node, &mounted.read_body(0, 4096)).unwrap();
    mounted.post_read(90, 0);
    let head = 2 * (mounted.guest.used_index(1) % 8);
    for _ in 0..3 {
        for _ in 0..RING_SIZE / 2 {
            mounted.guest.offer(1, head);
        }
        kick(&mounted.events[0].kick);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(support::guest::signalled(&mounted.events[0].error));
    assert_eq!(mounted.worker.counter(Counter::RingErrors), 1);
    rustix::net::shutdown(&mounted.monitor.socket, rustix::net::Shutdown::Both).unwrap();
    assert!(mounted.worker.end().1.contains("more than 16 requests wait"));
}

#[test]
fn a_copy_goes_in_pieces_and_pays_for_its_bytes() {
    let mounted = Mounted::new(&slow(&[("write", 256 * 1024)]));
    fs::write(mounted.worker.share.join("file"), vec![7; 1 << 20]).unwrap();
    let body: Vec<u8> = [mounted.fh, 0, mounted.node, mounted.fh, 512 * 1024, 400_000, 0]
        .iter()
        .flat_map(|field| field.to_le_bytes())
        .collect();
    let reply = mounted.ask(Opcode::CopyFileRange, mounted.node, &body).unwrap();
    let copied = u32::from_le_bytes(reply[..4].try_into().unwrap());
    assert_eq!(copied, 64 * 1024);
    assert_eq!(mounted.counters(Class::Write), [1, 0, 0, 64 * 1024]);
    let start = Instant::now();
    mounted.ask(Opcode::CopyFileRange, mounted.node, &body).unwrap();
    assert!(start.elapsed() > Duration::from_millis(150), "a quarter of a second less what the first took");
}
