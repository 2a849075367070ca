//! Where the files of a repository lie, and where its links lead.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the kernel says of more links than it follows (errno(3)); the standard library has no stable name for it.
const ELOOP: i32 = 40;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Folder,
    /// A link that leads to no file and no folder of the repository.
    Astray,
    /// A pipe, a socket or a device.
    Other,
}

/// Where a path leads when its links are followed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Led {
    There(PathBuf),
    ToNothing,
    Outside,
    /// Nowhere: over more links than are followed, which is in a circle as a rule.
    InACircle,
    /// To something that could not be read, or into it.
    LeftOut(&'static str),
}

/// A file that is read.
pub(crate) struct Opened<'a, C> {
    pub(crate) executable: bool,
    /// Bytes, as it is said to have before it is read.
    pub(crate) size: u64,
    pub(crate) bytes: Box<dyn Read + 'a>,
    /// Where it can be read again.
    pub(crate) content: C,
}

/// Where the files of a repository are. All paths are relative to it.
pub(crate) trait Root {
    type Content: Clone;

    /// Follows every link of a path.
    ///
    /// # Errors
    /// When that could not be seen. That nothing is there is no error.
    fn follow(&self, path: &Path) -> io::Result<Led>;

    /// What is at this very path, to which [`Root::follow`] led.
    fn kind(&self, place: &Path) -> io::Result<Kind>;

    /// Why what is at this very path could not be read.
    fn left_out(&self, path: &Path) -> Option<&'static str>;

    /// What lies in a folder, and whether it is a link.
    fn list(&self, folder: &Path) -> io::Result<Vec<(OsString, bool)>>;

    fn target(&self, link: &Path) -> io::Result<OsString>;

    /// Opens a file; `None` where it is no plain one.
    fn open(&self, path: &Path) -> io::Result<Option<Opened<'_, Self::Content>>>;
}

/// A folder of this machine, by its path without links.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Root for Folder {
    type Content = PathBuf;

    fn follow(&self, path: &Path) -> io::Result<Led> {
        match fs::canonicalize(self.0.join(path)) {
            Err(error) if is_nothing(&error) => Ok(Led::ToNothing),
            Err(error) if error.raw_os_error() == Some(ELOOP) => Ok(Led::InACircle),
            Err(error) => Err(error),
            Ok(place) => Ok(place.strip_prefix(&self.0).map_or(Led::Outside, |place| Led::There(place.into()))),
        }
    }

    fn kind(&self, place: &Path) -> io::Result<Kind> {
        let kind = fs::metadata(self.0.join(place))?.file_type();
        Ok(match (kind.is_file(), kind.is_dir()) {
            (true, _) => Kind::File,
            (_, true) => Kind::Folder,
            _ => Kind::Other,
        })
    }

    fn left_out(&self, _: &Path) -> Option<&'static str> {
        None
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(OsString, bool)>> {
        let entries = fs::read_dir(self.0.join(folder))?;
        entries.map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?.is_symlink())))).collect()
    }

    fn target(&self, link: &Path) -> io::Result<OsString> {
        fs::read_link(self.0.join(link)).map(PathBuf::into_os_string)
    }

    fn open(&self, path: &Path) -> io::Result<Option<Opened<'_, PathBuf>>> {
        let content = self.0.join(path);
        // Looked at before it is opened: opening a pipe waits for someone who writes to it.
        let data = fs::metadata(&content)?;
        if !data.is_file() {
            return Ok(None);
        }
        let executable = is_executable(data.permissions().mode());
        Ok(Some(Opened { executable, size: data.len(), bytes: Box::new(File::open(&content)?), content }))
    }
}

/// Whether an error says that nothing is at a path, or that nothing can be.
fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
}

/// Whether its owner can run a file of this mode: all that a snapshot keeps of it, as git does.
pub(crate) fn is_executable(mode: u32) -> bool {
    mode & 0o100 != 0
}

/// What is at a path, its links followed; `None` where nothing is.
///
/// # Errors
/// When that could not be seen.
pub(crate) fn kind<R: Root>(root: &R, path: &Path) -> io::Result<Option<Kind>> {
    match root.follow(path)? {
        Led::There(place) => root.kind(&place).map(Some),
        Led::Outside | Led::InACircle => Ok(Some(Kind::Astray)),
        Led::ToNothing => match root.target(path) {
            Ok(_) => Ok(Some(Kind::Astray)),
            // It is no link.
            Err(error) if is_nothing(&error) || error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        },
        Led::LeftOut(_) => Ok(None),
    }
}

/// What is at a path of a folder, as a reading of it finds it: whoever judges a folder judges what its snapshot has.
///
/// # Errors
/// When that could not be seen.
pub(super) fn kind_in(root: &Path, path: &Path) -> io::Result<Option<Kind>> {
    match fs::canonicalize(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        root => kind(&Folder(root?), path),
    }
}

/// The mode that a file has where a snapshot with it is laid out, and on a node.
pub(super) fn kept_mode(mode: u32) -> u32 {
    if is_executable(mode) { 0o755 } else { 0o644 }
}
