use std::ffi::OsString;
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::reading::Memory;
use super::*;
use crate::repository::root::{self, Folder, Led, Opened, Root};
use crate::repository::{Cluster, FILE, Places, Problem, Problems};

const TOML: &str = r#"
[cluster]
name = "c"
[network]
interface = "eth0"
[image]
overlay = "overlay/"
containers = ["later.tar"]
[roles.manager]
engine = "manager"
[nodes.m1]
mac = "52:54:00:00:00:01"
role = "manager"
[boot.tool]
kernel = "boot/linux"
initrd = "http://elsewhere/initrd"
templates = "seed"
[workloads.web]
path = "./web.yaml"
"#;

fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    for path in ["overlay/etc/empty", "boot", "seed/deep"] {
        fs::create_dir_all(root.join(path)).expect("a folder");
    }
    for (path, text) in [
        (FILE, TOML),
        ("overlay/etc/motd", "hello\n"),
        ("boot/linux", "kernel"),
        ("seed/deep/user-data", "#cloud-config {{ node }}\n"),
        ("web.yaml", "services:\n  web:\n    image: web:1\n"),
        ("unnamed", "nobody names this"),
    ] {
        fs::write(root.join(path), text).expect("a file");
    }
    symlink("/etc/localtime", root.join("overlay/etc/zone")).expect("a link");
    fs::set_permissions(root.join("boot/linux"), fs::Permissions::from_mode(0o755)).expect("its mode");
    folder
}

fn read(root: &Path) -> Snapshot {
    Snapshot::read(root).expect("it reads").0
}

#[test]
fn what_is_named_is_in_it_and_nothing_else() {
    let folder = repository();
    let snapshot = read(folder.path());
    let listed: Vec<String> = snapshot
        .entries
        .iter()
        .map(|(path, entry)| match entry {
            Entry::Folder => format!("{path}/"),
            Entry::File { size, executable, .. } => format!("{path} {size}{}", if *executable { " x" } else { "" }),
            Entry::Link { target } => format!("{path} -> {target}"),
            Entry::Unread { why } => format!("{path}: {why}"),
        })
        .collect();
    insta::assert_snapshot!(listed.join("\n"));
    assert!(snapshot.is_sound());
    assert_eq!(read(folder.path()).digest(), snapshot.digest(), "read again, it is the same");
    fs::write(folder.path().join("unnamed"), "other").expect("a file");
    assert_eq!(read(folder.path()).digest(), snapshot.digest(), "what nobody names does not count");
    fs::write(folder.path().join("web.yaml"), "services:\n  web:\n    image: web:2\n").expect("a file");
    assert_ne!(read(folder.path()).digest(), snapshot.digest());
}

#[test]
fn it_is_validated_from_its_contents_alone() {
    let folder = repository();
    let (snapshot, contents) = Snapshot::read(folder.path()).expect("it reads");
    let kept: BTreeMap<Digest, Vec<u8>> =
        contents.into_iter().map(|(digest, path)| (digest, fs::read(path).expect("a file"))).collect();
    drop(folder);
    let content = |digest: &Digest| kept.get(digest).cloned().ok_or_else(|| io::ErrorKind::NotFound.into());
    let tree = Kept { snapshot: &snapshot, content };
    let (root, home) = (Path::new("/snapshot"), Path::new("/home"));
    let cluster = Cluster::of(&tree, Places { root, home }).expect("valid");
    assert_eq!(cluster.image.overlay.as_deref(), Some(Path::new("/snapshot/overlay/")));
    assert!(cluster.workloads.values().all(|workload| workload.problem.is_none()));
}

#[test]
fn a_sick_workload_is_sick_alone_and_check_still_refuses_it() {
    let folder = repository();
    fs::write(folder.path().join("web.yaml"), "services: [\n").expect("a file");
    let (snapshot, contents) = Snapshot::read(folder.path()).expect("it reads");
    let content = |digest: &Digest| fs::read(&contents[digest]);
    let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
    let cluster = Cluster::of(&Kept { snapshot: &snapshot, content }, places).expect("the rest is well");
    let problem = cluster.workloads.values().next().and_then(|web| web.problem.clone()).expect("a problem");
    assert!(problem.message.contains("is not a Compose file"), "{problem:?}");
    Cluster::check(folder.path()).expect_err("check ends with it");
}

/// What `check` says of a folder, and what the head says of the snapshot that is read of it.
fn verdicts(root: &Path) -> (Problems, Problem) {
    let checked = Cluster::check(root).expect_err("check ends with it");
    let (snapshot, contents) = Snapshot::read(root).expect("the rest is a snapshot");
    assert!(snapshot.is_sound());
    let content = |digest: &Digest| fs::read(&contents[digest]);
    let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
    let cluster = Cluster::of(&Kept { snapshot: &snapshot, content }, places).expect("the rest is well");
    (checked, cluster.workloads.values().next().and_then(|web| web.problem.clone()).expect("a problem"))
}

#[test]
fn what_is_wrong_with_a_workloads_own_file_stops_it_alone_whatever_it_is() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "services:\n  a: {}\n").expect("a file");
    let mut told = String::new();
    type Breaks<'a> = &'a dyn Fn(&Path);
    let faults: [(&str, Breaks<'_>); 7] = [
        ("torn", &|path| fs::write(path, "services: [\n").expect("a file")),
        ("nothing", &|_| {}),
        ("a folder", &|path| fs::create_dir(path).expect("a folder")),
        ("a pipe", &|path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
        }),
        ("a link that leads out", &|path| symlink(outside.path().join("secret"), path).expect("a link")),
        ("a link to nothing", &|path| symlink("nowhere", path).expect("a link")),
        ("a link in a circle", &|path| symlink("web.yaml", path).expect("a link")),
    ];
    for (what, breaks) in faults {
        let folder = repository();
        let path = folder.path().join("web.yaml");
        fs::remove_file(&path).expect("removed");
        breaks(&path);
        let (checked, kept) = verdicts(folder.path());
        let [checked] = &checked.0[..] else { panic!("{what}: {checked}") };
        assert_eq!((checked.key.as_str(), checked.line), ("workloads.web.path", 19), "{what}");
        assert_eq!((&checked.key, checked.line), (&kept.key, kept.line), "{what}");
        told += &format!("{what}\n  check: {}\n  head:  {}\n", checked.message, kept.message);
    }
    insta::assert_snapshot!(told);
}

/// A folder in which one operation at one path fails: root, as which tests run, may read everything.
struct Faulty<'a> {
    folder: Folder,
    operation: &'a str,
    path: &'a str,
    errno: i32,
}

impl<'a> Faulty<'a> {
    fn new(root: &Path, operation: &'a str, path: &'a str, errno: i32) -> Self {
        let folder = Folder(fs::canonicalize(root).expect("a folder"));
        Faulty { folder, operation, path, errno }
    }

    fn fails(&self, operation: &str, path: &Path) -> io::Result<()> {
        let is_meant = operation == self.operation && path == Path::new(self.path);
        if is_meant { Err(io::Error::from_raw_os_error(self.errno)) } else { Ok(()) }
    }
}

impl Root for Faulty<'_> {
    type Content = PathBuf;

    fn follow(&self, path: &Path) -> io::Result<Led> {
        self.fails("follow", path)?;
        self.folder.follow(path)
    }

    fn kind(&self, place: &Path) -> io::Result<Kind> {
        self.fails("kind", place)?;
        self.folder.kind(place)
    }

    fn left_out(&self, path: &Path) -> Option<&'static str> {
        self.folder.left_out(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(OsString, bool)>> {
        self.fails("list", folder)?;
        self.folder.list(folder)
    }

    fn target(&self, link: &Path) -> io::Result<OsString> {
        self.fails("target", link)?;
        self.folder.target(link)
    }

    fn open(&self, path: &Path) -> io::Result<Option<Opened<'_, PathBuf>>> {
        self.fails("open", path)?;
        self.folder.open(path)
    }
}

const EIO: i32 = 5;
const EACCES: i32 = 13;

#[test]
fn a_workloads_file_that_cannot_be_read_is_sick_alone_and_says_so() {
    let folder = repository();
    for (operation, errno) in [("follow", EACCES), ("kind", EIO), ("open", EACCES), ("open", EIO)] {
        let root = Faulty::new(folder.path(), operation, "web.yaml", errno);
        let (snapshot, contents) = reading::read(&root).expect("the rest is a snapshot");
        assert!(snapshot.is_sound());
        let content = |digest: &Digest| fs::read(&contents[digest]);
        let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
        let cluster = Cluster::of(&Kept { snapshot: &snapshot, content }, places).expect("the rest is well");
        let [problem] = &cluster.sick().0[..] else { panic!("{operation}: {:?}", cluster.sick()) };
        let said = io::Error::from_raw_os_error(errno);
        assert_eq!(problem.message, format!("`./web.yaml` cannot be read: {said}"), "{operation}");
        assert!(problem.help.is_some(), "{operation}");
    }
    symlink("nowhere", folder.path().join("link")).expect("a link");
    let root = Faulty::new(folder.path(), "target", "link", EIO);
    root::kind(&root, Path::new("link")).expect_err("it is not known whether a link is there");
}

#[test]
fn a_folder_with_what_could_not_be_read_laid_out_is_the_same_snapshot() {
    let folder = repository();
    let (snapshot, _) = reading::read(&Faulty::new(folder.path(), "open", "web.yaml", EIO)).expect("it reads");
    assert_ne!(snapshot.digest(), read(folder.path()).digest(), "it is another one than with the file");
    let Entry::Unread { why } = &snapshot.entries["web.yaml"] else { panic!("{snapshot:?}") };
    let written = serde_json::to_string(&snapshot).expect("written");
    assert!(written.contains(r#"{"is":"link","target":"cannot be read: "#), "an older release reads it: {written}");
    assert_eq!(serde_json::from_str::<Snapshot>(&written).expect("read"), snapshot);
    fs::remove_file(folder.path().join("web.yaml")).expect("removed");
    assert_ne!(snapshot.digest(), read(folder.path()).digest(), "it is another one than without");
    symlink(stand_in(why), folder.path().join("web.yaml")).expect("a link");
    assert_eq!(snapshot.digest(), read(folder.path()).digest());
}

#[test]
fn what_is_no_workloads_own_and_cannot_be_read_is_no_snapshot() {
    let folder = repository();
    fs::write(folder.path().join("later.tar"), "made").expect("a file");
    for (operation, path) in [
        ("follow", "later.tar"),
        ("kind", "later.tar"),
        ("open", "later.tar"),
        ("follow", "boot/linux"),
        ("open", "boot/linux"),
        ("follow", "overlay"),
        ("kind", "overlay/etc"),
        ("list", "overlay/etc"),
        ("target", "overlay/etc/zone"),
        ("open", "overlay/etc/motd"),
        ("follow", "seed/deep/user-data"),
        ("open", FILE),
    ] {
        let error = reading::read(&Faulty::new(folder.path(), operation, path, EACCES)).expect_err(path);
        assert!(matches!(error, Error::File { .. }), "{operation} {path}: {error:?}");
    }
}

#[test]
fn that_nothing_is_there_or_that_links_lead_in_a_circle_is_no_fault_of_the_disk() {
    let folder = repository();
    symlink("circle", folder.path().join("seed/circle")).expect("a link");
    symlink("web.yaml/below", folder.path().join("through")).expect("a link");
    let files = given(folder.path());
    let (memory, disk) = (Memory::new(&files), Folder(fs::canonicalize(folder.path()).expect("a folder")));
    let long = "x".repeat(256);
    for (path, led, kind) in [
        (long.as_str(), Led::ToNothing, None),
        ("a\0b", Led::ToNothing, None),
        ("seed/circle", Led::InACircle, Some(Kind::Astray)),
        ("seed/circle/below", Led::InACircle, Some(Kind::Astray)),
        ("through", Led::ToNothing, Some(Kind::Astray)),
        ("web.yaml/below", Led::ToNothing, None),
        ("nowhere", Led::ToNothing, None),
    ] {
        let path = Path::new(path);
        assert_eq!(memory.follow(path).expect("seen"), led, "{path:?}");
        assert_eq!(disk.follow(path).expect("seen"), led, "{path:?}");
        assert_eq!(root::kind(&memory, path).expect("seen"), kind, "{path:?}");
        assert_eq!(root::kind(&disk, path).expect("seen"), kind, "{path:?}");
    }
}

#[test]
fn a_link_of_a_commit_that_leads_out_stops_its_workload_alone() {
    let folder = repository();
    let files = given(folder.path());
    for target in ["/etc/hostname", "../secret", "nowhere", "web.yaml"] {
        let mut files = files.clone();
        files.insert("web.yaml".into(), Given::Link { target: target.into() });
        let (snapshot, contents) = Snapshot::of(&files).expect(target);
        assert_eq!(snapshot.entries["web.yaml"], Entry::Link { target: target.into() });
        let content = |digest: &Digest| match &contents[digest] {
            Content::Bytes(bytes) => Ok(bytes.to_vec()),
            Content::Written(path) => fs::read(path),
        };
        let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
        let cluster = Cluster::of(&Kept { snapshot: &snapshot, content }, places).expect("the rest is well");
        assert_eq!(cluster.sick().0.len(), 1, "{target}");
    }
}

/// An image build would follow it, as it lies where the snapshot is laid out.
#[test]
fn a_container_is_no_link_that_leads_out_even_where_a_workload_or_an_overlay_brings_it() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "services:\n  a: {}\n").expect("a file");
    for (container, target) in [
        ("web.yaml", outside.path().join("secret")),
        ("web.yaml", "nowhere".into()),
        ("overlay/etc/zone", "/etc/localtime".into()),
    ] {
        let folder = repository();
        let link = folder.path().join(container);
        fs::remove_file(&link).expect("removed");
        symlink(&target, &link).expect("a link");
        fs::write(folder.path().join(FILE), TOML.replace("later.tar", container)).expect("a file");
        let said = |problems: Problems| {
            let at_container = problems.0.into_iter().find(|problem| problem.key == "image.containers.0");
            at_container.map(|problem| problem.message)
        };
        let wanted = Some(format!("`{container}` is a link that leads to nothing inside the repository"));
        assert_eq!(Cluster::of_folder(folder.path()).map_err(said).expect_err("the folder"), wanted);
        // What a commit or an offer of another machine may hold.
        let (mut snapshot, contents) = Snapshot::read(repository().path()).expect("it reads");
        let toml = fs::read(folder.path().join(FILE)).expect("a file");
        let digest = Digest(Sha256::digest(&toml).into());
        let file = Entry::File { digest, size: toml.len() as u64, executable: false };
        snapshot.entries.insert(FILE.into(), file);
        snapshot.entries.insert(container.into(), Entry::Link { target: target.display().to_string() });
        let content = |wanted: &Digest| if *wanted == digest { Ok(toml.clone()) } else { fs::read(&contents[wanted]) };
        let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
        let judged = Cluster::of(&Kept { snapshot: &snapshot, content }, places);
        assert_eq!(judged.map_err(said).expect_err("the snapshot"), wanted);
    }
}

/// What is no workload's own stops the snapshot: `check` says so, and where it is named.
#[test]
fn check_refuses_what_cannot_be_read_as_a_snapshot() {
    let outside = tempfile::tempdir().expect("a folder");
    for (path, key) in [("seed/deep/more", "boot.tool.templates"), ("overlay/pipe", "image.overlay")] {
        let folder = repository();
        let path = folder.path().join(path);
        if key == "image.overlay" {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        } else {
            symlink(outside.path(), &path).expect("a link");
        }
        Snapshot::read(folder.path()).expect_err("it is no snapshot");
        let problems = Cluster::check(folder.path()).expect_err("check says so");
        assert_eq!(problems.0.iter().map(|problem| problem.key.as_str()).collect::<Vec<_>>(), [key]);
        assert!(problems.0[0].line > 0 && problems.0[0].help.is_some(), "{problems}");
    }
}

#[test]
fn no_link_leads_out() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("secret"), "services: {}\n").expect("a file");
    for (link, target) in [
        ("seed/deep/user-data", outside.path().join("secret")),
        ("seed/more", outside.path().to_owned()),
        ("boot/linux", "../../../../etc/hostname".into()),
    ] {
        let folder = repository();
        let path = folder.path().join(link);
        let _ = fs::remove_file(&path);
        symlink(&target, &path).expect("a link");
        let error = Snapshot::read(folder.path()).expect_err(link);
        let wanted = matches!(&error, Error::Path { path, .. } if path == link);
        // A path that climbs out of a short temporary folder may end at nothing, which the rules judge.
        assert!(wanted || link == "boot/linux", "{link}: {error:?}");
    }
    let folder = repository();
    symlink("user-data", folder.path().join("seed/deep/same")).expect("a link");
    let snapshot = read(folder.path());
    assert!(
        matches!(snapshot.entries["seed/deep/same"], Entry::File { .. }),
        "one that stays inside is what it leads to"
    );
    symlink("..", folder.path().join("seed/deep/circle")).expect("a link");
    Snapshot::read(folder.path()).expect_err("a circle ends");
}

/// By every way in which a repository is read, and never for ever.
#[test]
fn a_bramble_toml_that_is_no_plain_file_is_refused_with_the_same_words_by_all() {
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join(FILE), TOML).expect("a file");
    type Breaks<'a> = &'a dyn Fn(&Path);
    let faults: [(&str, Breaks<'_>); 9] = [
        ("nothing", &|_| {}),
        ("a folder", &|path| fs::create_dir(path).expect("a folder")),
        ("a pipe", &|path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
        }),
        ("a socket", &|path| drop(std::os::unix::net::UnixListener::bind(path).expect("a socket"))),
        ("a file of 1 TiB", &|path| fs::File::create(path).and_then(|file| file.set_len(1 << 40)).expect("a file")),
        ("a link to a device", &|path| symlink("/dev/zero", path).expect("a link")),
        ("a link that leads out", &|path| symlink(outside.path().join(FILE), path).expect("a link")),
        ("a link to nothing", &|path| symlink("nowhere", path).expect("a link")),
        ("a link in a circle", &|path| symlink(FILE, path).expect("a link")),
    ];
    let mut told = String::new();
    for (what, breaks) in faults {
        let folder = repository();
        let path = folder.path().join(FILE);
        fs::remove_file(&path).expect("removed");
        breaks(&path);
        let checked = Cluster::check(folder.path()).expect_err(what).0.remove(0);
        let cluster = Cluster::of_folder(folder.path()).expect_err(what).0.remove(0);
        assert_eq!((&checked.message, &checked.help), (&cluster.message, &cluster.help), "{what}");
        let error = Snapshot::read(folder.path()).expect_err(what);
        told += &format!("{what}\n  {}\n  {}\n", checked.message, checked.help.unwrap_or_default());
        told += &format!("  {error}\n");
        if let Ok(target) = fs::read_link(&path) {
            let target = target.display().to_string();
            let committed = Snapshot::of(&BTreeMap::from([(FILE.to_owned(), Given::Link { target })]));
            assert_eq!(committed.expect_err(what).to_string(), error.to_string(), "{what}");
        }
    }
    insta::assert_snapshot!(told);
}

/// Whoever checks a folder while it is written reads its `bramble.toml` once.
#[test]
fn what_was_judged_is_what_is_in_the_snapshot() {
    let folder = repository();
    let begun = Begun::of(folder.path()).expect("it reads");
    fs::write(folder.path().join(FILE), "").expect("emptied");
    let (snapshot, _) = begun.read().expect("it reads");
    let digest = Digest(Sha256::digest(begun.text()).into());
    assert!(matches!(&snapshot.entries[FILE], Entry::File { digest: kept, .. } if *kept == digest));
    assert!(snapshot.entries.contains_key("boot/linux"));
}

#[test]
fn a_bramble_toml_has_a_longest_length_in_a_folder_in_a_commit_and_in_an_offer() {
    let text = |length: u64| {
        let comment = "#".repeat(usize::try_from(length).expect("a length") - TOML.len());
        format!("{TOML}{comment}")
    };
    let folder = repository();
    let path = folder.path().join(FILE);
    fs::write(&path, text(LONGEST)).expect("a file");
    Cluster::check(folder.path()).expect("just short enough");
    fs::write(&path, text(LONGEST + 1)).expect("a file");
    let error = Snapshot::read(folder.path()).expect_err("too long");
    assert!(error.to_string().contains("1 MiB") && error.help().is_some(), "{error}");
    assert_eq!(Snapshot::of(&given(folder.path())).expect_err("too long").to_string(), error.to_string());
    let file = Entry::File { digest: Digest([1; 32]), size: LONGEST + 1, executable: false };
    let snapshot = Snapshot { entries: BTreeMap::from([(FILE.to_owned(), file)]) };
    let content = |_: &Digest| panic!("nobody reads it");
    let places = Places { root: Path::new("/snapshot"), home: Path::new("/home") };
    let offered = Cluster::of(&Kept { snapshot: &snapshot, content }, places).expect_err("too long").0.remove(0);
    let checked = Cluster::check(folder.path()).expect_err("too long").0.remove(0);
    assert_eq!((offered.message, offered.help), (checked.message, checked.help));
}

/// By what it is named for, and before it is read to its end: the file has no blocks, and 1 TiB.
#[test]
fn all_files_together_have_a_most_in_a_folder_in_a_commit_and_in_an_offer() {
    let folder = repository();
    fs::File::options()
        .write(true)
        .open(folder.path().join("boot/linux"))
        .and_then(|file| file.set_len(1 << 40))
        .expect("a file");
    let error = Snapshot::read(folder.path()).expect_err("too large");
    assert_eq!(error.path(), Some("boot/linux"));
    assert_eq!(Snapshot::of(&given(folder.path())).expect_err("too large").to_string(), error.to_string());
    let problem = Cluster::check(folder.path()).expect_err("check says so").0.remove(0);
    insta::assert_snapshot!(format!(
        "line {}: {problem}\n{}",
        problem.line,
        problem.help.as_deref().unwrap_or_default()
    ));
    let of = |sizes: &[u64]| {
        let file = |size: &u64| Entry::File { digest: Digest([1; 32]), size: *size, executable: false };
        let entries = sizes.iter().enumerate().map(|(at, size)| (at.to_string(), file(size)));
        Snapshot { entries: entries.collect() }
    };
    assert!(of(&[LARGEST - 1, 1]).is_sound());
    assert!(!of(&[LARGEST, 1]).is_sound() && !of(&[u64::MAX, u64::MAX]).is_sound());
}

#[test]
fn what_is_no_plain_file_is_refused() {
    let folder = repository();
    let path = folder.path().join("seed/pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    // Opening a pipe that nobody writes to would wait for ever.
    let error = Snapshot::read(folder.path()).expect_err("a pipe");
    assert!(error.to_string().contains("seed/pipe"), "{error}");
}

#[test]
fn what_came_from_elsewhere_is_looked_at_before_it_is_used() {
    let file = || Entry::File { digest: Digest([1; 32]), size: 1, executable: false };
    let sound = |entries: Vec<(&str, Entry)>| {
        Snapshot { entries: entries.into_iter().map(|(path, entry)| (path.to_owned(), entry)).collect() }.is_sound()
    };
    assert!(sound(vec![("a", Entry::Folder), ("a/b", file())]));
    for path in ["/etc/passwd", "../x", "a/../../x", "", "a//b", "./a", "a/", "a\0b"] {
        assert!(!sound(vec![("a", Entry::Folder), (path, file())]), "{path:?}");
    }
    assert!(!sound(vec![("a", Entry::Link { target: "/etc".into() }), ("a/b", file())]), "below a link");
    assert!(!sound(vec![("a", file()), ("a/b", file())]), "below a file");
}

proptest! {
    #[test]
    fn a_path_of_any_text_panics_nowhere(paths in prop::collection::vec(".{0,12}", 0..5)) {
        let entries = paths.into_iter().map(|path| (path, Entry::Folder)).collect();
        let snapshot = Snapshot { entries };
        let _ = (snapshot.is_sound(), snapshot.digest());
    }
}

/// What is in a folder, as a commit's files come.
fn given(root: &Path) -> BTreeMap<String, Given> {
    fn add(root: &Path, folder: &str, files: &mut BTreeMap<String, Given>) {
        for entry in fs::read_dir(root.join(folder)).expect("a folder").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            let data = entry.metadata().expect("there");
            if data.is_symlink() {
                let target = fs::read_link(entry.path()).expect("a link").to_string_lossy().into_owned();
                files.insert(path, Given::Link { target });
            } else if data.is_dir() {
                add(root, &path, files);
            } else {
                let executable = data.permissions().mode() & 0o100 != 0;
                // One is too large for memory.
                let content = if path == "boot/linux" {
                    Content::Written(entry.path())
                } else {
                    Content::Bytes(fs::read(entry.path()).expect("a file").into())
                };
                files.insert(path, Given::File { executable, content });
            }
        }
    }
    let mut files = BTreeMap::new();
    add(root, "", &mut files);
    files
}

#[test]
fn files_that_were_read_elsewhere_are_the_same_snapshot() {
    let folder = repository();
    let root = folder.path();
    // No commit has an empty folder.
    fs::remove_dir(root.join("overlay/etc/empty")).expect("removed");
    let more = |path: &str| root.join("seed").join(path);
    symlink("user-data", more("deep/same")).expect("a link");
    symlink("deep/same", more("chain")).expect("a link");
    symlink("../boot", more("boot")).expect("a link");
    fs::set_permissions(root.join("seed/deep/user-data"), fs::Permissions::from_mode(0o755)).expect("its mode");
    let files = given(root);
    let (snapshot, contents) = Snapshot::of(&files).expect("it reads");
    let (expected, paths) = Snapshot::read(root).expect("it reads");
    assert_eq!(snapshot, expected);
    assert!(snapshot.entries.contains_key("seed/boot/linux"));
    assert_eq!(contents.keys().collect::<Vec<_>>(), paths.keys().collect::<Vec<_>>());
    for (digest, content) in contents {
        let bytes = match content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::Written(path) => fs::read(path).expect("a file"),
        };
        assert_eq!(Digest(Sha256::digest(&bytes).into()), digest);
    }
}

#[test]
fn no_link_of_files_that_were_read_elsewhere_leads_out() {
    let folder = repository();
    let files = given(folder.path());
    let read = |path: &str, target: &str| {
        let mut files = files.clone();
        files.insert(path.into(), Given::Link { target: target.into() });
        Snapshot::of(&files)
    };
    for (path, target) in [
        ("boot/linux", "/etc/hostname"),
        ("boot/linux", "../../secret"),
        ("seed/more", "deep/../../../secret"),
        ("seed/more", "deep/../../boot/../../web.yaml"),
    ] {
        let error = read(path, target).expect_err(target);
        assert!(
            matches!(&error, Error::Path { path: at, problem } if at == path && problem.contains("out")),
            "{error}"
        );
    }
    for (path, target) in [("seed/circle", "."), ("seed/circle", "circle"), ("seed/nothing", "nowhere")] {
        read(path, target).expect_err(target);
    }
    read("overlay/zone", "/etc/localtime").expect("it is meant on the node");
    let error = read(FILE, "boot/../../bramble.toml").expect_err("the file itself");
    assert!(matches!(error, Error::Path { .. }), "{error}");
    let error = Snapshot::of(&BTreeMap::new()).expect_err("nothing is there");
    assert!(error.to_string().contains(FILE), "{error}");
}

#[test]
fn what_could_not_be_read_is_said_where_it_is_needed_and_only_there() {
    let folder = repository();
    let files = given(folder.path());
    let without = |path: &str| {
        let mut files = files.clone();
        files.insert(path.into(), Given::LeftOut { why: "is a submodule" });
        Snapshot::of(&files)
    };
    for path in ["overlay/etc/more", "overlay/..", "seed/deep/more", "boot/linux", "later.tar", "web.yaml", FILE] {
        let error = without(path).expect_err(path);
        assert!(matches!(&error, Error::LeftOut { path: at, .. } if at == path), "{path}: {error}");
        assert_eq!(error.to_string(), format!("{path} is a submodule"));
    }
    without("docs").expect("nobody names it");
    let mut files = files.clone();
    files.insert("seed/other".into(), Given::Link { target: "../docs/page".into() });
    files.insert("docs".into(), Given::LeftOut { why: "is a submodule" });
    let error = Snapshot::of(&files).expect_err("a link leads into it");
    assert_eq!(error.to_string(), "seed/other is a submodule");
}

proptest! {
    /// Whatever links there are, what is read is what a folder with the same files has.
    #[test]
    fn links_lead_where_a_folder_has_them(
        links in prop::collection::btree_map("[abc]", prop::sample::select(vec![
            "a", "b", "c", "d", "d/e", "d/f", "..", "../x", "d/../a", "./b/", "e/../..", "d/e/f", "/nowhere/at/all", "x/../a",
        ]), 0..4),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let toml = "[boot.a]\nkernel = \"d/e\"\nfiles = \"s\"\n";
        fs::write(root.join(FILE), toml).expect("a file");
        fs::create_dir_all(root.join("s/d/f")).expect("a folder");
        fs::create_dir_all(root.join("d")).expect("a folder");
        for path in ["s/d/e", "s/d/f/g", "d/e"] {
            fs::write(root.join(path), path).expect("a file");
        }
        for (name, target) in &links {
            symlink(target, root.join("s").join(name)).expect("a link");
        }
        let (memory, disk) = (Snapshot::of(&given(root)), Snapshot::read(root));
        match (memory, disk) {
            (Ok((memory, _)), Ok((disk, _))) => prop_assert_eq!(memory, disk),
            (memory, disk) => prop_assert_eq!(memory.is_err(), disk.is_err(), "{:?}", links),
        }
    }
}
