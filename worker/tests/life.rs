//! The life of a worker: descriptors, orders, ends. Runs the real binary.

mod support;

use support::guest::{signalled, Guest};
use support::Worker;
use virtiofs_worker::ipc::{Exit, Kind};
use virtiofs_worker::stats::{Counter, MAGIC};

#[test]
fn a_worker_reports_ready_serves_and_leaves_with_its_client() {
    let (worker, monitor) = Worker::serving();
    let guest = Guest::new();
    let events = monitor.set_up(&guest);
    let (unique, error) = guest.round_trip(1, &events, 42);
    assert!(unique == 42 && error < 0, "reply to an unknown opcode: {unique} {error}");
    assert!(signalled(&events.call));
    drop(monitor);
    assert_eq!(worker.hear_kind(Kind::Leaving).code, Exit::ClientLeft as u32);
    assert_eq!(worker.counter(Counter::Magic), MAGIC);
    assert_eq!(worker.counter(Counter::OldestStart), 0);
    assert_eq!(worker.end(), (Exit::ClientLeft.code(), String::new()));
}
