//! `bramble.toml` as it is written: every key optional that has a default, nothing interpreted.
//!
//! The doc comments here become the JSON Schema (`bramble schema`), so they speak to the person
//! who writes the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// A bramble cluster.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    pub cluster: ClusterSection,
    pub network: NetworkSection,
    /// Who may look at the cluster, and change it.
    #[serde(default)]
    pub access: AccessSection,
    /// The git repository that the head follows.
    pub source: Option<SourceSection>,
    /// Where the head's state is backed up by itself.
    pub backup: Option<BackupSection>,
    /// Where the audit log is copied to, entry by entry.
    #[serde(default)]
    pub audit: AuditSection,
    #[serde(default)]
    pub image: ImageSection,
    /// Systems that are not bramble's own, for nodes that name one with `boot`.
    #[serde(default)]
    pub boot: BTreeMap<String, BootSection>,
    #[serde(default)]
    pub engine: EngineSection,
    /// What nodes let in.
    #[serde(default)]
    pub firewall: FirewallSection,
    /// What groups of nodes are for.
    #[serde(default)]
    pub roles: BTreeMap<String, RoleSection>,
    /// The machines.
    #[serde(default)]
    pub nodes: BTreeMap<String, NodeSection>,
    /// What runs on them.
    #[serde(default)]
    pub workloads: BTreeMap<String, WorkloadSection>,
    #[serde(default)]
    pub lab: LabSection,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// Name of the cluster: lower-case letters, digits and inner hyphens.
    pub name: String,
    /// DNS suffix of the nodes' names. Default: "home.arpa".
    pub domain: Option<String>,
    /// Public SSH keys that may log in to every node as root.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Whose agents are let in. "expected" (default): of boots that the head or an operator caused, and of
    /// nodes that come back. "approve": those whose key an operator has compared and approved. "open": of
    /// every node of this file that boots; for labs.
    pub admission: Option<String>,
    /// Fingerprint of the head's CA: SHA-256 of its certificate, in hex, as `bramble status` shows it on the head. `bramble
    /// restore` takes a backup of that CA only. Default: it shows what the backup has, and asks.
    pub ca: Option<String>,
    /// NTP servers. Default: those of the distribution.
    #[serde(default)]
    pub time_servers: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessSection {
    /// Whether anyone who reaches the head may look, and not touch. Default: false.
    #[serde(default)]
    pub public: bool,
    /// A login of another service, beside the users of `bramble user`.
    pub oidc: Option<OidcSection>,
}

/// A head with this fetches the repository by itself, and applies each commit that checks.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// URL of the git repository, such as "https://git.home.arpa/ann/home.git" or
    /// "ssh://git@git.home.arpa/ann/home.git".
    pub git: String,
    /// Default: "main".
    pub branch: Option<String>,
    /// How often it is looked at, such as "30s" or "5m". Default: "30s".
    pub every: Option<String>,
    /// Folder of bramble.toml inside the repository. Default: its root.
    pub path: Option<String>,
    /// Public SSH keys ("ssh-ed25519 AAAA… ann@home"). Only commits that one of them signed count. Default: any
    /// commit.
    #[serde(default)]
    pub signers: Vec<String>,
    /// File on the head with a token for a private repository over HTTPS, or with `NAME:TOKEN`. Over SSH the head has a
    /// key of its own: `bramble source key`.
    pub token_file: Option<String>,
}

/// Backups of the head's store and keys. `bramble restore` reads them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSection {
    /// A folder on another disk, best on another machine; absolute, or beside this file. It will hold the
    /// cluster's keys, encrypted to the recipients.
    pub folder: String,
    /// Public keys of age ("age1…"): only who has one of their private halves can read a backup. `bramble backup keygen`
    /// makes such a pair; keep the private half elsewhere than on the head.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Hours between two backups. Default: 24.
    pub every_hours: Option<u32>,
    /// How many are kept. Default: 14.
    pub keep: Option<usize>,
    /// Days after which one is removed. Default: 90.
    pub days: Option<u32>,
}

/// Copies of the audit log that leave the head's store, and best its machine. What comes from now on is copied.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditSection {
    /// A file on the head that only grows, absolute: a line of JSON for each entry.
    pub file: Option<String>,
    /// A syslog server, such as "udp://log.home.arpa:514", or a socket, such as "/dev/log" (RFC 5424).
    pub syslog: Option<String>,
}

/// OpenID Connect.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    /// The provider's URL, such as "https://id.home.arpa".
    pub issuer: String,
    /// What the provider calls this head.
    pub client_id: String,
    /// File with the client's secret, beside this file or absolute; keep it out of git. Without one, the
    /// client is public.
    pub client_secret_file: Option<String>,
    /// File with the provider's CA (PEM), where its certificate is not of a public one.
    pub ca: Option<String>,
    /// The head's address as browsers write it, such as "https://head.home.arpa:7444". Default: by the
    /// address that the browser used.
    pub url: Option<String>,
    /// Who may change things: verified mail addresses, or "group:NAME" of the claim `groups`.
    #[serde(default)]
    pub operators: Vec<String>,
    /// Who may look; "*" is everyone whom the provider knows.
    #[serde(default)]
    pub viewers: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSection {
    /// The head's network interface that the nodes hang on, or a list where there are several. An
    /// interface of a VLAN, such as "eth0.20", serves that VLAN.
    #[serde(default)]
    pub interface: OneOrMany,
    /// "proxy" (default): the home router hands out addresses, bramble adds what to boot.
    /// "router": the home router does both; `bramble router-recipe` prints its configuration.
    /// "full": bramble hands out addresses; needs `subnet` and `pool`.
    pub dhcp: Option<String>,
    /// The wire's subnet, such as "10.77.0.0/24".
    pub subnet: Option<String>,
    /// Addresses for machines without a fixed one, such as "10.77.0.100-10.77.0.199".
    pub pool: Option<String>,
    /// Default gateway that full DHCP hands out.
    pub router: Option<String>,
    /// Name servers that full DHCP hands out.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Seconds an address is lent for. Default: 3600.
    pub lease_seconds: Option<u32>,
    /// DHCP relays that may ask for machines of this wire, by the address that they write into what they pass on.
    /// While `dhcp` is "router" they pass it on to the head, too, which listens. Default: none.
    #[serde(default)]
    pub relays: Vec<String>,
    /// More subnets of full DHCP: behind a DHCP relay, or on another interface.
    #[serde(default)]
    pub subnets: BTreeMap<String, SubnetSection>,
    /// Address of a Pixiecore that asks here what machines boot (`pixiecore api`): nobody else may. Default: none.
    pub pixiecore: Option<String>,
    /// TCP port for boot files, status page and API. Default: 7080.
    pub http_port: Option<u16>,
    /// TCP port of the status page and the API with logins, over TLS. Default: 7444.
    pub https_port: Option<u16>,
    /// TCP port for the agents. Default: 7443.
    pub agent_port: Option<u16>,
    /// Tell booting machines at once that there is no IPv6 router, which saves iPXE a wait of
    /// 13 seconds. Only where there is none. Default: false.
    pub no_ipv6_router: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetSection {
    /// Such as "10.78.0.0/24". The relay's address, or the interface's, is in it.
    pub subnet: String,
    /// Addresses for machines, such as "10.78.0.100-10.78.0.199".
    pub pool: String,
    /// Its default gateway.
    pub router: Option<String>,
    /// DHCP relays that may ask for its machines, by the address that they write into what they pass on. What comes by
    /// any other is not answered. Default: its `router`.
    pub relays: Option<Vec<String>>,
    /// Its name servers. Default: `network.dns`.
    #[serde(default)]
    pub dns: Vec<String>,
}

/// What a node boots that runs another system.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootSection {
    /// A kernel: a path in the repository, or a URL.
    pub kernel: Option<String>,
    /// One or several initrds for it.
    #[serde(default)]
    pub initrd: OneOrMany,
    /// The kernel's arguments. `{{ url }}` is where this boot's `templates` are; `{{ done }}` is what
    /// the installed system or its installer fetches to say that it is installed. `{{ node }}`,
    /// `{{ domain }}`, `{{ role }}`, `{{ mac }}`, `{{ address }}`, `{{ head }}` and `{{ ssh_keys }}` are known, too.
    pub cmdline: Option<String>,
    /// Instead of a kernel: a program for UEFI, in the repository.
    pub efi: Option<String>,
    /// Folder of files that are served as they are, below `{{ files }}`.
    pub files: Option<String>,
    /// Folder of text files that are rendered for each node: `user-data` and `meta-data` of cloud-init,
    /// `preseed.cfg`, `ks.cfg`.
    pub templates: Option<String>,
    /// "once" (default): handed out once, and then the node boots its disk until `bramble node
    /// reinstall`. "until-done": until it was said that it is installed. "every-boot".
    pub hand_off: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSection {
    /// Debian suite the root is built from. Default: "trixie".
    pub suite: Option<String>,
    /// The nodes' instruction sets: "amd64", "arm64" or both. Default: ["amd64"].
    pub architectures: Option<Vec<String>>,
    /// Debian packages to add.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Folder of files laid over the root.
    pub overlay: Option<String>,
    /// OCI archives that every node has without a registry. Each goes to the nodes whose architecture
    /// it is for.
    #[serde(default)]
    pub containers: Vec<String>,
    /// More kernel arguments.
    pub cmdline: Option<String>,
    /// Days after which no node begins with a boot set that it was never ready with; 0 for never. What it was ready with
    /// always boots. Default: 365.
    pub expires_days: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSection {
    /// What runs the workloads: "swarm" (default).
    pub kind: Option<String>,
    /// Whether programs in containers can gain no more rights than they began with, as by `sudo`. Default: true. It counts
    /// from a node's next start on.
    pub no_new_privileges: Option<bool>,
    /// Whether root of a container is nobody on its node (user namespaces). Services on the host's own network do not run
    /// then. Default: false. It counts for nodes whose Docker has not been in a Swarm yet.
    pub userns_remap: Option<bool>,
    /// Whether the networks that workloads have of their own are encrypted between nodes (IPsec). Not the ports that they
    /// publish, and no network that is there already. Default: false.
    pub encrypted_networks: Option<bool>,
}

/// Nodes let in what their parts need (SSH, the Swarm, ports that workloads publish), answers to what they asked, and this.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FirewallSection {
    /// Default: true.
    pub enabled: Option<bool>,
    /// Where SSH may come from, where `cluster.ssh_keys` has keys: "anywhere", "nodes", addresses or networks. Default:
    /// ["anywhere"].
    pub ssh: Option<Vec<String>>,
    /// More that is let in, each by a name of your own.
    #[serde(default)]
    pub open: BTreeMap<String, OpenSection>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenSection {
    /// Such as ["9100/tcp", "60000-61000/udp"].
    pub ports: Vec<String>,
    /// "anywhere", "nodes", addresses or networks, such as ["192.168.1.0/24"]. Default: ["anywhere"].
    pub from: Option<Vec<String>>,
    /// On nodes of these roles. Default, with no `nodes`: on all.
    #[serde(default)]
    pub roles: Vec<String>,
    /// On these nodes.
    #[serde(default)]
    pub nodes: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleSection {
    /// The role's part in the cluster's engine: "manager", "worker" or "none".
    pub engine: Option<String>,
    /// Its part in each of several engines, in the place of `engine`: `{ swarm = "manager" }`.
    pub engines: Option<BTreeMap<String, String>>,
    /// What its nodes are known by. "kept": a key that the machine keeps, in its TPM, on its data disk or in its UEFI
    /// (default where the role is a manager). "wire": its card's place on the wire is enough (default of others).
    pub identity: Option<String>,
    /// As of [engine], of this role's nodes.
    pub no_new_privileges: Option<bool>,
    /// As of [engine], of this role's nodes.
    pub userns_remap: Option<bool>,
}

/// One or several of the same thing.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        OneOrMany::Many(Vec::new())
    }
}

impl OneOrMany {
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Hardware address of its network card, or a list where it has several.
    pub mac: OneOrMany,
    /// One of [roles].
    pub role: String,
    /// Fixed address; needs full DHCP.
    pub address: Option<String>,
    /// One of [boot]: it runs another system. Its role has no part in the engine then.
    pub boot: Option<String>,
    /// Whether its UEFI starts signed programs only (Secure Boot). Default: found out, at the cost of one
    /// failed boot.
    pub secure_boot: Option<bool>,
    /// GUID of the partition of its disk that keeps its key, its engines' data and its layers, as `lsblk -o PARTUUID` shows
    /// it. No other partition is mounted. Default: it keeps nothing on a disk.
    pub data: Option<String>,
    /// How it is switched on: "hand" (default) or "wake-on-lan".
    pub power: Option<String>,
    /// The node as a virtual machine of the lab.
    #[serde(default)]
    pub lab: LabMachineSection,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSection {
    /// The workload's file, in the engine's own format.
    pub path: String,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabSection {
    /// Subnet of the lab's wire where `network.dhcp` is not "full". Default: "10.77.0.0/24".
    pub subnet: Option<String>,
    /// What `bramble lab up --check` asks.
    pub check: Option<CheckSection>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSection {
    /// One of [workloads]. Each of its replicas has to answer from its own node.
    pub workload: String,
    /// TCP port it answers on.
    pub port: u16,
    /// Default: "/".
    pub path: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabMachineSection {
    /// "bios" (default for amd64), "uefi", "uefi-http" (UEFI HTTP boot instead of PXE) or "uefi-secure"
    /// (UEFI that starts nothing unsigned).
    pub firmware: Option<String>,
    /// "amd64" (default) or "arm64", which has UEFI only.
    pub architecture: Option<String>,
    /// MiB of memory. Default: 1536.
    pub memory: Option<u32>,
    /// Default: 1.
    pub cpus: Option<u32>,
    /// GiB of its (empty) disk. Default: 8.
    pub disk: Option<u32>,
    /// It has a TPM 2.0 (package `swtpm`), of which it keeps a key. Default: false.
    pub tpm: Option<bool>,
}
