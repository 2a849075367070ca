//! Any `bramble.toml`.
#![no_main]

use std::path::Path;

use bramble_model::repository::Cluster;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = Cluster::parse(Path::new("/nonexistent"), Path::new("bramble.toml"), text) {
        assert!(!problems.render(false).is_empty());
    }
});
