//! What this machine remembers of boot sets on its data partition: those that it was ready with, and the highest floor that a
//! good signature has named. Whoever has the disk in their hands can change it; what they gain is what they had.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bramble_boot::{AGENT_FOLDER, FLOOR_FILE, Failure, NotToBoot, READY_FOLDER, Statement};

use crate::error::Error;
use crate::manifest::replace;

/// Nothing longer is read, in bytes.
const LONGEST: u64 = 4096;
/// Keys whose floors are remembered.
const MOST: usize = 8;

/// A machine with a data partition remembers; one without, or with one that is new or cannot be written, goes by what the
/// head gives it. The head remembers, too.
pub struct Memory {
    folder: Option<PathBuf>,
}

impl Memory {
    /// On the data partition that is mounted at `data`.
    pub fn on(data: Option<&Path>) -> Self {
        Memory { folder: data.map(|data| data.join(AGENT_FOLDER)) }
    }

    /// The floors that it has seen, each with the key that named it. What cannot be read is as what was never there: a disk
    /// that lost a sector must not keep the node down.
    fn floors(&self) -> Vec<(u64, String)> {
        let read = |folder: &PathBuf| {
            let path = folder.join(FLOOR_FILE);
            // What else may lie there would never end, or never begin.
            if !path.is_file() {
                return None;
            }
            let mut text = String::new();
            File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
            Some(text)
        };
        let text = self.folder.as_ref().and_then(read).unwrap_or_default();
        let line = |line: &str| {
            let (floor, key) = line.split_once(' ')?;
            Some((floor.parse().ok()?, key.to_owned()))
        };
        text.lines().filter_map(line).take(MOST).collect()
    }

    /// The highest floor that one of these keys has named. What a key named that is not trusted any more does not count: it
    /// may have been stolen.
    fn floor(&self, keys: &str) -> u64 {
        let counts = |key: &str| keys.lines().any(|trusted| trusted.trim() == key);
        self.floors().into_iter().filter(|(_, key)| counts(key)).map(|(floor, _)| floor).max().unwrap_or(0)
    }

    /// Whether it was ready with this set; where it remembers none at all, the head has said so by giving it.
    fn was_ready(&self, set: &str) -> bool {
        let Some(folder) = &self.folder else { return true };
        let ready = folder.join(READY_FOLDER);
        let remembers = fs::read_dir(&ready).is_ok_and(|mut entries| entries.next().is_some());
        !remembers || !is_writable(folder) || ready.join(set).is_file()
    }

    /// Whether it may boot the set that was said of with one of these keys.
    pub fn admits(&self, set: &str, said: &Statement, keys: &str) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.admits_at(set, said, keys, now)
    }

    fn admits_at(&self, set: &str, said: &Statement, keys: &str, now: u64) -> Result<(), Error> {
        let kind = |why: &NotToBoot| match why {
            NotToBoot::Forbidden { .. } => Failure::Forbidden,
            NotToBoot::Expired { .. } => Failure::Expired,
        };
        said.may_boot(self.floor(keys), now, self.was_ready(set))
            .map_err(|why| Error::new(kind(&why), format!("the boot set is not to be booted: {why}")))
    }

    /// A good signature of this key was seen that names this floor.
    pub fn raise(&self, floor: u64, key: &str) {
        let Some(folder) = &self.folder else { return };
        let mut floors = self.floors();
        let before = floors.iter().find(|(_, named)| named == key).map_or(0, |(floor, _)| *floor);
        if floor <= before {
            return;
        }
        floors.retain(|(_, named)| named != key);
        floors.insert(0, (floor, key.to_owned()));
        let text: String = floors.iter().take(MOST).map(|(floor, key)| format!("{floor} {key}\n")).collect();
        let made = fs::create_dir_all(folder).map_err(|error| Error::new(Failure::Machine, error.to_string()));
        if let Err(error) = made.and_then(|()| replace(folder, FLOOR_FILE, text.as_bytes())) {
            // It boots all the same, and remembers it next time.
            eprintln!("bramble: {error}");
        }
    }
}

/// A file system that has turned read-only remembers nothing new.
fn is_writable(folder: &Path) -> bool {
    let probe = folder.join(".bramble-probe");
    fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "0707";

    fn said(expires: Option<u64>) -> Statement {
        Statement { serial: 100, expires, floor: 0 }
    }

    const KEY: &str = "RWkey";

    #[test]
    fn a_machine_that_remembers_begins_with_no_set_whose_time_is_up() {
        let data = tempfile::tempdir().expect("a folder");
        let memory = Memory::on(Some(data.path()));
        let ready = data.path().join(AGENT_FOLDER).join(READY_FOLDER);
        // A new disk in a home that was off for a year: the head knows the machine.
        memory.admits_at(SET, &said(Some(200)), KEY, 200).expect("it remembers nothing yet");
        fs::create_dir_all(&ready).and_then(|()| fs::write(ready.join("0808"), "")).expect("written");
        memory.admits_at(SET, &said(Some(200)), KEY, 199).expect("in time");
        let error = memory.admits_at(SET, &said(Some(200)), KEY, 200).expect_err("never ready with it");
        assert_eq!(error.kind, Failure::Expired);
        assert!(error.sentence.contains("by a clock that says 1970-01-01"), "{error}");
        memory.admits_at(SET, &said(None), KEY, u64::MAX).expect("it never expires");
        fs::write(ready.join(SET), "").expect("written");
        memory.admits_at(SET, &said(Some(200)), KEY, 10_000).expect("it was ready with it");
        Memory::on(None).admits_at(SET, &said(Some(200)), KEY, 10_000).expect("the head has looked");
    }

    #[test]
    fn a_floor_that_was_seen_once_stays_as_long_as_its_key_is_trusted() {
        let data = tempfile::tempdir().expect("a folder");
        let memory = Memory::on(Some(data.path()));
        memory.raise(101, KEY);
        memory.raise(50, KEY);
        memory.raise(7, "RWother");
        assert_eq!(Memory::on(Some(data.path())).floor("RWother\nRWkey\n"), 101);
        let error = memory.admits_at(SET, &said(None), KEY, 0).expect_err("signed before that");
        assert_eq!(error.kind, Failure::Forbidden);
        let later = Statement { serial: 101, ..said(None) };
        memory.admits_at(SET, &later, KEY, 0).expect("signed again");
        // A thief had named a floor above all that will ever be signed, and the key was changed.
        memory.raise(u64::MAX, KEY);
        memory.admits_at(SET, &later, KEY, 0).expect_err("as long as that key counts");
        memory.admits_at(SET, &later, "RWother", 0).expect("it does not any more");
        for key in 0..2 * MOST {
            memory.raise(9, &format!("RW{key}"));
        }
        assert_eq!(memory.floors().len(), MOST);
    }

    /// Whatever lies in its place, stage 1 goes on.
    #[test]
    fn rubbish_in_the_place_of_a_floor_is_none() {
        let data = tempfile::tempdir().expect("a folder");
        let (memory, folder) = (Memory::on(Some(data.path())), data.path().join(AGENT_FOLDER));
        fs::create_dir_all(folder.join(FLOOR_FILE)).expect("a folder in its place");
        assert_eq!(memory.floor(KEY), 0);
        fs::remove_dir(folder.join(FLOOR_FILE)).expect("removed");
        for rubbish in [&b"\xff\xfe"[..], b"", b"7", b"99999999999999999999999 RWkey", &[b'9'; 9000]] {
            fs::write(folder.join(FLOOR_FILE), rubbish).expect("written");
            assert_eq!(memory.floor(KEY), 0, "{rubbish:?}");
        }
        memory.raise(7, KEY);
        assert_eq!(memory.floor(KEY), 7);
    }
}
