//! What wakes those who wait for a change.

use tokio::sync::watch;

/// Something that loops wait for: counts up at each change, and nobody takes it from another.
#[derive(Debug, Default)]
pub(crate) struct Changes(watch::Sender<u64>);

impl Changes {
    pub(crate) fn tell(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn receiver(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
