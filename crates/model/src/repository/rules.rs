//! The rules of a cluster: from [`written`] to [`Cluster`], every broken rule with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::problem::{Problem, Problems};
use super::tree::{Kind, Tree};
use super::*;
use docker::HostNetwork;

mod access;
mod boots;
mod compose;
mod docker;
mod firewall;
mod network;
mod source;

/// Debian suites that the stock recipe is known to build. Older ones lack what it needs
/// (kernels that load compressed modules, a Docker that loads OCI archives).
/// Days after which no node begins with a boot set, where the repository does not say it.
const EXPIRES_DAYS: u32 = 365;
const SUITES: [&str; 3] = ["trixie", "forky", "sid"];

/// Files that one note names.
const MOST_MODES: usize = 10;

/// Holds every rule over what was written.
///
/// # Errors
/// All that is wrong with the repository as a whole. What is wrong with a workload's own files stops that workload
/// alone: it is in the cluster, and the caller may refuse it, too.
pub(super) fn hold(
    tree: &dyn Tree,
    places: Places<'_>,
    written: &written::Repository,
    text: problem::Source,
    rigour: Rigour,
) -> Result<Cluster, Problems> {
    let mut rules = Rules { tree, places, source: &text, rigour, problems: Vec::new() };
    let name = rules.name(&["cluster", "name"], &written.cluster.name);
    let domain = rules.domain(written.cluster.domain.as_deref());
    rules.ssh_keys(&written.cluster.ssh_keys);
    let ca = written.cluster.ca.as_deref().and_then(|ca| rules.ca(ca));
    let network = rules.network(&written.network);
    let image = rules.image(&written.image);
    let boots = rules.boots(&written.boot);
    let access = rules.access(&written.access);
    let backup = written.backup.as_ref().and_then(|backup| rules.backup(backup));
    let audit = rules.audit(&written.audit);
    let source = written.source.as_ref().and_then(|source| rules.source(source));
    let admission = rules.word(
        &["cluster", "admission"],
        written.cluster.admission.as_deref(),
        "admission",
        &[("expected", Admission::Expected), ("approve", Admission::Approve), ("open", Admission::Open)],
    );
    let engine = rules.engine(&["engine", "kind"], written.engine.kind.as_deref());
    let roles = rules.roles(&written.roles, engine, &written.engine);
    let nodes = rules.nodes(&written.nodes, &roles, &network, &written.boot);
    let firewall = rules.firewall(&written.firewall, &roles, &written.nodes);
    let workloads = rules.workloads(&written.workloads, HostNetwork::of(&nodes, &firewall));
    let lab = rules.lab(&written.lab, &workloads);
    rules.managers(&nodes, !workloads.is_empty());
    rules.room_for(network.as_ref(), &nodes);
    rules.behind_relays(network.as_ref(), &nodes, admission);

    let mut problems = rules.problems;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    let problems = Problems(problems);
    if problems.has_errors() {
        return Err(problems);
    }
    let (Some(name), Some(network), Some(lab)) = (name, network, lab) else {
        unreachable!("a part is missing only where a problem was reported");
    };
    Ok(Cluster {
        root: places.root.to_owned(),
        name,
        domain,
        ssh_keys: written.cluster.ssh_keys.clone(),
        time_servers: written.cluster.time_servers.clone(),
        ca,
        network,
        image,
        boots,
        engine,
        encrypted_networks: written.engine.encrypted_networks.unwrap_or(false),
        firewall,
        admission,
        access,
        source,
        backup,
        audit,
        nodes,
        workloads,
        lab,
        warnings: problems,
    })
}

/// What a role means for its nodes.
#[derive(Clone)]
struct Role {
    engines: ByEngine<EnginePart>,
    identity: Identity,
    docker: Option<DockerSettings>,
}

pub(super) struct Rules<'a> {
    tree: &'a dyn Tree,
    places: Places<'a>,
    pub(super) source: &'a problem::Source,
    rigour: Rigour,
    pub(super) problems: Vec<Problem>,
}

impl Rules<'_> {
    fn wrong(&mut self, key: &[&str], message: impl Into<String>) -> &mut Problem {
        self.problems.push(self.source.problem(key, message));
        self.problems.last_mut().expect("one was just pushed")
    }

    /// Parses `text`; a failure is reported at `key`.
    fn parse<T: FromStr<Err: Display>>(&mut self, key: &[&str], text: &str) -> Option<T> {
        text.parse().map_err(|error| self.wrong(key, format!("`{text}`: {error}"))).ok()
    }

    fn name(&mut self, key: &[&str], text: &str) -> Option<Name> {
        self.parse(key, text)
    }

    fn address(&mut self, key: &[&str], text: &str) -> Option<Ipv4Addr> {
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(key, format!("`{text}`: expected an IPv4 address, such as \"10.77.0.11\""));
        }
        parsed
    }

    /// One word of a fixed set.
    fn word<T: Copy>(&mut self, key: &[&str], text: Option<&str>, what: &str, words: &[(&str, T)]) -> T {
        let Some(text) = text else { return words[0].1 };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let problem = self.source.problem(key, format!("unknown {what} `{text}`")).near(text, &known);
        self.problems.push(problem);
        words[0].1
    }

    fn domain(&mut self, domain: Option<&str>) -> String {
        let domain = domain.unwrap_or("home.arpa");
        if domain.len() > 190 || domain.split('.').any(|label| label.parse::<Name>().is_err()) {
            self.wrong(&["cluster", "domain"], format!("`{domain}`: expected a DNS domain, such as \"home.arpa\""));
        }
        domain.to_owned()
    }

    fn ssh_keys(&mut self, keys: &[String]) {
        for (index, key) in keys.iter().enumerate() {
            let mut words = key.split_whitespace();
            let kind = words.next().unwrap_or_default();
            let body = words.next().unwrap_or_default();
            let known = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-"];
            if !known.iter().any(|known| kind.starts_with(known)) || !body.starts_with("AAAA") || key.contains('\n') {
                let at = index.to_string();
                self.wrong(&["cluster", "ssh_keys", &at], "expected a public SSH key on one line").help =
                    Some("copy the line from a `.pub` file, such as \"ssh-ed25519 AAAA… you@home\"".into());
            }
        }
    }

    fn image(&mut self, image: &written::ImageSection) -> Image {
        let suite = image.suite.as_deref().unwrap_or(SUITES[0]);
        if !SUITES.contains(&suite) {
            let problem =
                self.source.problem(&["image", "suite"], format!("unknown suite `{suite}`")).near(suite, &SUITES);
            self.problems.push(problem);
        }
        let architectures = self.architectures(image.architectures.as_deref());
        for (index, package) in image.packages.iter().enumerate() {
            // Debian policy, section 5.6.1.
            let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c);
            if package.len() < 2 || !package.bytes().all(valid) || !package.as_bytes()[0].is_ascii_alphanumeric() {
                self.wrong(
                    &["image", "packages", &index.to_string()],
                    format!(
                        "`{package}`: expected the name of a Debian package (lower-case letters, digits, `+`, `-`, `.`)"
                    ),
                );
            }
        }
        let overlay =
            image.overlay.as_deref().and_then(|path| self.inside(&["image", "overlay"], path, Expect::Folder));
        if let (Some(path), true) = (image.overlay.as_deref(), overlay.is_some()) {
            self.modes(Path::new(path));
        }
        let containers = image
            .containers
            .iter()
            .enumerate()
            .filter_map(|(index, path)| {
                self.inside(&["image", "containers", &index.to_string()], path, Expect::MadeLater)
            })
            .collect();
        Image {
            suite: suite.to_owned(),
            architectures,
            packages: image.packages.clone(),
            overlay,
            containers,
            cmdline: image.cmdline.clone().unwrap_or_default(),
            expires_days: Some(image.expires_days.unwrap_or(EXPIRES_DAYS)).filter(|days| *days != 0),
        }
    }

    /// A snapshot keeps of a file's mode only whether it can be run. What differs by more than the group's right to
    /// write, which is the umask of whoever made it, was probably meant: it is said what becomes of it.
    fn modes(&mut self, overlay: &Path) {
        let differing = self.tree.files(overlay).into_iter().filter_map(|path| {
            let mode = self.tree.mode(&path)?;
            let kept = root::kept_mode(mode);
            (mode & !0o020 != kept).then(|| format!("`{}` has mode {mode:04o} and gets {kept:04o}", path.display()))
        });
        let differing: Vec<String> = differing.collect();
        if differing.is_empty() {
            return;
        }
        let mut message = format!(
            "files of the overlay are 0644 on a node, or 0755 where their owner can run them: {}",
            differing.iter().take(MOST_MODES).map(String::as_str).collect::<Vec<_>>().join("; ")
        );
        if differing.len() > MOST_MODES {
            message += &format!("; and {} more", differing.len() - MOST_MODES);
        }
        let problem = self.source.problem(&["image", "overlay"], message).warning();
        self.problems.push(problem.help(
            "where another mode matters, have systemd-tmpfiles set it: a line `z /etc/NAME 0600` in overlay/etc/tmpfiles.d/NAME.conf",
        ));
    }

    fn architectures(&mut self, written: Option<&[String]>) -> Vec<Architecture> {
        let Some(written) = written else { return vec![Architecture::Amd64] };
        let words = Architecture::ALL.map(|known| (known.as_str(), known));
        let found: BTreeSet<Architecture> = written
            .iter()
            .enumerate()
            .map(|(at, word)| {
                let key = ["image", "architectures", &at.to_string()];
                self.word(&key, Some(word), "architecture", &words)
            })
            .collect();
        if found.is_empty() {
            self.wrong(&["image", "architectures"], "expected at least one architecture").help =
                Some("write [\"amd64\"], [\"arm64\"] or both".into());
        }
        found.into_iter().collect()
    }

    /// A path that stays inside the repository, with what has to be there.
    fn inside(&mut self, key: &[&str], path: &str, expect: Expect) -> Option<PathBuf> {
        let relative = self.relative(key, path)?;
        if let Some(problem) = self.lacking(key, relative, expect) {
            self.problems.push(problem);
            return None;
        }
        Some(self.places.root.join(relative))
    }

    fn relative<'p>(&mut self, key: &[&str], path: &'p str) -> Option<&'p Path> {
        let relative = Path::new(path);
        if relative.is_absolute() || relative.components().any(|part| part == Component::ParentDir) {
            self.wrong(key, format!("`{path}` leaves the repository")).help =
                Some("name a path inside the folder of bramble.toml".into());
            return None;
        }
        Some(relative)
    }

    /// What is wrong where something else, or nothing, is at a path.
    fn lacking(&self, key: &[&str], path: &Path, expect: Expect) -> Option<Problem> {
        let shown = path.display();
        let found = match self.tree.kind(path) {
            Ok(found) => found,
            Err(error) => return Some(self.unreadable(key, path, &error)),
        };
        let wanted = match expect {
            Expect::File => Kind::File,
            Expect::Folder => Kind::Folder,
            Expect::MadeLater if found.is_none() => return None,
            Expect::MadeLater => Kind::File,
        };
        if found == Some(wanted) {
            return None;
        }
        let (message, help) = match (found, wanted) {
            (Some(Kind::Astray), _) => (
                format!("`{shown}` is a link that leads to nothing inside the repository"),
                "put what it leads to in its place: whoever reads a commit has nothing else".into(),
            ),
            (Some(Kind::Other), _) => {
                (format!("`{shown}` is a pipe, a socket or a device"), "put a plain file in its place".into())
            }
            (Some(Kind::Folder), _) => (format!("`{shown}` is a folder"), "name a file in it".into()),
            (_, Kind::Folder) => (format!("there is no folder `{shown}`"), "make it, or remove this line".into()),
            _ => {
                let near = self.near_file(path);
                let help = near.map_or("make it, or correct the path".into(), |near| format!("did you mean `{near}`?"));
                (format!("there is no file `{shown}`"), help)
            }
        };
        Some(self.source.problem(key, message).help(help))
    }

    /// What is wrong where something is at a path, and cannot be read.
    fn unreadable(&self, key: &[&str], path: &Path, error: &io::Error) -> Problem {
        let shown = path.display();
        if error.kind() == io::ErrorKind::InvalidData {
            return self.source.problem(key, format!("`{shown}` is not UTF-8 text")).help("save it as UTF-8");
        }
        let problem = self.source.problem(key, format!("`{shown}` cannot be read: {error}"));
        problem.help("make it a plain file that the user who runs bramble can read, or bring it back from git")
    }

    /// A file in the same folder with nearly the same name, relative to the repository.
    fn near_file(&self, path: &Path) -> Option<String> {
        let wanted = path.file_name()?.to_str()?;
        let names = self.tree.names(path.parent()?);
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let near = super::problem::near_miss(wanted, &known)?;
        Some(path.with_file_name(near).display().to_string())
    }

    fn engine(&mut self, key: &[&str], kind: Option<&str>) -> EngineKind {
        self.word(key, kind, "engine", &EngineKind::ALL.map(|kind| (kind.as_str(), kind)))
    }

    /// Each role's part in each engine, and what its nodes are known by. `kind` is the engine that the short form means.
    fn roles(
        &mut self,
        roles: &BTreeMap<String, written::RoleSection>,
        kind: EngineKind,
        engine: &written::EngineSection,
    ) -> BTreeMap<String, Role> {
        let words = [("worker", EnginePart::Worker), ("manager", EnginePart::Manager), ("none", EnginePart::None)];
        let mut found = BTreeMap::new();
        for (name, role) in roles {
            self.name(&["roles", name], name);
            let mut own = ByEngine::default();
            match (&role.engine, &role.engines) {
                (None, None) => {
                    self.wrong(&["roles", name], "the role says nothing of its part in the engine").help =
                        Some("add `engine = \"manager\"`, `\"worker\"` or `\"none\"`".into());
                }
                (Some(_), Some(_)) => {
                    self.wrong(&["roles", name, "engine"], "the role says `engine` and `engines`").help =
                        Some(format!("write `engines = {{ {} = … }}` and nothing else", kind.as_str()));
                }
                (Some(part), None) => {
                    own.set(kind, self.word(&["roles", name, "engine"], Some(part), "engine part", &words));
                }
                (None, Some(engines)) => {
                    for (engine, part) in engines {
                        let key = ["roles", name, "engines", engine];
                        let kind = self.engine(&key, Some(engine));
                        own.set(kind, self.word(&key, Some(part), "engine part", &words));
                    }
                }
            }
            let parts = own.iter().filter(|(_, part)| **part != EnginePart::None);
            let engines: ByEngine<EnginePart> = parts.map(|(kind, part)| (kind, *part)).collect();
            let (kept, wire) = (("kept", Identity::Kept), ("wire", Identity::Wire));
            let is_manager = engines.values().any(|part| *part == EnginePart::Manager);
            let words = if is_manager { [kept, wire] } else { [wire, kept] };
            let identity = self.word(&["roles", name, "identity"], role.identity.as_deref(), "identity", &words);
            let docker = self.docker(name, role, &engines, engine);
            found.insert(name.clone(), Role { engines, identity, docker });
        }
        found
    }

    fn nodes(
        &mut self,
        nodes: &BTreeMap<String, written::NodeSection>,
        roles: &BTreeMap<String, Role>,
        network: &Option<Network>,
        boots: &BTreeMap<String, written::BootSection>,
    ) -> BTreeMap<Name, Node> {
        let mut found = BTreeMap::new();
        let mut macs: BTreeMap<Mac, &str> = BTreeMap::new();
        let mut addresses: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        let mut partitions: BTreeMap<PartitionId, &str> = BTreeMap::new();
        for (name, node) in nodes {
            let mut own = Vec::new();
            if node.mac.as_slice().is_empty() {
                self.wrong(&["nodes", name, "mac"], "expected at least one hardware address");
            }
            for text in node.mac.as_slice() {
                let key = ["nodes", name, "mac"];
                let Some(mac) = self.parse::<Mac>(&key, text) else { continue };
                if mac.is_group() {
                    self.wrong(&key, format!("{mac} is a group address, which no machine has"));
                } else if let Some(other) = macs.insert(mac, name) {
                    self.wrong(&key, format!("{mac} is already an address of `{other}`")).help =
                        Some("each network card belongs to one node".into());
                }
                own.push(mac);
            }
            let Role { engines, identity, docker } = match roles.get(&node.role) {
                Some(role) => role.clone(),
                None => {
                    let known: Vec<&str> = roles.keys().map(String::as_str).collect();
                    let problem = self
                        .source
                        .problem(&["nodes", name, "role"], format!("there is no role `{}`", node.role))
                        .near(&node.role, &known);
                    self.problems.push(problem);
                    Role { engines: ByEngine::default(), identity: Identity::Wire, docker: None }
                }
            };
            let address = self.node_address(name, node, network, &mut addresses);
            let boot = self.node_boot(name, node, !engines.is_empty(), boots);
            let power = self.word(
                &["nodes", name, "power"],
                node.power.as_deref(),
                "power driver",
                &[("hand", PowerKind::Hand), ("wake-on-lan", PowerKind::WakeOnLan)],
            );
            let machine = self.machine(name, &node.lab);
            let data = self.node_data(name, node, &mut partitions);
            let secure_boot = node.secure_boot;
            let (Some(name), Ok(role)) = (self.name(&["nodes", name], name), node.role.parse()) else { continue };
            found.insert(
                name,
                Node { macs: own, role, engines, identity, docker, address, boot, secure_boot, data, power, machine },
            );
        }
        found
    }

    fn node_address<'n>(
        &mut self,
        name: &'n str,
        node: &written::NodeSection,
        network: &Option<Network>,
        taken: &mut BTreeMap<Ipv4Addr, &'n str>,
    ) -> Option<Ipv4Addr> {
        let key = ["nodes", name, "address"];
        let address = self.address(&key, node.address.as_deref()?)?;
        match network.as_ref().map(|network| &network.dhcp) {
            Some(Dhcp::Proxy | Dhcp::Router) => {
                self.wrong(&key, "a fixed address needs full DHCP").help =
                    Some("give the machine its address in the home router, or set `network.dhcp = \"full\"`".into());
            }
            Some(Dhcp::Full(subnets)) => {
                let on = subnets.iter().find(|subnet| subnet.contains(address)).unwrap_or(&subnets[0]);
                let (low, high) = on.hosts();
                if !on.contains(address) {
                    self.wrong(&key, format!("{address} is outside the subnet {}/{}", on.address, on.prefix));
                } else if address < low || address > high {
                    self.wrong(&key, format!("{address} is the subnet's own address, which no machine can have"));
                } else if on.router == Some(address) {
                    self.wrong(&key, format!("{address} is the router's"));
                }
            }
            None => {}
        }
        if let Some(other) = taken.insert(address, name) {
            self.wrong(&key, format!("{address} is already the address of `{other}`"));
        }
        Some(address)
    }

    fn node_data<'n>(
        &mut self,
        name: &'n str,
        node: &written::NodeSection,
        taken: &mut BTreeMap<PartitionId, &'n str>,
    ) -> Option<PartitionId> {
        let key = ["nodes", name, "data"];
        let data = self.parse::<PartitionId>(&key, node.data.as_deref()?)?;
        if node.boot.is_some() {
            self.wrong(&key, "only bramble's own system keeps something on a data partition").help =
                Some("leave it out: its other system has its disk for itself".into());
        }
        if let Some(other) = taken.insert(data, name) {
            self.wrong(&key, format!("{data} is already the data partition of `{other}`")).help =
                Some("no two partitions have one GUID, but after a disk was copied: give one of them another".into());
        }
        Some(data)
    }

    fn machine(&mut self, name: &str, lab: &written::LabMachineSection) -> LabMachine {
        let architecture = self.word(
            &["nodes", name, "lab", "architecture"],
            lab.architecture.as_deref(),
            "architecture",
            &Architecture::ALL.map(|known| (known.as_str(), known)),
        );
        let known = [
            ("bios", LabFirmware::Bios),
            ("uefi", LabFirmware::Uefi),
            ("uefi-http", LabFirmware::UefiHttp),
            ("uefi-secure", LabFirmware::UefiSecure),
        ];
        let firmware = self.word(
            &["nodes", name, "lab", "firmware"],
            lab.firmware.as_deref(),
            "firmware",
            if architecture == Architecture::Arm64 { &known[1..] } else { &known },
        );
        let memory = lab.memory.unwrap_or(1536);
        if memory < 768 {
            self.wrong(
                &["nodes", name, "lab", "memory"],
                "expected at least 768 MiB: the root and the engine live in memory",
            );
        }
        let tpm = lab.tpm.unwrap_or(false);
        if tpm && architecture == Architecture::Arm64 {
            let reason =
                "QEMU's arm64 board has no TPM that Debian's kernel knows (it has no driver for tpm-tis-device)";
            self.wrong(&["nodes", name, "lab", "tpm"], reason);
        }
        let (cpus, disk) = (lab.cpus.unwrap_or(1).max(1), lab.disk.unwrap_or(8).max(1));
        LabMachine { firmware, architecture, memory, cpus, disk, tpm }
    }

    fn workloads(
        &mut self,
        workloads: &BTreeMap<String, written::WorkloadSection>,
        network: HostNetwork,
    ) -> BTreeMap<Name, Workload> {
        let mut found = BTreeMap::new();
        for (name, workload) in workloads {
            let key = ["workloads", name, "path"];
            let path = self.relative(&key, &workload.path);
            let name = self.name(&["workloads", name], name);
            if let (Some(name), Some(path)) = (name, path) {
                let judged = match self.lacking(&key, path, Expect::File) {
                    None => self
                        .compose(&key, path)
                        .and_then(|runs| self.off_the_swarms_ports(&key, path, runs))
                        .and_then(|runs| self.on_the_host(&key, path, runs, network)),
                    Some(problem) => Err(Box::new(problem)),
                };
                let (problem, runs) = match judged {
                    Ok(runs) => (None, runs),
                    Err(problem) => (Some(*problem), compose::Runs { holds_data: true, ..compose::Runs::default() }),
                };
                let compose::Runs { services, holds_data, volumes, published, .. } = runs;
                let path = self.places.root.join(path);
                found.insert(name, Workload { path, problem, services, holds_data, volumes, published });
            }
        }
        found
    }

    /// A Compose file has at least one service. What is wrong with it concerns no other workload. Gives what it runs.
    fn compose(&self, key: &[&str], path: &Path) -> Result<compose::Runs, Box<Problem>> {
        let text = self.tree.text(path).map_err(|error| Box::new(self.unreadable(key, path, &error)))?;
        compose::runs(&text).map_err(|wrong| {
            let problem = self.source.problem(key, format!("{}: {}", path.display(), wrong.message));
            Box::new(match wrong.help {
                Some(help) => problem.help(help),
                None => problem,
            })
        })
    }

    fn lab(&mut self, lab: &written::LabSection, workloads: &BTreeMap<Name, Workload>) -> Option<Lab> {
        let subnet = self.cidr(&["lab", "subnet"], lab.subnet.as_deref().unwrap_or("10.77.0.0/24"))?;
        let check = lab.check.as_ref().and_then(|check| {
            let known: Vec<&str> = workloads.keys().map(Name::as_str).collect();
            let workload = check.workload.parse::<Name>().ok().filter(|name| workloads.contains_key(name));
            if workload.is_none() {
                let message = format!("there is no workload `{}`", check.workload);
                let problem = self.source.problem(&["lab", "check", "workload"], message).near(&check.workload, &known);
                self.problems.push(problem);
            }
            Some(Check {
                workload: workload?,
                port: check.port,
                path: check.path.clone().unwrap_or_else(|| "/".into()),
            })
        });
        Some(Lab { subnet, check })
    }

    fn managers(&mut self, nodes: &BTreeMap<Name, Node>, workloads: bool) {
        let of = |kind| nodes.values().filter(|node| node.part(kind) == EnginePart::Manager).count();
        // Workloads are the Swarm's.
        if of(EngineKind::Swarm) == 0 && workloads {
            self.wrong(&["workloads"], "there are workloads, and no node is a manager that could run them").help =
                Some("give a node a role with `engine = \"manager\"`".into());
        }
        for managers in EngineKind::ALL.map(of).into_iter().filter(|managers| *managers > 0 && managers % 2 == 0) {
            let survive = (managers - 1) / 2;
            let message = format!(
                "{managers} managers is an even number: the cluster survives the loss of {survive}, no more than {} would, and one more can fail",
                managers - 1
            );
            let problem = self.source.problem(&["nodes"], message).warning();
            self.problems.push(problem.help("use an odd number of managers: 1, 3 or 5"));
        }
        if nodes.is_empty() {
            let problem = self.source.problem(&["nodes"], "the cluster has no nodes yet").warning();
            self.problems.push(problem.help("switch a machine on: `bramble status` shows its MAC address"));
        }
    }
}

/// What has to be at a path.
enum Expect {
    File,
    Folder,
    /// A file that the image build needs, and `check` does not.
    MadeLater,
}
