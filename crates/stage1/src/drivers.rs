//! Drivers: what the devices ask for by their modaliases, with what those need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::{Doing, Error};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks the module itself.
const COMPRESSED: i32 = 4;

/// The modules of the initrd.
pub struct Drivers {
    folder: PathBuf,
    /// Module name → file and the files it needs, as in `modules.dep`.
    files: BTreeMap<String, (String, Vec<String>)>,
    /// Pattern → module name, as in `modules.alias`, by the bus that the pattern begins with.
    aliases: BTreeMap<String, Vec<(String, String)>>,
    /// Module name → modules to load first, as in `modules.softdep`.
    before: BTreeMap<String, Vec<String>>,
    /// What has been tried.
    loaded: BTreeSet<String>,
}

impl Drivers {
    pub fn read() -> Result<Self, Error> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = Path::new("/lib/modules").join(release);
        let text = |name: &str| fs::read_to_string(folder.join(name)).doing(format_args!("cannot read {name}"));
        Ok(Self::parse(folder.clone(), &text("modules.dep")?, &text("modules.alias")?, &text("modules.softdep")?))
    }

    fn parse(folder: PathBuf, dep: &str, alias: &str, softdep: &str) -> Self {
        let files = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| {
                (name_of(file), (file.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
            })
            .collect();
        let mut aliases: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for line in alias.lines() {
            if let [_, pattern, module] = line.split_whitespace().collect::<Vec<_>>()[..] {
                aliases.entry(bus_of(pattern).to_owned()).or_default().push((pattern.to_owned(), module.to_owned()));
            }
        }
        let mut before = BTreeMap::new();
        for line in softdep.lines() {
            let mut words = line.split_whitespace().skip(1);
            let Some(module) = words.next() else { continue };
            let first = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            before.insert(module.replace('-', "_"), first.map(str::to_owned).collect());
        }
        Drivers { folder, files, aliases, before, loaded: BTreeSet::new() }
    }

    /// Loads what the devices ask for, and again for the devices that then appear behind them.
    pub fn load_for_devices(&mut self) -> Result<(), Error> {
        loop {
            let mut asked = BTreeSet::new();
            modaliases(Path::new("/sys/devices"), 0, &mut asked);
            let wanted: BTreeSet<String> = asked.iter().flat_map(|alias| self.matching(alias)).collect();
            let new: Vec<&str> =
                wanted.iter().filter(|name| !self.loaded.contains(*name)).map(String::as_str).collect();
            if new.is_empty() {
                return Ok(());
            }
            for name in new {
                // One driver that does not load must not stop the others: another card may do.
                if let Err(error) = self.load(&[name]) {
                    eprintln!("bramble: {error}");
                }
            }
        }
    }

    fn matching(&self, alias: &str) -> Vec<String> {
        let candidates = self.aliases.get(bus_of(alias)).into_iter().flatten();
        candidates
            .filter(|(pattern, _)| matches(pattern.as_bytes(), alias.as_bytes()))
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// Loads modules by name. One that the initrd does not have is part of the kernel itself.
    pub fn load(&mut self, names: &[&str]) -> Result<(), Error> {
        for asked in names {
            let name = asked.replace('-', "_");
            if !self.loaded.insert(name.clone()) {
                continue;
            }
            for first in self.before.get(&name).cloned().unwrap_or_default() {
                self.load(&[&first])?;
            }
            let Some((file, needs)) = self.files.get(&name).cloned() else {
                // Soft dependencies may name what several modules provide (`crypto-crc32c`), and not
                // all of them may suit this processor.
                for module in self.matching(asked) {
                    let _ = self.load(&[&module]);
                }
                continue;
            };
            // modules.dep lists what is needed last first.
            for need in needs.iter().rev() {
                if self.loaded.insert(name_of(need)) {
                    self.insert(need)?;
                }
            }
            self.insert(&file)?;
        }
        Ok(())
    }

    fn insert(&self, file: &str) -> Result<(), Error> {
        let path = self.folder.join(file);
        let module = File::open(&path).doing(format_args!("cannot open {file}"))?;
        let flags = if file.ends_with(".ko") { 0 } else { COMPRESSED };
        match rustix::system::finit_module(&module, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error).doing(format_args!("cannot load {file}")),
        }
    }
}

/// Collects all `modalias` files below a folder of sysfs.
fn modaliases(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 24 {
            modaliases(&entry.path(), depth + 1, found);
        } else if kind.is_file()
            && entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            found.insert(text.trim_end().to_owned());
        }
    }
}

/// A module's name as the kernel has it: no folder, no suffix, underscores.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// What stands before the first colon: `pci`, `usb`, `virtio` …
fn bus_of(alias: &str) -> &str {
    alias.split(':').next().unwrap_or(alias)
}

/// Shell patterns as depmod writes them: `*`, `?` and `[a-b]`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands, and how much of the text it has taken.
    let mut star = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(&pattern[p..], text[t]).map(|length| p + length),
            Some(byte) if *byte == text[t] => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the class that `pattern` begins with, if `byte` is in it.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    let mut inside = &pattern[1..end];
    loop {
        match inside {
            [] => return None,
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return Some(end + 1);
                }
                inside = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return Some(end + 1);
                }
                inside = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let alias = b"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        assert!(matches(b"pci:v00001AF4d00001000sv*sd*bc*sc*i*", alias));
        assert!(matches(b"pci:v*d*sv*sd*bc02sc*i*", alias));
        assert!(!matches(b"pci:v00008086d*sv*sd*bc*sc*i*", alias));
        assert!(matches(b"usb:v0BDAp8152d[0-9]*dc*", b"usb:v0BDAp8152d3000dc00"));
        assert!(!matches(b"usb:v0BDAp8152d[A-F]*dc*", b"usb:v0BDAp8152d3000dc00"));
        assert!(matches(b"a?c", b"abc") && !matches(b"a?c", b"ac"));
    }

    #[test]
    fn what_a_soft_dependency_names_may_be_an_alias() {
        let drivers =
            Drivers::parse(PathBuf::new(), "k/crc32c_generic.ko.xz:\n", "alias crypto-crc32c crc32c_generic\n", "");
        assert_eq!(drivers.matching("crypto-crc32c"), ["crc32c_generic"]);
    }

    #[test]
    fn soft_dependencies_are_read() {
        let drivers =
            Drivers::parse(PathBuf::new(), "k/ext4.ko.xz: k/jbd2.ko.xz\n", "", "softdep ext4 pre: crc32c-x\n");
        assert_eq!(drivers.before["ext4"], ["crc32c-x"]);
        assert_eq!(drivers.files["ext4"].1, ["k/jbd2.ko.xz"]);
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(pattern: Vec<u8>, text: Vec<u8>) {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_matches_itself_and_a_star(text in "[a-z0-9:]{0,40}") {
            proptest::prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            proptest::prop_assert!(matches(b"*", text.as_bytes()));
        }
    }
}
