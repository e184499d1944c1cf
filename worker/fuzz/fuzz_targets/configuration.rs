//! The configuration document and live settings: parsed or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtiofs_worker::config::{Config, LiveSettings, MAX_QUEUES, MAX_RATE, MAX_TAG_BYTES};

fuzz_target!(|document: &[u8]| {
    if let Ok(config) = Config::parse(document) {
        assert!((1..=MAX_QUEUES).contains(&config.queues));
        assert!((1..=MAX_TAG_BYTES).contains(&config.tag.len()));
        let rates = config.limits.iter().flat_map(|limits| [limits.read, limits.write, limits.metadata_ops]);
        assert!(rates.flatten().all(|rate| (1..=MAX_RATE).contains(&rate)));
    }
    let _ = LiveSettings::parse(document);
});
