//! Reading a repository as a snapshot: from a folder of this machine, or from files that were read elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{DEEPEST, Entry, Error, LARGEST, MOST, Snapshot, clean};
use crate::names::Digest;
use crate::repository::root::{Led, Opened, Root, kind};
use crate::repository::tree::{Kind, bounded, utf8};
use crate::repository::{FILE, written};
use crate::source::name_fault;

/// Links that are followed on the way to one file, as the kernel has it.
const LINKS: usize = 40;
/// What is at a path of a repository that lies in no folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    File {
        executable: bool,
        content: Content,
    },
    Link {
        target: String,
    },
    /// Something that could not be read from there, and why: a snapshot that needs it is none.
    LeftOut {
        why: &'static str,
    },
}

/// What a file of it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Arc<[u8]>),
    /// It is too large for memory, and lies here for now.
    Written(PathBuf),
}

/// Files that were read elsewhere.
pub(super) struct Memory<'a> {
    files: &'a BTreeMap<String, Given>,
    /// What lies in each folder.
    folders: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Memory<'a> {
    pub(super) fn new(files: &'a BTreeMap<String, Given>) -> Self {
        let mut folders: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([("", BTreeSet::new())]);
        for path in files.keys() {
            let mut path = path.as_str();
            while !path.is_empty() {
                let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
                folders.entry(folder).or_default().insert(name);
                path = folder;
            }
        }
        Memory { files, folders }
    }
}

impl Root for Memory<'_> {
    type Content = Content;

    fn follow(&self, path: &Path) -> io::Result<Led> {
        let words = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        let Some(path) = path.to_str() else { return Ok(Led::ToNothing) };
        let mut ahead = VecDeque::from(words(path));
        let mut at = String::new();
        let mut links = 0;
        while let Some(word) = ahead.pop_front() {
            let above = at.rfind('/').unwrap_or(0);
            match word.as_str() {
                "" | "." => continue,
                ".." if at.is_empty() => return Ok(Led::Outside),
                ".." => {
                    at.truncate(above);
                    continue;
                }
                name => at = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") },
            }
            match self.files.get(&at) {
                Some(Given::Link { target }) => {
                    links += 1;
                    if links > LINKS {
                        return Ok(Led::InACircle);
                    }
                    if target.starts_with('/') {
                        return Ok(Led::Outside);
                    }
                    at.truncate(at.rfind('/').unwrap_or(0));
                    words(target).into_iter().rev().for_each(|word| ahead.push_front(word));
                }
                Some(Given::LeftOut { why }) => return Ok(Led::LeftOut(why)),
                Some(Given::File { .. }) if !ahead.is_empty() => return Ok(Led::ToNothing),
                Some(Given::File { .. }) => {}
                None if self.folders.contains_key(at.as_str()) => {}
                None => return Ok(Led::ToNothing),
            }
        }
        Ok(Led::There(at.into()))
    }

    fn kind(&self, place: &Path) -> io::Result<Kind> {
        let is_file = place.to_str().is_some_and(|path| matches!(self.files.get(path), Some(Given::File { .. })));
        Ok(if is_file { Kind::File } else { Kind::Folder })
    }

    fn left_out(&self, path: &Path) -> Option<&'static str> {
        match path.to_str().and_then(|path| self.files.get(path)) {
            Some(Given::LeftOut { why }) => Some(why),
            Some(Given::File { .. } | Given::Link { .. }) | None => None,
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let names = folder.to_str().and_then(|folder| self.folders.get(folder)).ok_or(io::ErrorKind::NotFound)?;
        let is_link = |name: &str| {
            let path = folder.join(name);
            path.to_str().is_some_and(|path| matches!(self.files.get(path), Some(Given::Link { .. })))
        };
        Ok(names.iter().map(|name| (OsString::from(name), is_link(name))).collect())
    }

    fn target(&self, link: &Path) -> io::Result<OsString> {
        match link.to_str().and_then(|link| self.files.get(link)) {
            Some(Given::Link { target }) => Ok(target.into()),
            Some(Given::File { .. } | Given::LeftOut { .. }) | None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Option<Opened<'_, Content>>> {
        let Led::There(path) = self.follow(path)? else { return Err(io::ErrorKind::NotFound.into()) };
        let Some(Given::File { executable, content }) = path.to_str().and_then(|path| self.files.get(path)) else {
            return Ok(None);
        };
        let (bytes, size): (Box<dyn Read>, u64) = match content {
            Content::Bytes(bytes) => (Box::new(&bytes[..]), bytes.len() as u64),
            Content::Written(path) => (Box::new(File::open(path)?), fs::metadata(path)?.len()),
        };
        Ok(Some(Opened { executable: *executable, size, bytes, content: content.clone() }))
    }
}

/// A `bramble.toml` that was read.
pub(super) struct Toml<C> {
    pub(super) text: String,
    executable: bool,
    content: C,
}

/// Reads `bramble.toml`: the one place where that is done. It is a plain file of the repository, looked at before it
/// is opened, and nothing reads it without end.
pub(super) fn begin<R: Root>(root: &R) -> Result<Toml<R::Content>, Error> {
    let path = Path::new(FILE);
    let failed = Error::of_toml;
    let wrong = |problem| Error::Path { path: FILE.to_owned(), problem };
    let place = followed(root, FILE, path)?.ok_or_else(|| match root.target(path) {
        Ok(_) => wrong("is a link to nothing"),
        Err(_) => failed(io::ErrorKind::NotFound.into()),
    })?;
    match root.kind(&place).map_err(failed)? {
        Kind::File => {}
        Kind::Folder => return Err(wrong("is a folder")),
        Kind::Astray | Kind::Other => return Err(wrong("is a pipe, a socket or a device")),
    }
    let file = root.open(&place).map_err(failed)?.ok_or_else(|| wrong("is no plain file"))?;
    let text = bounded(file.bytes).and_then(utf8).map_err(failed)?;
    Ok(Toml { text, executable: file.executable, content: file.content })
}

/// Where a path of the repository leads; `None` where nothing is there.
fn followed<R: Root>(root: &R, path: &str, place: &Path) -> Result<Option<PathBuf>, Error> {
    match root.follow(place) {
        Ok(Led::There(place)) => Ok(Some(place)),
        Ok(Led::ToNothing) => Ok(None),
        Ok(Led::Outside) => {
            Err(Error::Path { path: path.to_owned(), problem: "is a link that leads out of the repository" })
        }
        Ok(Led::InACircle) => Err(Error::Path { path: path.to_owned(), problem: "is a link that leads in a circle" }),
        Ok(Led::LeftOut(why)) => Err(Error::LeftOut { path: path.to_owned(), why }),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Reads `bramble.toml` and what it names.
pub(super) fn read<R: Root>(root: &R) -> Result<(Snapshot, BTreeMap<Digest, R::Content>), Error> {
    rest(root, &begin(root)?)
}

/// Reads what this `bramble.toml` names.
pub(super) fn rest<R: Root>(
    root: &R,
    toml: &Toml<R::Content>,
) -> Result<(Snapshot, BTreeMap<Digest, R::Content>), Error> {
    let bytes = toml.text.len() as u64;
    let mut reading = Reading { root, snapshot: Snapshot::default(), contents: BTreeMap::new(), bytes };
    let Toml { text, executable, content } = toml;
    let digest = Digest(Sha256::digest(text).into());
    reading.put(FILE, Entry::File { digest, size: text.len() as u64, executable: *executable })?;
    reading.contents.insert(digest, content.clone());
    let written =
        written::Repository::read(Path::new(FILE), text).map_err(|problems| Error::Repository(Box::new(problems)))?;
    for named in named(&written) {
        reading.named(&named)?;
    }
    Ok((reading.snapshot, reading.contents))
}

/// What a repository's file names.
struct Named {
    /// Where it does: `["workloads", "web", "path"]`.
    key: Vec<String>,
    path: String,
    what: What,
}

/// What a file or folder is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Links in it are kept as links.
    Overlay,
    /// An archive that a build packs: it may be made later.
    Container,
    Boot,
    Workload,
}

fn named(written: &written::Repository) -> Vec<Named> {
    let named = |key: &[&str], path: &String, what| Named {
        key: key.iter().map(|part| (*part).to_owned()).collect(),
        path: path.clone(),
        what,
    };
    let is_url = |text: &str| text.starts_with("http://") || text.starts_with("https://");
    let mut all = Vec::new();
    all.extend(written.image.overlay.iter().map(|path| named(&["image", "overlay"], path, What::Overlay)));
    for (at, path) in written.image.containers.iter().enumerate() {
        all.push(named(&["image", "containers", &at.to_string()], path, What::Container));
    }
    for (name, boot) in &written.boot {
        let of = |key: &'static str| move |path| named(&["boot", name, key], path, What::Boot);
        all.extend(boot.kernel.iter().filter(|path| !is_url(path)).map(of("kernel")));
        all.extend(boot.initrd.as_slice().iter().filter(|path| !is_url(path)).map(of("initrd")));
        for (key, path) in [("efi", &boot.efi), ("files", &boot.files), ("templates", &boot.templates)] {
            all.extend(path.iter().map(of(key)));
        }
    }
    for (name, workload) in &written.workloads {
        all.push(named(&["workloads", name, "path"], &workload.path, What::Workload));
    }
    all
}

/// The key of the file that names this path, or a folder above it.
pub(crate) fn key_of(written: &written::Repository, path: &str) -> Option<Vec<String>> {
    let is_above =
        |named: &Named| clean(Path::new(&named.path)).is_some_and(|above| Path::new(path).starts_with(above));
    named(written).into_iter().find(is_above).map(|named| named.key)
}

struct Reading<'a, R: Root> {
    root: &'a R,
    snapshot: Snapshot,
    contents: BTreeMap<Digest, R::Content>,
    /// What its files hold together. One that is named twice counts twice, as in a commit.
    bytes: u64,
}

impl<R: Root> Reading<'_, R> {
    fn put(&mut self, path: &str, entry: Entry) -> Result<(), Error> {
        for (at, _) in path.match_indices('/') {
            self.snapshot.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
        self.snapshot.entries.insert(path.to_owned(), entry);
        if self.snapshot.entries.len() > MOST { Err(Error::TooMany) } else { Ok(()) }
    }

    /// Reads a file of the repository once: what it said is what was hashed.
    fn file(&mut self, path: &str, place: &Path) -> Result<(), Error> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        let Some(mut file) = self.root.open(place).map_err(failed)? else {
            return Err(Error::Path { path: path.to_owned(), problem: "is no plain file" });
        };
        let (mut hash, mut size) = (Sha256::new(), 0_u64);
        let mut buffer = [0; 32 << 10];
        loop {
            let read = file.bytes.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            size += read as u64;
            // What is too large is not read to its end, though it grows meanwhile.
            if self.bytes.saturating_add(size.max(file.size)) > LARGEST {
                return Err(Error::TooLarge { path: path.to_owned() });
            }
        }
        self.bytes += size;
        let digest = Digest(hash.finalize().into());
        self.put(path, Entry::File { digest, size, executable: file.executable })?;
        self.contents.insert(digest, file.content);
        Ok(())
    }

    fn named(&mut self, named: &Named) -> Result<(), Error> {
        let relative = Path::new(&named.path);
        let inside = !relative.is_absolute() && !relative.components().any(|part| part == Component::ParentDir);
        // What leaves the repository, or is not there, is for the rules to judge, with a line.
        if !inside {
            return Ok(());
        }
        let clean: PathBuf = relative.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let Some(path) = clean.to_str().filter(|path| !path.is_empty()).map(str::to_owned) else { return Ok(()) };
        let place = match followed(self.root, &path, &clean) {
            Err(error @ Error::LeftOut { .. }) => return Err(error),
            _ if named.what == What::Workload => return self.workload(&path, &clean),
            followed => followed?,
        };
        // What is not there, and whether it may be made later, is for the rules to judge, too.
        let Some(place) = place else { return Ok(()) };
        if self.is_folder(&path, &place)? {
            self.folder(&path, &place, named.what == What::Overlay, 0)
        } else {
            self.file(&path, &place)
        }
    }

    /// Reads a workload's file. What is wrong with it stops that workload alone: the rules find in the snapshot what
    /// lies there in place of a file, why it could not be read, or that nothing is there.
    fn workload(&mut self, path: &str, place: &Path) -> Result<(), Error> {
        let unread = |why: String| Entry::Unread { why };
        let entry = match kind(self.root, place) {
            Ok(Some(Kind::File)) => match self.file(path, place) {
                Err(Error::File { source, .. }) => unread(source.to_string()),
                read => return read,
            },
            Ok(Some(Kind::Folder)) => Entry::Folder,
            Ok(Some(Kind::Astray)) => match self.root.target(place).map(OsString::into_string) {
                Ok(Ok(target)) => Entry::Link { target },
                _ => unread("a link on the way leads to nothing inside the repository".into()),
            },
            Ok(Some(Kind::Other)) => unread("it is a pipe, a socket or a device".into()),
            Ok(None) => return Ok(()),
            Err(error) => unread(error.to_string()),
        };
        // What is sick takes nobody's place: an overlay may hold the same path, and another workload what is above it.
        let entries = &self.snapshot.entries;
        let mut above = path.match_indices('/').filter_map(|(at, _)| entries.get(&path[..at]));
        if entries.contains_key(path) || above.any(|above| *above != Entry::Folder) {
            return Ok(());
        }
        self.put(path, entry)
    }

    fn is_folder(&self, path: &str, place: &Path) -> Result<bool, Error> {
        let kind = self.root.kind(place).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Ok(kind == Kind::Folder)
    }

    fn folder(&mut self, path: &str, place: &Path, is_overlay: bool, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(Error::Path { path: path.to_owned(), problem: "lies too deep, or its links lead in a circle" });
        }
        self.put(path, Entry::Folder)?;
        let failed = |source| Error::File { path: path.to_owned(), source };
        for (name, is_link) in self.root.list(place).map_err(failed)? {
            let at = place.join(&name);
            let Ok(name) = name.into_string() else {
                return Err(Error::Path { path: path.to_owned(), problem: "has a name in it that is not UTF-8" });
            };
            let below = format!("{path}/{name}");
            // A folder is read as its commit would be.
            if let Some(why) = self.root.left_out(&at).or_else(|| name_fault(name.as_bytes())) {
                return Err(Error::LeftOut { path: below, why });
            }
            if is_link && is_overlay {
                let target = self.root.target(&at).map_err(failed)?;
                let problem = "is a link to a name that is not UTF-8";
                let target = target.into_string().map_err(|_| Error::Path { path: below.clone(), problem })?;
                self.put(&below, Entry::Link { target })?;
                continue;
            }
            let place = match followed(self.root, &below, &at)? {
                Some(place) => place,
                None => return Err(Error::Path { path: below, problem: "is a link to nothing" }),
            };
            if self.is_folder(&below, &place)? {
                self.folder(&below, &place, is_overlay, depth + 1)?;
            } else {
                self.file(&below, &place)?;
            }
        }
        Ok(())
    }
}
