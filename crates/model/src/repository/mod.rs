//! The cluster repository: what was written, and what it means once validated.
//!
//! `bramble.toml` goes through two layers that never mix: [`written`] is the file as serde reads
//! it; [`Cluster`] is what it means, with defaults filled in and every rule held. In between,
//! [`problem`] ties each broken rule to the line that breaks it.

mod identity;
mod keys;
pub mod problem;
pub mod recipient;
pub(crate) mod root;
mod rules;
pub mod tree;
pub mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use bramble_boot::PartitionId;
use serde::{Deserialize, Serialize};

use crate::boot_set::Architecture;
use crate::engine::{ByEngine, DockerSettings, EngineKind, EnginePart};
use crate::firewall::{Source as From, Traffic};
use crate::names::{Digest, Mac, Name};
pub use problem::{Problem, Problems, Severity};
pub use recipient::Recipient;

/// Name of the file that says what the cluster is.
pub const FILE: &str = "bramble.toml";

/// A cluster, validated.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The folder that holds `bramble.toml`.
    pub root: PathBuf,
    pub name: Name,
    /// DNS suffix of the nodes' names. Default `home.arpa` (RFC 8375).
    pub domain: String,
    pub ssh_keys: Vec<String>,
    pub time_servers: Vec<String>,
    /// SHA-256 of the certificate of the head's CA, where the repository names it.
    pub ca: Option<Digest>,
    pub network: Network,
    pub image: Image,
    /// Systems that are not bramble's own.
    pub boots: BTreeMap<Name, Profile>,
    /// The engine that `engine = …` of a role means.
    pub engine: EngineKind,
    /// The networks that workloads have of their own are made encrypted.
    pub encrypted_networks: bool,
    pub firewall: Firewall,
    pub admission: Admission,
    pub access: Access,
    /// The git repository that the head follows.
    pub source: Option<Source>,
    pub backup: Option<Backup>,
    pub audit: AuditCopies,
    pub nodes: BTreeMap<Name, Node>,
    pub workloads: BTreeMap<Name, Workload>,
    pub lab: Lab,
    /// What is allowed but probably not meant.
    pub warnings: Problems,
}

/// The wire that nodes boot from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Never empty. The first is the one that the agents dial.
    pub interfaces: Vec<String>,
    pub dhcp: Dhcp,
    /// Who may ask what machines boot in the words of Pixiecore's API.
    pub pixiecore: Option<Ipv4Addr>,
    /// DHCP relays that may ask for machines of this wire; those of other subnets are theirs.
    pub relays: Vec<Ipv4Addr>,
    /// TCP port of boot files, status page and API.
    pub http_port: u16,
    /// TCP port of the status page and the API with logins, over TLS.
    pub https_port: u16,
    /// TCP port of the agents' connection.
    pub agent_port: u16,
    /// Answer IPv6 router solicitations with "no router here" (lifetime 0), so that iPXE does not
    /// wait 13 s for one. Only for wires without an IPv6 router.
    pub no_ipv6_router: bool,
}

impl Network {
    /// The interface that the agents dial.
    pub fn interface(&self) -> &str {
        &self.interfaces[0]
    }

    /// Where the HTTP service is of a head with this address.
    pub fn http(&self, head: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(head, self.http_port)
    }
}

/// Who hands out addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dhcp {
    /// The home router does; the head only adds what to boot.
    Proxy,
    /// The home router does, and says what to boot as well (`bramble router-recipe`).
    Router,
    /// The head does, on these subnets: the main one first, and never empty.
    Full(Vec<Subnet>),
}

/// A subnet of full DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    pub address: Ipv4Addr,
    /// Length of the network prefix in bits.
    pub prefix: u8,
    /// First and last address given to machines without a fixed one.
    pub pool: (Ipv4Addr, Ipv4Addr),
    pub router: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    /// DHCP relays whose questions are answered.
    pub relays: Vec<Ipv4Addr>,
    pub lease_seconds: u32,
}

impl Subnet {
    pub fn mask(&self) -> Ipv4Addr {
        mask(self.prefix)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & u32::from(self.mask()) == u32::from(self.address)
    }

    /// The first and the last address that a machine can have.
    pub fn hosts(&self) -> (Ipv4Addr, Ipv4Addr) {
        let network = u32::from(self.address);
        let broadcast = network | !u32::from(self.mask());
        (Ipv4Addr::from(network + 1), Ipv4Addr::from(broadcast - 1))
    }
}

/// The netmask of a prefix length.
pub fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0))
}

/// What the boot set is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub suite: String,
    /// Sorted, each once, never empty.
    pub architectures: Vec<Architecture>,
    /// Debian packages beyond those of the stock recipe and the engine.
    pub packages: Vec<String>,
    /// Folder whose files lie over the root, absolute.
    pub overlay: Option<PathBuf>,
    /// OCI archives that every node of their architecture has without a registry, absolute.
    pub containers: Vec<PathBuf>,
    /// Kernel arguments beyond those of the stock recipe.
    pub cmdline: String,
    /// Days after which no node begins with a boot set any more; `None` for never.
    pub expires_days: Option<u32>,
}

/// A git repository to follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A URL, or an absolute path.
    pub git: String,
    pub branch: String,
    /// Seconds between two looks.
    pub every: u32,
    /// Folder of `bramble.toml` inside the repository; empty for its root.
    pub path: String,
    /// Public SSH keys: only commits that one of them signed count. Empty for any commit.
    pub signers: Vec<String>,
    /// Absolute.
    pub token_file: Option<PathBuf>,
}

/// When the head's state is backed up, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Absolute.
    pub folder: PathBuf,
    /// Who can read them. Empty only of a snapshot that was kept before recipients were asked for ([`Cluster::of_kept`]):
    /// no backup is made then.
    pub recipients: Vec<Recipient>,
    pub every_hours: u32,
    pub keep: usize,
    pub days: u32,
}

/// Where the audit log is copied to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditCopies {
    /// Absolute.
    pub file: Option<PathBuf>,
    pub syslog: Option<Syslog>,
}

/// What takes messages of syslog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syslog {
    /// RFC 5426.
    Udp { host: String, port: u16 },
    /// Absolute.
    Socket(PathBuf),
}

impl fmt::Display for Syslog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Syslog::Udp { host, port } if host.contains(':') => write!(f, "udp://[{host}]:{port}"),
            Syslog::Udp { host, port } => write!(f, "udp://{host}:{port}"),
            Syslog::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Who may look at the cluster, and change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Anyone may look.
    pub public: bool,
    pub oidc: Option<Oidc>,
}

/// A login of another service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oidc {
    pub issuer: String,
    pub client_id: String,
    /// Absolute.
    pub client_secret_file: Option<PathBuf>,
    /// Absolute.
    pub ca: Option<PathBuf>,
    /// The head as browsers write it.
    pub url: Option<String>,
    pub operators: Vec<String>,
    pub viewers: Vec<String>,
}

/// Whose agents are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Of boots that someone caused: the head switched the node on, an operator said so, or it was here before.
    Expected,
    /// Those whose key an operator has approved.
    Approve,
    /// Of every boot that was handed out.
    Open,
}

/// What a node has to be known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A key that its machine keeps.
    Kept,
    /// Its card's own place on the wire is enough.
    Wire,
}

/// What nodes let in beside what their parts need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    pub enabled: bool,
    /// Where SSH may come from.
    pub ssh: Vec<From>,
    pub open: BTreeMap<Name, Open>,
}

/// Something that nodes let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Never empty.
    pub traffic: Vec<Traffic>,
    /// Never empty.
    pub from: Vec<From>,
    roles: BTreeSet<Name>,
    nodes: BTreeSet<Name>,
}

impl Open {
    /// Whether it is for the node of this name, which has this role.
    pub fn is_for(&self, node: &Name, role: &Name) -> bool {
        let all = self.roles.is_empty() && self.nodes.is_empty();
        all || self.roles.contains(role) || self.nodes.contains(node)
    }
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// All addresses it may send from; never empty.
    pub macs: Vec<Mac>,
    pub role: Name,
    /// Its part in each engine that it has one in.
    pub engines: ByEngine<EnginePart>,
    pub identity: Identity,
    /// How its Docker treats containers, where it has a part in the Swarm.
    pub docker: Option<DockerSettings>,
    /// Fixed address, in full DHCP.
    pub address: Option<Ipv4Addr>,
    /// The other system that it runs.
    pub boot: Option<Name>,
    /// Whether its firmware checks signatures; `None` where that is to be found out.
    pub secure_boot: Option<bool>,
    /// The partition of its disk that is its own, for what has to outlast a boot.
    pub data: Option<PartitionId>,
    pub power: PowerKind,
    pub machine: LabMachine,
}

impl Node {
    /// Its part in this engine.
    pub fn part(&self, engine: EngineKind) -> EnginePart {
        self.engines.of(engine).copied().unwrap_or(EnginePart::None)
    }

    /// Whether it is a manager of any engine.
    pub fn is_manager(&self) -> bool {
        self.engines.values().any(|part| *part == EnginePart::Manager)
    }
}

/// Words that a profile's command line and templates may use, sorted.
pub const TEMPLATE_WORDS: [&str; 12] =
    ["address", "domain", "done", "files", "head", "instance", "mac", "node", "profile", "role", "ssh_keys", "url"];

/// A system that is not bramble's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub starts: Starts,
    /// Folder of files that are served as they are, absolute.
    pub files: Option<PathBuf>,
    /// Folder of files that are rendered for each node, absolute.
    pub templates: Option<PathBuf>,
    pub hand_off: HandOff,
}

impl Profile {
    /// Whether this file is one of its own, or lies in one of its folders.
    pub fn has(&self, file: &Path) -> bool {
        let own = |path: &PathBuf| file.starts_with(path);
        let named = |file: &BootFile| matches!(file, BootFile::File(path) if own(path));
        let starts = match &self.starts {
            Starts::Kernel { kernel, initrds, .. } => named(kernel) || initrds.iter().any(named),
            Starts::Efi(path) => own(path),
        };
        starts || self.files.iter().chain(&self.templates).any(own)
    }
}

/// What a profile starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starts {
    /// `cmdline` is a template.
    Kernel { kernel: BootFile, initrds: Vec<BootFile>, cmdline: String },
    /// A program for UEFI, absolute.
    Efi(PathBuf),
}

/// Where a boot file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootFile {
    /// In the repository, absolute.
    File(PathBuf),
    /// Elsewhere: the machine fetches it there.
    Url(String),
}

/// How often a profile is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HandOff {
    /// Once; then the node boots its disk.
    Once,
    /// Until it was said that it is installed; then the node boots its disk.
    UntilDone,
    EveryBoot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerKind {
    /// A person presses the button.
    Hand,
    WakeOnLan,
}

/// Files in the engine's own format.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Absolute.
    pub path: PathBuf,
    /// What is wrong with its own files.
    pub problem: Option<Problem>,
    /// Its services, by their names in the file; none where that does not check.
    pub services: BTreeSet<String>,
    /// It names volumes or folders of the machine: what they hold is not made again by deploying it. So does one
    /// whose files nobody can read.
    pub holds_data: bool,
    /// What its services keep their data in, as `data of db`; none where its file does not check.
    pub volumes: BTreeSet<String>,
    /// The ports that it publishes by their numbers.
    pub published: BTreeSet<Traffic>,
}

/// The lab's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// Address and prefix of the lab's wire in proxy mode; full DHCP has its own subnet.
    pub subnet: (Ipv4Addr, u8),
    /// Workload and path that `bramble lab up --check` asks until every replica has answered.
    pub check: Option<Check>,
}

/// What proves that the lab's cluster works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub workload: Name,
    /// TCP port that any node answers on.
    pub port: u16,
    pub path: String,
}

/// A node as a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabMachine {
    pub firmware: LabFirmware,
    pub architecture: Architecture,
    /// MiB.
    pub memory: u32,
    pub cpus: u32,
    /// GiB.
    pub disk: u32,
    pub tpm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabFirmware {
    Bios,
    Uefi,
    /// UEFI that boots over HTTP and not by PXE.
    UefiHttp,
    /// UEFI with Microsoft's keys, that starts nothing unsigned.
    UefiSecure,
}

/// Which rules a repository is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rigour {
    /// All of them.
    New,
    /// Those of the release before: a head that is upgraded goes on with what it has kept true.
    Kept,
}

/// Where the paths that a repository names begin.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The folder of the repository's own files.
    pub root: &'a Path,
    /// The head's folder: secrets and backups lie beside it, and in no repository.
    pub home: &'a Path,
}

/// The cluster's name in the text of a `bramble.toml`, whatever else is wrong with that; `None` where it has none.
pub fn name_in(text: &str) -> Option<String> {
    let written: toml::Table = text.parse().ok()?;
    written.get("cluster")?.get("name")?.as_str().map(ToOwned::to_owned)
}

impl Cluster {
    /// Whether a `bramble.toml` lies in `root`, whatever is wrong with it: whoever reads it says that.
    pub fn is_in(root: &Path) -> bool {
        match root.join(FILE).symlink_metadata() {
            Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
            Ok(_) => true,
        }
    }

    /// What is wrong with workloads' own files: it stops those workloads alone.
    pub fn sick(&self) -> Problems {
        let mut sick: Vec<Problem> = self.workloads.values().filter_map(|workload| workload.problem.clone()).collect();
        sick.sort_by_key(|problem| (problem.line, problem.column));
        Problems(sick)
    }

    /// Reads and validates a repository whose files are in `tree`. What is wrong with a workload's own files is in
    /// that [`Workload`], and stops nothing else.
    ///
    /// # Errors
    /// All problems of the repository as a whole, each with its line.
    pub fn of(tree: &dyn tree::Tree, places: Places<'_>) -> Result<Cluster, Problems> {
        let path = Path::new(FILE);
        let text = tree.text(path).map_err(|error| Problems::unread(path, &error))?;
        Self::judge(tree, places, problem::Source::new(path, &text), Rigour::New)
    }

    /// As [`Cluster::of`], of a snapshot that a head has kept true already, perhaps one of a release before: what that did
    /// not ask for is a warning.
    ///
    /// # Errors
    /// As [`Cluster::of`].
    pub fn of_kept(tree: &dyn tree::Tree, places: Places<'_>) -> Result<Cluster, Problems> {
        let path = Path::new(FILE);
        let text = tree.text(path).map_err(|error| Problems::unread(path, &error))?;
        Self::judge(tree, places, problem::Source::new(path, &text), Rigour::Kept)
    }

    /// As [`Cluster::of_folder`], with the text of `bramble.toml` given, and what it is called.
    ///
    /// # Errors
    /// As [`Cluster::of`].
    pub fn parse(root: &Path, path: &Path, text: &str) -> Result<Cluster, Problems> {
        if text.len() as u64 > tree::LONGEST {
            return Err(Problems::unread(path, &io::ErrorKind::FileTooLarge.into()));
        }
        let source = problem::Source::new(path, text);
        Self::judge(&tree::Folder(root), Places { root, home: root }, source, Rigour::New)
    }

    fn judge(
        tree: &dyn tree::Tree,
        places: Places<'_>,
        source: problem::Source,
        rigour: Rigour,
    ) -> Result<Cluster, Problems> {
        let written = keys::read(&source)?;
        rules::hold(tree, places, &written, source, rigour)
    }

    /// Refuses one with a sick workload.
    pub(crate) fn well(self) -> Result<Cluster, Problems> {
        let sick = self.sick().0;
        if sick.is_empty() {
            return Ok(self);
        }
        let mut problems = self.warnings.0;
        problems.extend(sick);
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(Problems(problems))
    }

    pub fn node_of(&self, mac: Mac) -> Option<(&Name, &Node)> {
        self.nodes.iter().find(|(_, node)| node.macs.contains(&mac))
    }

    /// What the repository's keys say of the image, without the folder that it lies in.
    pub fn image_keys(&self) -> Image {
        let image = self.image.clone();
        Image {
            overlay: image.overlay.as_deref().map(|path| self.inside(path)),
            containers: image.containers.iter().map(|path| self.inside(path)).collect(),
            ..image
        }
    }

    /// What it says of other systems, wherever it lies: with paths inside it, so that two of them can be compared.
    pub fn boot_keys(&self) -> BTreeMap<Name, Profile> {
        let inside = |profile: &Profile| Profile {
            starts: match &profile.starts {
                Starts::Kernel { kernel, initrds, cmdline } => {
                    let file = |file: &BootFile| match file {
                        BootFile::File(path) => BootFile::File(self.inside(path)),
                        BootFile::Url(url) => BootFile::Url(url.clone()),
                    };
                    let initrds = initrds.iter().map(file).collect();
                    Starts::Kernel { kernel: file(kernel), initrds, cmdline: cmdline.clone() }
                }
                Starts::Efi(path) => Starts::Efi(self.inside(path)),
            },
            files: profile.files.as_deref().map(|path| self.inside(path)),
            templates: profile.templates.as_deref().map(|path| self.inside(path)),
            hand_off: profile.hand_off,
        };
        self.boots.iter().map(|(name, profile)| (name.clone(), inside(profile))).collect()
    }

    fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    /// The nodes that are managers of this engine.
    pub fn managers(&self, engine: EngineKind) -> impl Iterator<Item = &Name> {
        self.nodes.iter().filter(move |(_, node)| node.part(engine) == EnginePart::Manager).map(|(name, _)| name)
    }

    /// The engines that the image has to have: the one that roles mean, and all that a node has a part in.
    pub fn engines(&self) -> BTreeSet<EngineKind> {
        let used = self.nodes.values().flat_map(|node| node.engines.kinds());
        used.chain([self.engine]).collect()
    }
}

impl written::Repository {
    /// Reads the text of a `bramble.toml`; what it means is not judged.
    ///
    /// # Errors
    /// All unknown keys at once, or the first error of syntax or type.
    pub fn read(path: &Path, text: &str) -> Result<Self, Problems> {
        keys::read(&problem::Source::new(path, text))
    }
}

/// The JSON Schema of `bramble.toml`, for editors.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(written::Repository).to_value()
}

#[cfg(test)]
mod tests;
