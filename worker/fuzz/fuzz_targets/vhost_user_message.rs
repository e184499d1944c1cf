//! One vhost-user message: header, payload, and a number of descriptors that came with it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtiofs_worker::session::message::{Header, Request, HEADER_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Some((descriptors, payload)) = rest.split_first() else { return };
    if let Ok(header) = Header::parse(*header) {
        let _ = Request::parse(header.code, payload, usize::from(*descriptors));
    }
});
