#![allow(clippy::indexing_slicing)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use super::*;

fn memfd(bytes: u64) -> OwnedFd {
    // SAFETY: memfd_create returns a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC)) };
    std::fs::File::from(fd.as_fd().try_clone_to_owned().expect("dup")).set_len(bytes).expect("set_len");
    fd
}

fn node(id: u64, name: Place) -> NodeRecord {
    NodeRecord {
        id,
        identity: Identity { mount: 3, device: 4, ino: 5 + id, birth: (-6, 7) },
        kind: libc::S_IFREG,
        flags: flags::UNLINKED | flags::HAS_HANDLE,
        parent: 1,
        name,
        lookups: u64::MAX - 8,
        children: 9,
        descriptor: -1,
    }
}

/// An arena with *count* named nodes and one handle, written through one mapping.
fn filled(memfd: &OwnedFd, count: u32) -> Arena {
    let arena = Arena::create(memfd).expect("arena");
    let mut names = NameHeap::over(&arena);
    for index in 1..=count {
        let id = u64::from(index) | 7 << 32;
        let name = names.store(&arena, id, format!("file {index}").as_bytes(), b"handle").expect("room");
        arena.nodes().write(&arena, id, &node(id, name).encode());
    }
    arena.nodes().set_high_water(&arena, count + 1);
    let handle = HandleRecord { fh: 1, node: 1, directory: true, open_flags: libc::O_RDWR, descriptor: 12 };
    arena.handles().write(&arena, 1, &handle.encode());
    arena.handles().set_high_water(&arena, 2);
    arena
}

#[test]
fn a_second_mapping_finds_every_record_whole() {
    let memfd = memfd(1 << 20);
    drop(filled(&memfd, 500));
    let arena = Arena::adopt(&memfd).expect("adopt");
    assert_eq!(arena.verify(), Report { nodes: 500, handles: 1, ..Report::default() });
    let (id, payload) = arena.nodes().read(&arena, 77).expect("record 77");
    let read = NodeRecord::decode(id, &payload);
    assert_eq!(read, node(id, read.name));
    let names = NameHeap::over(&arena);
    let stored = names.read(&arena, read.name, id).expect("name block");
    assert_eq!((stored.name(), stored.handle()), (&b"file 77"[..], &b"handle"[..]));
}

#[test]
fn every_torn_word_of_a_record_is_noticed() {
    let memfd = memfd(1 << 20);
    let arena = filled(&memfd, 3);
    let place = arena.layout().node_base + 2 * Table::<12>::RECORD_WORDS;
    for word in place..place + Table::<12>::RECORD_WORDS {
        let before = arena.load(word);
        arena.store(word, before ^ 0x10);
        assert_eq!(arena.verify().torn_nodes, [2], "word {} of the record", word - place);
        arena.store(word, before);
    }
    assert_eq!(arena.verify().nodes, 3);
}

#[test]
fn a_name_block_of_somebody_else_makes_the_node_torn() {
    let memfd = memfd(1 << 20);
    let arena = filled(&memfd, 3);
    let (id, payload) = arena.nodes().read(&arena, 2).expect("record 2");
    let (other, _) = arena.nodes().read(&arena, 3).expect("record 3");
    let record = NodeRecord::decode(id, &payload);
    NameHeap::over(&arena).free(record.name);
    arena.store(arena.layout().name_base + 4, other);
    assert_eq!(arena.verify().torn_nodes, [2]);
}

#[test]
fn freed_records_keep_their_sequence_and_are_not_counted() {
    let memfd = memfd(1 << 20);
    let arena = filled(&memfd, 3);
    arena.nodes().free(&arena, 2 | 7 << 32);
    assert_eq!(arena.verify().nodes, 2);
    assert_eq!(arena.nodes().last_id(&arena, 2), 2 | 7 << 32);
    assert!(arena.nodes().read(&arena, 2).is_none());
}

#[test]
fn a_full_name_heap_refuses_and_takes_freed_blocks_again() {
    let memfd = memfd(64 << 10);
    let arena = Arena::create(&memfd).expect("arena");
    let mut names = NameHeap::over(&arena);
    let mut places = Vec::new();
    while let Some(place) = names.store(&arena, 9, &[b'x'; 255], &[]) {
        places.push(place);
    }
    assert!(places.len() > 10);
    names.free(places[4]);
    assert_eq!(names.store(&arena, 9, &[b'y'; 255], &[]), Some(places[4]));
    while names.store(&arena, 9, b"short", &[]).is_some() {}
    names.free(places[4]);
    assert!(names.store(&arena, 9, b"short", &[]).is_some(), "a larger block serves when small ones are gone");
    assert!(names.store(&arena, 9, &[b'x'; 600], &[]).is_none());
}

#[test]
fn a_memfd_without_an_arena_is_refused() {
    assert!(Arena::adopt(&memfd(1 << 20)).is_err());
    assert!(Arena::create(&memfd(4096)).is_err());
}

#[test]
fn a_quarter_gibibyte_holds_a_million_inodes() {
    let arena = Arena::create(&memfd(256 << 20)).expect("arena");
    let layout = arena.layout();
    assert!(layout.nodes >= 1_000_000, "{} nodes", layout.nodes);
    assert!(layout.name_units >= layout.nodes * 3, "names of up to 80 bytes for all");
    assert_eq!(layout.handles, 1 << 16);
}
