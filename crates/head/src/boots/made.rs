//! Files that are made for one boot of one machine: menus and command lines.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use bramble_model::names::Mac;
use bramble_model::timeline::Millis;
use bramble_netboot::tftp::Content;
use bramble_system::locked;

/// A file is the same for so many milliseconds: firmware asks for its size first, and then for the file.
const SAME: Millis = 10_000;

/// A file that is being made, or was.
type File = Arc<OnceLock<Option<Arc<[u8]>>>>;

/// Whose file it is, and whether it was asked for from the place of that card: what is made for whoever asks from
/// elsewhere is not the machine's.
type For = (Mac, bool);

/// When each was asked for and what it is.
#[derive(Default)]
pub(super) struct Made(Mutex<HashMap<For, (Millis, File)>>);

impl Made {
    /// The file that this machine's present boot has, made now where there is none. Whoever asks for the same one
    /// meanwhile waits for it, and nobody else: making it begins a boot.
    pub(super) fn of(&self, whose: For, now: Millis, make: impl FnOnce() -> Option<String>) -> Option<Content> {
        let file = {
            let mut all = locked(&self.0);
            all.retain(|_, (since, _)| *since + SAME > now);
            Arc::clone(&all.entry(whose).or_insert_with(|| (now, File::default())).1)
        };
        let made = file.get_or_init(|| make().map(|text| text.into_bytes().into()));
        if made.is_none() {
            let mut all = locked(&self.0);
            if all.get(&whose).is_some_and(|(_, present)| Arc::ptr_eq(present, &file)) {
                all.remove(&whose);
            }
        }
        made.as_ref().map(|bytes| Content::Memory(Arc::clone(bytes)))
    }

    /// A new boot of this machine has begun.
    pub(super) fn forget(&self, mac: Mac) {
        locked(&self.0).retain(|(of, _), _| *of != mac);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const M1: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn text(content: Option<Content>) -> Option<String> {
        match content? {
            Content::Memory(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Content::File { .. } => panic!("made in memory"),
        }
    }

    #[test]
    fn a_file_is_the_same_until_a_new_boot_or_for_ten_seconds() {
        let made = Made::default();
        let of = |now, what: &str| text(made.of((M1, true), now, || Some(what.into())));
        assert_eq!(text(made.of((M1, false), 0, || Some("a stranger's".into()))).as_deref(), Some("a stranger's"));
        assert_eq!(of(0, "one").as_deref(), Some("one"));
        assert_eq!(of(SAME - 1, "two").as_deref(), Some("one"));
        assert_eq!(of(SAME, "two").as_deref(), Some("two"));
        made.forget(M1);
        assert_eq!(of(SAME, "three").as_deref(), Some("three"));
        made.forget(M1);
        assert!(made.of((M1, true), SAME, || None).is_none());
        assert_eq!(of(SAME, "four").as_deref(), Some("four"), "what could not be made is tried again");
    }

    #[test]
    fn two_that_ask_at_once_get_one_file_and_hold_nobody_up() {
        let (made, times, ready) = (Made::default(), AtomicUsize::new(0), Barrier::new(3));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    ready.wait();
                    made.of((M1, true), 0, || {
                        times.fetch_add(1, Ordering::Relaxed);
                        // Another machine's file is made meanwhile.
                        assert!(made.of((Mac([2, 0, 0, 0, 0, 2]), true), 0, || Some("other".into())).is_some());
                        Some("one".into())
                    })
                });
            }
            ready.wait();
        });
        assert_eq!(times.load(Ordering::Relaxed), 1);
    }
}
