//! Boots over a real store and a real shelf, whose current set changes.

use std::fs;

use bramble_boot::{MANIFEST, SIGNATURE, Statement, kept_file, kept_set};
use bramble_image::signing::SigningKeys;
use bramble_model::boot_set::{FORM, Layer, Manifest};
use bramble_model::repository::Cluster;
use tempfile::TempDir;

use bramble_model::repository::{Admission, Identity};
use bramble_plan::admission::{Declared, Enrolment, Heard, Keeps, Verdict};

use super::*;

/// The folder of a head's state, with the boot sets on its shelf.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Shelf::open(folder.path()).expect("opens");
        Folder(folder)
    }

    fn boots(&self) -> OwnBoots {
        let shelf = Shelf::open(self.0.path()).expect("opens");
        let store = Store::open(&self.0.path().join("head.redb"), 1).expect("opens");
        let place = Path::new("/nowhere");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"eth0\"\n";
        let cluster = Cluster::parse(place, &place.join("bramble.toml"), text).expect("valid");
        let timeline = Arc::new(Timeline::open(store.clone(), &cluster, 0).expect("opens"));
        let given = Arc::new(BootSets::open(store.clone(), shelf.clone()));
        OwnBoots::open(shelf, store, timeline, Loaders::new(), given).expect("opens")
    }

    /// A set with these words in its files becomes the current one.
    fn build(&self, boots: &OwnBoots, word: &str) -> Digest {
        self.give(boots, shelve(self.0.path(), Architecture::Arm64, word))
    }

    /// As [`Folder::build`], of a set whose stage 1 knows this beside what all do.
    fn build_that_knows(&self, boots: &OwnBoots, word: &str, known: &str) -> Digest {
        self.give(boots, shelve_with(self.0.path(), Architecture::Arm64, word, &[known]))
    }

    fn give(&self, boots: &OwnBoots, set: Digest) -> Digest {
        boots.given.give(Architecture::Arm64, set).expect("given");
        set
    }
}

/// Puts a set with these words in its files onto a shelf.
pub(crate) fn shelve(shelf: &Path, architecture: Architecture, word: &str) -> Digest {
    shelve_with(shelf, architecture, word, &[])
}

/// As [`shelve`], with what its stage 1 knows.
fn shelve_with(shelf: &Path, architecture: Architecture, word: &str, knows: &[&str]) -> Digest {
    let file = |name: &str| {
        let bytes = format!("{word} {name}").into_bytes();
        let sha256 = Digest(Sha256::digest(&bytes).into());
        fs::write(kept_file(shelf, &sha256.to_string()), &bytes).expect("written");
        Artifact { sha256, size: bytes.len() as u64 }
    };
    let named = |name: &str| Layer { name: name.into(), artifact: file(name) };
    let manifest = Manifest {
        form: FORM,
        cluster: "c".parse().expect("a name"),
        version: word.into(),
        revision: None,
        architecture,
        suite: "trixie".into(),
        kernel: file("kernel"),
        initrd: file("initrd"),
        firmware: vec![named("bootcode.bin"), named("start4.elf"), named("shimaa64.efi"), named("grubaa64.efi")],
        layers: Vec::new(),
        cmdline: format!("set={word}"),
        knows: knows.iter().map(ToString::to_string).collect(),
        trusts: Vec::new(),
        packages: Vec::new(),
        inputs: None,
        data: Vec::new(),
    };
    let bytes = serde_json::to_vec(&manifest).expect("plain data");
    let digest = Digest(Sha256::digest(&bytes).into());
    let folder = kept_set(shelf, &digest.to_string());
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(MANIFEST), bytes).expect("written");
    fs::write(folder.join(SIGNATURE), "as a build signs").expect("written");
    digest
}

/// Signs a set of the shelf, with a key of the shelf's own.
pub(crate) fn sign(shelf: &Path, set: &Digest, said: Statement) {
    let keys = SigningKeys::open(&shelf.join("keys")).expect("keys");
    let folder = kept_set(shelf, &set.to_string());
    let manifest = fs::read(folder.join(MANIFEST)).expect("there");
    let signature = keys.sign(&manifest, &said).expect("signed").expect("the secret is here");
    fs::write(folder.join(SIGNATURE), signature).expect("written");
}

fn pi() -> Name {
    "pi".parse().expect("a name")
}

fn begin(boots: &OwnBoots, node: &Name) -> Result<Own, String> {
    begin_at(boots, node, None)
}

/// Begins a boot that is asked for from this card's own place.
/// The node's data partition.
const DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

fn begin_at(boots: &OwnBoots, node: &Name, card: Option<Mac>) -> Result<Own, String> {
    let http = "10.77.0.1:7080".parse().expect("an address");
    let data = Some(DATA.parse().expect("a GUID"));
    let (cpu, agent_port) = (Cpu::Arm64, 7443);
    boots.begin(&Asked { node, cpu, http, agent_port, inventory: false, data, card, by_datagram: false })
}

pub(crate) fn read(content: Option<Content>) -> String {
    match content {
        Some(Content::File { file, .. }) => std::io::read_to_string(&*file).expect("readable"),
        Some(Content::Memory(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        None => "nothing".into(),
    }
}

/// What a machine that fetches by name gets for its kernel.
fn kernel(boots: &OwnBoots) -> String {
    read(boots.named(&pi(), Cpu::Arm64, |set| Some(set.manifest.kernel.clone())))
}

fn start4(boots: &OwnBoots) -> String {
    read(boots.named(&pi(), Cpu::Arm64, |set| set.manifest.firmware("start4.elf").cloned()))
}

#[test]
fn kernel_and_command_line_are_of_one_set_though_another_becomes_current() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "old");
    let own = begin(&boots, &pi()).expect("a boot");
    folder.build(&boots, "new");
    assert!(own.words().cmdline.ends_with("old"));
    assert_eq!(kernel(&boots), "old kernel");
    // Its next boot is of the new one.
    let own = begin(&boots, &pi()).expect("a boot");
    assert!(own.words().cmdline.ends_with("new"));
    assert_eq!(kernel(&boots), "new kernel");
}

#[test]
fn an_expired_set_is_handed_to_the_node_that_was_ready_with_it_and_to_no_other() {
    let folder = Folder::new();
    let boots = folder.boots();
    let set = folder.build(&boots, "old");
    sign(folder.0.path(), &set, Statement { serial: 10, expires: Some(1000), floor: 0 });
    let why = begin(&boots, &pi()).map(drop).expect_err("it never ran that");
    assert!(why.contains("expired on 1970-01-01"), "{why}");
    admissions::is_ready_with(&boots.store, &pi(), set).expect("kept");
    begin(&boots, &pi()).expect("a boot");
    let other = "other".parse().expect("a name");
    begin(&boots, &other).map(drop).expect_err("another machine");
    // What is known of a node goes with it.
    admissions::forget(&boots.store, &pi()).expect("forgotten");
    begin(&boots, &pi()).map(drop).expect_err("it is a new one");
}

/// A connection's panic is logged and ends that connection: what it held must not end the boots of all others.
#[test]
fn boots_go_on_after_a_panic_that_held_what_they_go_through() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "old");
    std::thread::scope(|scope| {
        let connection = scope.spawn(|| {
            let _held = (boots.sets(), boots.present());
            panic!("a connection's");
        });
        connection.join().expect_err("it panics");
    });
    boots.asks(&pi());
    begin(&boots, &pi()).expect("a boot");
    assert_eq!(kernel(&boots), "old kernel");
}

#[test]
fn firmware_that_came_first_binds_the_boot_that_follows() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "old");
    boots.asks(&pi());
    assert_eq!(start4(&boots), "old start4.elf");
    folder.build(&boots, "new");
    let own = begin(&boots, &pi()).expect("a boot");
    assert!(own.words().cmdline.ends_with("old"));
    assert_eq!(kernel(&boots), "old kernel");
    boots.asks(&pi());
    assert_eq!(start4(&boots), "new start4.elf", "it was switched off and on");
}

#[test]
fn the_signed_chain_is_of_one_set() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "old");
    let loader = |name| read(boots.loader(name, || Some(pi())));
    assert_eq!(loader("shimaa64.efi"), "old shimaa64.efi");
    folder.build(&boots, "new");
    assert_eq!(loader("grubaa64.efi"), "old grubaa64.efi");
    assert!(begin(&boots, &pi()).expect("a boot").words().cmdline.ends_with("old"));
    // No DHCP is seen beside a router that says what to boot: shim is what a machine asks for that starts.
    assert_eq!(loader("shimaa64.efi"), "new shimaa64.efi");
    assert_eq!(read(boots.loader("shimaa64.efi", || None)), "new shimaa64.efi", "a stranger");
    assert_eq!(read(boots.loader("grubx64.efi", || None)), "nothing", "no set for amd64");
}

#[test]
fn a_head_that_was_killed_goes_on_with_the_boots_that_it_handed_out() {
    let folder = Folder::new();
    let boot = {
        let boots = folder.boots();
        folder.build(&boots, "old");
        begin(&boots, &pi()).expect("a boot").boot
    };
    let boots = folder.boots();
    folder.build(&boots, "new");
    assert_eq!(kernel(&boots), "old kernel");
    assert_eq!(boots.boot(&boot.0).map(|(node, _)| node), Some(pi()));
}

/// The other records say what each node had: it boots that, until a person has looked.
#[test]
fn a_node_boots_what_it_had_last_where_nobody_can_read_what_is_given() {
    let folder = Folder::new();
    let boots = folder.boots();
    let old = folder.build(&boots, "old");
    begin(&boots, &pi()).expect("a boot");
    crate::boot_sets::tests::tear(&boots.store, Architecture::Arm64);
    for _ in 0..2 {
        assert!(begin(&boots, &pi()).expect("a boot").words().cmdline.ends_with("old"));
        assert_eq!(kernel(&boots), "old kernel");
    }
    let why = |node: &str| begin(&boots, &node.parse().expect("a name")).map(drop).expect_err("no boot");
    assert!(why("new").contains("boot set is given to nodes of arm64 cannot be read"), "{}", why("new"));
    fs::remove_dir_all(kept_set(folder.0.path(), &old.to_string())).expect("removed");
    assert!(why("pi").contains("cannot be read"), "{}", why("pi"));
}

#[test]
fn a_boot_whose_set_has_gone_gets_nothing_of_another_one() {
    let folder = Folder::new();
    let boots = folder.boots();
    let old = folder.build(&boots, "old");
    begin(&boots, &pi()).expect("a boot");
    folder.build(&boots, "new");
    fs::remove_dir_all(kept_set(folder.0.path(), &old.to_string())).expect("removed");
    assert_eq!(kernel(&boots), "nothing");
    begin(&boots, &pi()).expect("a boot");
    assert_eq!(kernel(&boots), "new kernel");
}

#[test]
fn a_boot_leads_to_its_node_until_another_one_is_let_in_or_until_it_is_forgotten() {
    let folder = Folder::new();
    let boots = folder.boots();
    assert!(begin(&boots, &pi()).is_err(), "there is no set");
    folder.build(&boots, "only");
    let other: Name = "other".parse().expect("a name");
    let (first, second) = (begin(&boots, &pi()).expect("a boot"), begin(&boots, &pi()).expect("a boot"));
    let of_other = begin(&boots, &other).expect("a boot");
    assert_eq!(
        boots.boot(&first.boot.0).map(|(node, _)| node),
        Some(pi()),
        "whoever asked for the second one may be anyone"
    );
    assert_eq!(boots.boot(&second.boot.0).map(|(node, _)| node), Some(pi()));
    let let_in = Enrolment {
        boot: second.boot.clone(),
        nonce: Digest(Sha256::digest(second.nonce.as_deref().expect("told")).into()),
        fingerprint: "a key".into(),
        keeps: Keeps::Nothing,
        card: None,
        heard: Heard { last: None, since: 0 },
    };
    let open = Declared { admission: Admission::Open, identity: Identity::Wire };
    let verdict = admissions::change(&boots.store, &pi(), |record| record.enrol(&let_in, open)).expect("stored");
    assert_eq!(verdict, Verdict::Admit);
    assert_eq!(boots.boot(&first.boot.0).map(|(node, _)| node), None, "another one was let in");
    assert_eq!(boots.boot(&second.boot.0).map(|(node, _)| node), None, "its machine is not on its way any more");
    assert_eq!(boots.boot(&of_other.boot.0).map(|(node, _)| node), Some(other));
    assert_eq!(boots.boot("no such boot").map(|(node, _)| node), None);
    admissions::forget(&boots.store, &pi()).expect("stored");
    assert_eq!(boots.boot(&second.boot.0).map(|(node, _)| node), None, "its record is gone");
}

/// A container of the node reads the kernel's command line, and a machine beside it what it was sent.
#[test]
fn a_boot_is_claimed_once_and_reports_with_what_that_was_answered() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "only");
    let card = Mac([2, 0, 0, 0, 0, 1]);
    let own = begin(&boots, &pi()).expect("a boot");
    let told = own.nonce.as_deref().expect("its set does not claim boots");
    assert!(boots.claim(&own.boot.0, sha256(told), None).is_err(), "it was told its nonce");
    assert_eq!(boots.reports(&own.boot.0, None), Some(pi()));

    folder.build_that_knows(&boots, "new", bramble_boot::CLAIMS);
    let claiming = begin_at(&boots, &pi(), Some(card)).expect("a boot");
    assert!(claiming.nonce.is_none(), "nobody reads it on the command line");
    let (id, own) = (claiming.boot.0.as_str(), sha256("drawn by the machine"));
    assert!(boots.claim(id, own, None).is_err(), "from another card's place");
    assert_eq!(boots.reports(id, Some(card)), Some(pi()), "that it cannot claim it, it may say");
    assert_eq!(boots.reports(id, None), None, "from another card's place");
    let word = boots.claim(id, own, Some(card)).map_err(drop).expect("its own");
    assert!(boots.claim(id, sha256("a container's"), Some(card)).is_err(), "it has been");
    for (reporter, node) in [
        (id.to_owned(), None),
        (format!("{id}.{word}"), Some(pi())),
        (format!("{id}.0123"), None),
        (format!(".{word}"), None),
        (word, None),
    ] {
        assert_eq!(boots.reports(&reporter, Some(card)), node, "{reporter}");
    }
}

/// One of before mounts by name whatever disk is there, and reads no word for it.
#[test]
fn the_data_partition_is_named_to_whoever_mounts_no_other() {
    let folder = Folder::new();
    let boots = folder.boots();
    folder.build(&boots, "old");
    assert_eq!(begin_at(&boots, &pi(), None).expect("a boot").words().data, None);
    folder.build_that_knows(&boots, "new", bramble_boot::OWN_DATA);
    let data = begin_at(&boots, &pi(), None).expect("a boot").words().data;
    assert_eq!(data.map(|data| data.to_string()).as_deref(), Some(DATA));
}
