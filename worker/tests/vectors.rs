//! The golden vectors of ipc/vectors.json, which the supervisor's tests read too.

use serde_json::Value;

use virtiofs_worker::config::Config;
use virtiofs_worker::fuse::Opcode;
use virtiofs_worker::ipc::Message;
use virtiofs_worker::limit::Class;
use virtiofs_worker::stats::{
    Counter, BUCKETS, ERRNOS, ERRORS_BY_CLASS, LATENCY_BY_CLASS, LAYOUT_VERSION, LIMITS_BY_CLASS, MAGIC,
    NANOSECONDS_BY_OPCODE, RINGS,
};

fn vectors(name: &str) -> Vec<Value> {
    let text = include_str!("../../ipc/vectors.json");
    let all: Value = serde_json::from_str(text).expect("valid JSON");
    all[name].as_array().expect("a list").clone()
}

fn unhex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().expect("hex digits").as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

#[test]
fn control_messages_are_read_and_written_as_the_vectors_say() {
    for vector in vectors("messages") {
        let bytes = unhex(&vector["hex"]);
        let message = Message::decode(&bytes).unwrap_or_else(|error| panic!("{vector}: {error}"));
        let number = |name: &str| vector[name].as_u64().expect("a number");
        assert_eq!(message.kind as u64, number("type"));
        assert_eq!(u64::from(message.generation), number("generation"));
        assert_eq!(u64::from(message.code), number("code"));
        assert_eq!((message.a, message.b, message.c), (number("a"), number("b"), number("c")));
        assert_eq!(message.encode().as_slice(), bytes);
    }
}

#[test]
fn control_messages_that_break_the_format_are_refused() {
    for vector in vectors("refused") {
        assert!(Message::decode(&unhex(&vector["hex"])).is_err(), "{vector}");
    }
}

#[test]
fn configurations_are_accepted_and_refused_as_the_vectors_say() {
    for vector in vectors("config") {
        let document = vector["document"].as_str().expect("text");
        let accepted = vector["accepted"].as_bool().expect("a flag");
        assert_eq!(Config::parse(document.as_bytes()).is_ok(), accepted, "{vector}");
    }
}

#[test]
fn counters_lie_where_the_vectors_say() {
    let counters = [
        ("magic", Counter::Magic),
        ("version", Counter::Version),
        ("generation", Counter::Generation),
        ("mounted", Counter::Mounted),
        ("requests", Counter::Requests),
        ("errors", Counter::Errors),
        ("bytes_read", Counter::BytesRead),
        ("bytes_written", Counter::BytesWritten),
        ("malformed", Counter::Malformed),
        ("ring_errors", Counter::RingErrors),
        ("interrupts", Counter::Interrupts),
        ("kicks", Counter::Kicks),
        ("inodes", Counter::Inodes),
        ("handles", Counter::Handles),
        ("descriptors", Counter::Descriptors),
        ("log_dropped", Counter::LogDropped),
        ("oldest_start", Counter::OldestStart),
        ("overdue", Counter::Overdue),
    ];
    let vectors = vectors("stats");
    for (name, counter) in counters {
        let vector = vectors.iter().find(|vector| vector["name"] == name).expect("a vector");
        assert_eq!(vector["index"].as_u64(), Some(counter as u64), "{name}");
    }
    let tables = [
        ("limits_by_class", LIMITS_BY_CLASS),
        ("latency_by_class", LATENCY_BY_CLASS),
        ("rings", RINGS),
        ("nanoseconds_by_opcode", NANOSECONDS_BY_OPCODE),
        ("errors_by_class", ERRORS_BY_CLASS),
    ];
    for (name, first) in tables {
        let vector = vectors.iter().find(|vector| vector["name"] == name).expect("a vector");
        assert_eq!(vector["index"].as_u64(), Some(first as u64), "{name}");
    }
    let latency = vectors.iter().find(|vector| vector["name"] == "latency_by_class").expect("a vector");
    assert_eq!(latency["count"].as_u64(), Some((Class::ALL.len() * BUCKETS) as u64));
    assert_eq!(vectors[0]["value"].as_u64(), Some(MAGIC));
    assert_eq!(vectors[1]["value"].as_u64(), Some(LAYOUT_VERSION));
}

#[test]
fn errors_and_opcodes_are_those_that_the_vectors_name() {
    let errnos: Vec<i64> = vectors("errnos").iter().filter_map(|vector| vector["number"].as_i64()).collect();
    assert_eq!(errnos, ERRNOS.map(i64::from));
    let vectors = vectors("opcodes");
    assert_eq!(vectors.len(), Opcode::ALL.len());
    for vector in vectors {
        let number = vector["number"].as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number");
        let opcode = Opcode::from_number(number);
        let name = vector["name"].as_str().expect("a name").replace('_', "");
        assert_eq!(opcode.map(|opcode| format!("{opcode:?}").to_uppercase()), Some(name));
        let class = ["read", "write", "metadata"][Class::of(opcode) as usize];
        assert_eq!(vector["class"].as_str(), Some(class), "{opcode:?}");
    }
}
