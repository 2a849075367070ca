//! What a damaged store says: its error, and nothing else. A process of its own, since a panic hook is a process's.

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};

use bramble_store::{Blocking, Table, Write};

static TOLD: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_damaged_store_is_told_by_its_error_alone_and_other_panics_as_ever() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        TOLD.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("head.redb");
    let table = Table::new("texts");
    {
        let store = Blocking::open(&path, 5).expect("made");
        for number in 0..200 {
            let (key, bytes) = (format!("key {number}").as_str().into(), vec![7; 1000]);
            store.commit(&[], &[Write::Put { table, key, bytes }]).expect("written");
        }
    }
    let whole = std::fs::read(&path).expect("readable");
    let mut panicked = 0;
    for page in (1..40).step_by(6) {
        for fill in [0, 7, 255] {
            let mut bytes = whole.clone();
            let end = ((page + 40) * 4096).min(bytes.len());
            bytes[page * 4096..end].fill(fill);
            std::fs::write(&path, bytes).expect("written");
            let read = Blocking::open(&path, 9).and_then(|store| store.all(table));
            if let Err(error) = read {
                panicked += usize::from(bramble_system::sentence(&error).contains("it is damaged: "));
            }
        }
    }
    assert!(panicked > 0, "redb has panicked on none of these");
    assert_eq!(TOLD.load(Ordering::SeqCst), 0, "nothing but the error");
    std::thread::spawn(|| panic!("something else")).join().expect_err("it panics");
    assert_eq!(TOLD.load(Ordering::SeqCst), 1, "any other panic is told");
}
