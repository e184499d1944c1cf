//! Whatever a driver writes into its tables, a chain is either refused or lies whole inside guest memory.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use virtiofs_worker::buffers::Buffers;
use virtiofs_worker::memory::{Memory, RegionDescription};
use virtiofs_worker::queue::chain::{Descriptor, Ring, MAX_DESCRIPTORS};

const GUEST: u64 = 0x4000_0000;
const BYTES: u64 = 0x2000;
const SIZE: u16 = 32;

/// A descriptor that is mostly sane, so that chains grow.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![8 => GUEST..GUEST + BYTES, 1 => any::<u64>()];
    let length = prop_oneof![8 => 0u32..300, 1 => any::<u32>(), 4 => Just(16 * 32)];
    let flags = prop_oneof![6 => Just(1u16), 3 => Just(0), 3 => Just(2), 3 => Just(3), 2 => Just(4), 1 => any::<u16>()];
    let next = prop_oneof![12 => 0..SIZE, 1 => any::<u16>()];
    (address, length, flags, next).prop_map(|(address, length, flags, next)| Descriptor {
        address,
        length,
        flags,
        next,
    })
}

fn encode(descriptor: &Descriptor) -> Vec<u8> {
    let Descriptor { address, length, flags, next } = descriptor;
    [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_is_refused_or_inside_memory(
        own in prop::collection::vec(descriptor(), usize::from(SIZE)),
        indirect in prop::collection::vec(descriptor(), 64),
        head in 0..SIZE,
        negotiated in any::<bool>(),
    ) {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, BYTES).unwrap();
        // Indirect tables begin anywhere: the memory is full of descriptors.
        let table: Vec<u8> = indirect.iter().flat_map(encode).collect();
        rustix::io::pwrite(&file, &table.repeat(BYTES as usize / table.len()), 0).unwrap();
        let region = RegionDescription { guest: GUEST, size: BYTES, user: 0x1000, offset: 0 };
        let memory = Memory::new().with(region, &file).unwrap();
        let mut all = Buffers::new();
        memory.append(GUEST, BYTES, &mut all).unwrap();
        let start = all.iovecs()[0].iov_base as usize;

        let ring = Ring { size: SIZE, indirect: negotiated, memory: &memory };
        let (mut request, mut reply) = (Buffers::new(), Buffers::new());
        let read = |index: u16| own[usize::from(index)];
        let walked = ring.walk(head, read, &mut Vec::new(), &mut request, &mut reply);
        if walked.is_ok() {
            let ranges = request.iovecs().iter().chain(reply.iovecs());
            prop_assert!(ranges.clone().count() <= MAX_DESCRIPTORS);
            for range in ranges {
                let from = range.iov_base as usize;
                prop_assert!(from >= start && from + range.iov_len <= start + BYTES as usize);
            }
        }
    }
}
