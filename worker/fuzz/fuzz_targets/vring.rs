//! A ring in guest memory, made of the input: taken to its end or refused, never out of bounds.
//!
//! Input: one byte of features, one of available index, eight of heads, then records of six bytes (address, length, flags,
//! next) that become descriptors, both of the ring's table and of an indirect table in the middle of memory.
#![no_main]

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use virtiofs_worker::buffers::Buffers;
use virtiofs_worker::memory::{Memory, RegionDescription};
use virtiofs_worker::queue::ring::{Cursor, Layout, Ring};

const MEMORY_BYTES: u64 = 16 * 1024;
const RING_SIZE: u16 = 32;

struct Guest {
    file: File,
    memory: Memory,
}

fn guest() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| {
        // SAFETY: a plain call; the descriptor is ours alone.
        let memfd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"guest".as_ptr(), 0)) };
        let file = File::from(memfd.try_clone().expect("dup"));
        file.set_len(MEMORY_BYTES).expect("ftruncate");
        let region = RegionDescription { guest: 0, size: MEMORY_BYTES, user: 0x1000_0000, offset: 0 };
        let memory = Memory::new().with(region, &memfd).expect("region");
        Guest { file, memory }
    })
}

/// Writes the records as descriptors from *at* on.
fn fill(page: &mut [u8], at: usize, records: &[u8]) {
    for (record, place) in records.chunks_exact(6).zip(page[at..].chunks_exact_mut(16)) {
        place[0..2].copy_from_slice(&record[0..2]);
        place[8..10].copy_from_slice(&record[2..4]);
        place[12] = record[4];
        place[14] = record[5];
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some(([options, available, heads @ ..], records)) = bytes.split_first_chunk::<10>() else { return };
    let guest = guest();
    let mut page = vec![0; MEMORY_BYTES as usize];
    fill(&mut page[..1024], 0, records);
    fill(&mut page, 8192, records);
    page[1026] = *available;
    for (head, place) in heads.iter().zip(page[1028..].chunks_exact_mut(2)) {
        place[0] = *head;
    }
    guest.file.write_all_at(&page, 0).expect("write");
    let layout = Layout {
        size: RING_SIZE,
        descriptors: 0x1000_0000,
        available: 0x1000_0000 + 1024,
        used: 0x1000_0000 + 2048,
        event_idx: options & 1 != 0,
        indirect: options & 2 != 0,
    };
    let mut cursor = Cursor::default();
    let mut ring = Ring::open(&guest.memory, &layout, &mut cursor).expect("the layout is sound");
    let (mut request, mut reply) = (Buffers::new(), Buffers::new());
    let mut taken = 0;
    while let Ok(Some(head)) = ring.take(&mut request, &mut reply) {
        taken += 1;
        assert!(taken <= RING_SIZE, "a ring holds no more chains than entries");
        for range in request.iovecs().iter().chain(reply.iovecs()) {
            // Every byte of every range must be there: read it.
            // SAFETY: what the ring hands out lies in mapped guest memory; that is what is being tested.
            unsafe { std::slice::from_raw_parts(range.iov_base.cast::<u8>(), range.iov_len) }.iter().for_each(|byte| {
                std::hint::black_box(byte);
            });
        }
        ring.complete(head, reply.len() as u32);
    }
    ring.publish();
    ring.ask_for_kick();
});
