//! The files of a commit: its tree is read, and nothing is checked out. So no filter, attribute or hook has a say, and
//! every name and link is looked at before it is given to anyone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bramble_model::source::{Inside, name_fault};
use bramble_system::{CommandError, Failure};

use crate::git::{Git, clean};
use crate::problem::Problem;
use crate::settings::Commit;

/// A file up to this size is read together with others, in bytes.
const SMALL: u64 = 1 << 20;
/// So much is read together.
const TOGETHER: u64 = 8 << 20;
/// A file up to this size is given in memory, in bytes.
const IN_MEMORY: u64 = 64 << 10;
/// All files that are given in memory hold at most this much together; what is more is written down.
const ALL_IN_MEMORY: u64 = 64 << 20;
/// The longest target of a link, in bytes (PATH_MAX).
const TARGET: u64 = 4096;

/// The files of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What is at each path, with `/` between; folders are those that something lies in.
    pub entries: BTreeMap<String, Entry>,
    /// What the files hold together, in bytes.
    pub bytes: u64,
    /// Entries that are left out: whoever needs one of them has to be told.
    pub refused: Vec<Refused>,
    /// Where submodules are mounted; nothing of them is there.
    pub submodules: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    File {
        executable: bool,
        content: Content,
    },
    /// A text, that may lead anywhere: whoever follows it looks where to.
    Link {
        target: String,
    },
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Arc<[u8]>),
    /// It lies in the folder that was given for large ones.
    Written(PathBuf),
}

/// An entry that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Fit to be shown: what is not UTF-8 or moves a cursor is replaced.
    pub path: String,
    pub why: &'static str,
}

/// One line of `git ls-tree -r -z -l`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    kind: Kind,
    object: String,
    size: u64,
    path: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File { executable: bool },
    Link,
    Folder,
    Submodule,
}

/// How git calls a folder of a commit; everything of it is read through this name.
fn named(commit: &Commit, path: &Inside) -> String {
    // Without a path it is the root, and never the name of another object.
    format!("{commit}:{path}")
}

/// Makes sure that a commit has this folder. Only where it has not, each step is asked for by itself, so that what stands
/// in the way has a name.
pub(crate) fn find(git: &Git<'_>, commit: &Commit, path: &Inside) -> Result<(), Problem> {
    if path.parts().is_empty() {
        return Ok(());
    }
    let doing = "read a folder";
    let said =
        git.command(["cat-file", "--batch-check=%(objecttype)"]).text(format!("{}\n", named(commit, path))).run();
    match said {
        Ok(said) if said.text() == "tree" => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(Problem::program(doing, error)),
    }
    let mut tree = format!("{commit}^{{tree}}");
    let mut walked = String::new();
    for part in path.parts() {
        walked += if walked.is_empty() { "" } else { "/" };
        walked += part;
        let said = git.run(doing, ["ls-tree", "-z", "-l", "--full-tree", &tree, "--", part])?;
        let commit = commit.to_string();
        match lines(&said.stdout).and_then(|mut found| found.pop()) {
            Some(Line { kind: Kind::Folder, object, .. }) => tree = object,
            Some(Line { kind: Kind::Submodule, .. }) => return Err(Problem::Submodule { commit, submodule: walked }),
            Some(Line { kind: Kind::Link, .. }) => return Err(Problem::PathIsLink { commit, path: walked }),
            Some(_) | None => return Err(Problem::PathMissing { commit, path: path.to_string() }),
        }
    }
    Ok(())
}

/// Reads all files below a folder of a commit, `most` of them and links at most; large ones are written into the folder
/// `large`.
pub(crate) fn read(git: &Git<'_>, commit: &Commit, path: &Inside, most: usize, large: &Path) -> Result<Files, Problem> {
    let limits = git.limits;
    let doing = "read the tree";
    let listed = match git.command(["ls-tree", "-r", "-z", "-l", "--full-tree", &named(commit, path)]).run() {
        Ok(listed) => listed.stdout,
        Err(CommandError { failure: Failure::TooMuch(_), .. }) => {
            return Err(Problem::TooManyFiles { most });
        }
        Err(error) => {
            find(git, commit, path)?;
            return Err(Problem::program(doing, error));
        }
    };
    let Some(lines) = lines(&listed) else {
        return Err(Problem::File { doing, path: git.layout.repository(), source: io::ErrorKind::InvalidData.into() });
    };
    if lines.len() > most {
        return Err(Problem::TooManyFiles { most });
    }
    let mut files = Files::default();
    let mut kept = Vec::new();
    for line in lines {
        let shown = clean(&String::from_utf8_lossy(&line.path), 500);
        if let Some(why) = path_fault(&line.path) {
            files.refused.push(Refused { path: shown, why });
            continue;
        }
        match line.kind {
            Kind::Submodule => files.submodules.push(shown),
            Kind::Link if line.size > TARGET => {
                files.refused.push(Refused { path: shown, why: "is a link whose target is too long" });
            }
            Kind::File { .. } if line.size > limits.file => {
                return Err(Problem::FileTooLarge { path: shown, size: line.size, limit: limits.file });
            }
            Kind::Link => kept.push(line),
            Kind::File { .. } => {
                files.bytes = files.bytes.saturating_add(line.size);
                kept.push(line);
            }
            Kind::Folder => {}
        }
    }
    if files.bytes > limits.all {
        return Err(Problem::FilesTooLarge { limit: limits.all });
    }
    let contents = contents(git, &kept, large)?;
    for line in kept {
        let content = contents.get(&line.object).cloned().unwrap_or(Content::Bytes([].into()));
        files.add(line, content);
    }
    Ok(files)
}

impl Files {
    fn add(&mut self, line: Line, content: Content) {
        let path = String::from_utf8_lossy(&line.path).into_owned();
        let entry = match (line.kind, content) {
            (Kind::File { executable }, content) => Entry::File { executable, content },
            (_, Content::Bytes(target)) => match std::str::from_utf8(&target) {
                Ok(target) if !target.is_empty() && !target.contains('\0') => Entry::Link { target: target.into() },
                _ => return self.refuse(&path, "is a link to what no name can be"),
            },
            (_, Content::Written(_)) => return self.refuse(&path, "is a link whose target is too long"),
        };
        let above = path.match_indices('/').any(|(at, _)| self.entries.contains_key(&path[..at]));
        let below = format!("{path}/");
        let is_folder = self.entries.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below));
        if above || is_folder || self.entries.contains_key(&path) {
            return self.refuse(&path, "has a name that another entry has already");
        }
        self.entries.insert(path, entry);
    }

    fn refuse(&mut self, path: &str, why: &'static str) {
        self.refused.push(Refused { path: clean(path, 500), why });
    }
}

/// What these objects hold, by name.
fn contents(git: &Git<'_>, lines: &[Line], large: &Path) -> Result<BTreeMap<String, Content>, Problem> {
    // What lies at several paths is read once.
    let sizes: BTreeMap<&str, u64> = lines.iter().map(|line| (line.object.as_str(), line.size)).collect();
    let links: BTreeSet<&str> =
        lines.iter().filter(|line| line.kind == Kind::Link).map(|line| line.object.as_str()).collect();
    let mut contents = BTreeMap::new();
    let mut some = Vec::new();
    let (mut together, mut in_memory) = (0, 0);
    let mut keep = |read: BTreeMap<String, Vec<u8>>, contents: &mut BTreeMap<String, Content>| {
        for (object, bytes) in read {
            let size = bytes.len() as u64;
            let content = if is_kept(size, in_memory, links.contains(object.as_str())) {
                in_memory += size;
                Content::Bytes(bytes.into())
            } else {
                let path = large.join(&object);
                std::fs::write(&path, &bytes).map_err(Problem::file("write", &path))?;
                Content::Written(path)
            };
            contents.insert(object, content);
        }
        Ok::<_, Problem>(())
    };
    for (object, size) in sizes {
        if size > SMALL {
            let path = large.join(object);
            let blob = git.command(["cat-file", "blob", object]).output(&path);
            blob.run().map_err(|error| Problem::program("read a file", error))?;
            contents.insert(object.to_owned(), Content::Written(path));
            continue;
        }
        if together + size > TOGETHER {
            keep(blobs(git, &some)?, &mut contents)?;
            some.clear();
            together = 0;
        }
        some.push(object);
        together += size;
    }
    keep(blobs(git, &some)?, &mut contents)?;
    Ok(contents)
}

/// Whether something is given in memory, where so much is already. A link's target always is: `TARGET` bounds it.
fn is_kept(size: u64, in_memory: u64, is_link: bool) -> bool {
    is_link || size <= IN_MEMORY && in_memory + size <= ALL_IN_MEMORY
}

/// The contents of these objects, by name.
fn blobs(git: &Git<'_>, objects: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
    if objects.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: String = objects.iter().map(|object| format!("{object}\n")).collect();
    let doing = "read files";
    let said = git.command(["cat-file", "--batch"]).text(names).run();
    let said = said.map_err(|error| Problem::program(doing, error))?.stdout;
    let contents = batch(&said).filter(|contents| objects.iter().all(|object| contents.contains_key(*object)));
    contents.ok_or_else(|| {
        let source = io::Error::new(io::ErrorKind::InvalidData, "an object of the tree is missing");
        Problem::File { doing, path: git.layout.repository(), source }
    })
}

/// Parses what `git cat-file --batch` prints: `NAME TYPE SIZE`, a line break, the bytes, a line break.
fn batch(mut said: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut contents = BTreeMap::new();
    while !said.is_empty() {
        let end = said.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&said[..end]).ok()?.split(' ');
        let (name, "blob", size) = (words.next()?, words.next()?, words.next()?.parse::<usize>().ok()?) else {
            return None;
        };
        let rest = &said[end + 1..];
        let content = rest.get(..size)?;
        said = rest.get(size..)?.strip_prefix(b"\n")?;
        contents.insert(name.to_owned(), content.to_vec());
    }
    Some(contents)
}

/// Parses what `git ls-tree -z -l` prints: `MODE TYPE OBJECT SIZE`, a tab, the path, a zero byte.
fn lines(said: &[u8]) -> Option<Vec<Line>> {
    let lines = said.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    lines.map(line).collect()
}

fn line(line: &[u8]) -> Option<Line> {
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let mut words = std::str::from_utf8(&line[..tab]).ok()?.split_ascii_whitespace();
    let (mode, kind, object, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let kind = match (mode, kind) {
        ("120000", "blob") => Kind::Link,
        ("100755", "blob") => Kind::File { executable: true },
        (_, "blob") => Kind::File { executable: false },
        (_, "tree") => Kind::Folder,
        (_, "commit") => Kind::Submodule,
        _ => return None,
    };
    let size = if size == "-" { 0 } else { size.parse().ok()? };
    Some(Line { kind, object: object.to_owned(), size, path: line[tab + 1..].to_vec() })
}

/// Why a path of a tree is left out, if it is.
fn path_fault(path: &[u8]) -> Option<&'static str> {
    if path.len() > 3000 {
        return Some("has a path that is too long");
    }
    path.split(|byte| *byte == b'/').find_map(name_fault)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_links_target_is_kept_in_memory_however_full_it_is() {
        assert!(is_kept(1, 0, false) && is_kept(IN_MEMORY, ALL_IN_MEMORY - IN_MEMORY, false));
        assert!(!is_kept(1, ALL_IN_MEMORY, false) && !is_kept(IN_MEMORY + 1, 0, false), "a file is written down");
        assert!(is_kept(1, ALL_IN_MEMORY, true) && is_kept(TARGET, ALL_IN_MEMORY, true));
    }

    proptest! {
        #[test]
        fn what_git_prints_is_parsed_or_not_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (lines(&bytes), batch(&bytes), path_fault(&bytes));
        }

        #[test]
        fn a_path_that_is_given_stays_below(bytes in "[./ga~:\\\\-]{0,12}") {
            if path_fault(bytes.as_bytes()).is_none() {
                let parts: Vec<_> = Path::new(&bytes).components().collect();
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))), "{bytes}");
            }
        }
    }
}
