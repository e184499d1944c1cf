//! Sequences of FUSE requests against a real directory: answered, refused or silent, whatever the bytes are.
//!
//! Hostile names reach the file system here: run it under tests/guard.py, as `make fuzz` does.
#![no_main]

#[path = "../../tests/fs_guest/mod.rs"]
mod fs_guest;

use std::cell::RefCell;

use fs_guest::{config, ruled, rules, Guest, World, ALL_FLAGS};
use libfuzzer_sys::fuzz_target;
use virtiofs_worker::buffers::Buffers;
use virtiofs_worker::fs::{Served, MAX_WRITE};
use virtiofs_worker::fuse::Header;
use virtiofs_worker::limit::Cost;

const HEADER_BYTES: usize = 40;
/// Opcode, node and body length of one request in the input.
const PREFIX_BYTES: usize = 4;
const ROOM: usize = 8192;

thread_local! {
    /// Without rules and with some.
    static SHARED: RefCell<[(World, Guest); 2]> = RefCell::new([config(), ruled(rules(&["**/h*"], &["frozen", "**/z"]))].map(|config| {
        let (world, mut guest) = World::with(&config);
        world.write("file", "content");
        world.mkdir("folder");
        world.mkdir("frozen");
        world.write("frozen/kept", "content");
        guest.init(ALL_FLAGS).expect("INIT");
        (world, guest)
    }));
}

fuzz_target!(|bytes: &[u8]| {
    SHARED.with_borrow_mut(|[plain, (world, guest)]| {
        serve(&mut plain.1, bytes);
        serve(guest, bytes);
        assert_eq!(std::fs::read(world.path("frozen/kept")).expect("read"), b"content");
    });
});

/// What a limit would charge for the request is no more than one can move.
fn price(request: &mut [u8]) {
    let request = Buffers::of(request);
    let header = Header::read(&request).expect("a header");
    let cost = Cost::of(&header, &request, &Buffers::new());
    assert!(cost.is_none_or(|cost| cost.bytes <= u64::from(MAX_WRITE)));
}

fn serve(guest: &mut Guest, bytes: &[u8]) {
    let mut rest = bytes;
    while let Some((prefix, following)) = rest.split_first_chunk::<PREFIX_BYTES>() {
        let length = usize::from(u16::from_le_bytes([prefix[2], prefix[3]])).min(following.len());
        let (body, next) = following.split_at(length);
        // DESTROY and INIT end a session; the interesting requests are those inside one.
        let opcode = u32::from(prefix[0] & 63);
        if opcode != 38 && opcode != 26 {
            let mut request = guest.request(opcode, u64::from(prefix[1]), body);
            assert!(request.len() >= HEADER_BYTES);
            price(&mut request);
            if let (Served::Reply(written), reply) = guest.raw(request, ROOM) {
                assert!((16..=ROOM).contains(&(written as usize)));
                assert_eq!(u32::from_le_bytes([reply[0], reply[1], reply[2], reply[3]]), written);
            }
        }
        rest = next;
    }
}
