//! What this machine remembers of boot sets on its data partition: those that it was ready with, and the highest floor that a
//! good signature has named. Whoever has the disk in their hands can change it; what they gain is what they had.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bramble_boot::{AGENT_FOLDER, FLOOR_FILE, Failure, NotToBoot, READY_FOLDER, Statement};

use crate::error::Error;
use crate::manifest::replace;

/// No number is longer, in bytes.
const LONGEST: u64 = 24;

/// A machine with a data partition remembers; one without goes by what the head gives it.
pub struct Memory {
    folder: Option<PathBuf>,
}

impl Memory {
    /// On the data partition that is mounted at `data`.
    pub fn on(data: Option<&Path>) -> Self {
        Memory { folder: data.map(|data| data.join(AGENT_FOLDER)) }
    }

    /// The highest floor that it has seen. What cannot be read is as what was never there: a disk that lost a sector must not
    /// keep the node down.
    fn floor(&self) -> u64 {
        let read = |folder: &PathBuf| {
            let path = folder.join(FLOOR_FILE);
            // What else may lie there would never end, or never begin.
            if !path.is_file() {
                return None;
            }
            let mut text = String::new();
            File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
            text.trim().parse().ok()
        };
        self.folder.as_ref().and_then(read).unwrap_or(0)
    }

    fn was_ready(&self, set: &str) -> bool {
        self.folder.as_ref().is_none_or(|folder| folder.join(READY_FOLDER).join(set).is_file())
    }

    /// Whether it may boot the set that this was said of.
    pub fn admits(&self, set: &str, said: &Statement) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.admits_at(set, said, now)
    }

    fn admits_at(&self, set: &str, said: &Statement, now: u64) -> Result<(), Error> {
        let kind = |why: &NotToBoot| match why {
            NotToBoot::Forbidden { .. } => Failure::Forbidden,
            NotToBoot::Expired { .. } => Failure::Expired,
        };
        said.may_boot(self.floor(), now, self.was_ready(set))
            .map_err(|why| Error::new(kind(&why), format!("the boot set is not to be booted: {why}")))
    }

    /// A good signature was seen that names this floor.
    pub fn raise(&self, floor: u64) {
        let Some(folder) = &self.folder else { return };
        if floor <= self.floor() {
            return;
        }
        let made = fs::create_dir_all(folder).map_err(|error| Error::new(Failure::Machine, error.to_string()));
        if let Err(error) = made.and_then(|()| replace(folder, FLOOR_FILE, format!("{floor}\n").as_bytes())) {
            // It boots all the same, and remembers it next time.
            eprintln!("bramble: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "0707";

    fn said(expires: Option<u64>) -> Statement {
        Statement { serial: 100, expires, floor: 0 }
    }

    #[test]
    fn a_machine_that_remembers_begins_with_no_set_whose_time_is_up() {
        let data = tempfile::tempdir().expect("a folder");
        let memory = Memory::on(Some(data.path()));
        memory.admits_at(SET, &said(Some(200)), 199).expect("in time");
        let error = memory.admits_at(SET, &said(Some(200)), 200).expect_err("never ready with it");
        assert_eq!(error.kind, Failure::Expired);
        memory.admits_at(SET, &said(None), u64::MAX).expect("it never expires");
        let ready = data.path().join(AGENT_FOLDER).join(READY_FOLDER);
        fs::create_dir_all(&ready).and_then(|()| fs::write(ready.join(SET), "")).expect("written");
        memory.admits_at(SET, &said(Some(200)), 10_000).expect("it was ready with it");
        Memory::on(None).admits_at(SET, &said(Some(200)), 10_000).expect("the head has looked");
    }

    #[test]
    fn a_floor_that_was_seen_once_stays() {
        let data = tempfile::tempdir().expect("a folder");
        let memory = Memory::on(Some(data.path()));
        memory.raise(101);
        memory.raise(50);
        assert_eq!(Memory::on(Some(data.path())).floor(), 101);
        let error = memory.admits_at(SET, &said(None), 0).expect_err("signed before that");
        assert_eq!(error.kind, Failure::Forbidden);
        let later = Statement { serial: 101, ..said(None) };
        memory.admits_at(SET, &later, 0).expect("signed again");
    }

    /// Whatever lies in its place, stage 1 goes on.
    #[test]
    fn rubbish_in_the_place_of_a_floor_is_none() {
        let data = tempfile::tempdir().expect("a folder");
        let (memory, folder) = (Memory::on(Some(data.path())), data.path().join(AGENT_FOLDER));
        fs::create_dir_all(folder.join(FLOOR_FILE)).expect("a folder in its place");
        assert_eq!(memory.floor(), 0);
        fs::remove_dir(folder.join(FLOOR_FILE)).expect("removed");
        for rubbish in [&b"\xff\xfe"[..], b"", b"99999999999999999999999", &[b'9'; 4096]] {
            fs::write(folder.join(FLOOR_FILE), rubbish).expect("written");
            assert_eq!(memory.floor(), 0, "{rubbish:?}");
        }
        memory.raise(7);
        assert_eq!(memory.floor(), 7);
    }
}
