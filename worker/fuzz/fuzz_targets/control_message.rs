//! Messages on the control socket: decoded or refused, and what is decoded encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtiofs_worker::ipc::Message;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
});
