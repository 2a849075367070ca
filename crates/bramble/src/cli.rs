//! The command line: verbs, flags and help.

use std::os::fd::RawFd;
use std::path::PathBuf;

use bramble_model::api::Role;
use bramble_model::names::{ClusterId, Digest, Mac, Name};
use bramble_netboot::recipe::Router;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::place::Place;
use crate::verbs::node::Shown;

/// From a box of powered-off boards to a running cluster, from one git repository.
#[derive(Parser)]
#[command(
    name = "bramble",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 the repository has errors, or is not there · 4 no head answers · 5 something would change (`plan --exit-code`) · 130 interrupted\n\n\
                  A verb is about the repository that -C names, else BRAMBLE_REPOSITORY, else the nearest one at or above this folder.\n\
                  The head that it asks: of a folder that is named, the one begun there, and no other; of the nearest, the one that BRAMBLE_HEAD names, else the one begun there, running or not. Where none was begun: the one that BRAMBLE_HEAD names, else, with no folder named, the only one of `bramble login`.\n\n\
                  Start with:\n  bramble init home && cd home\n  bramble check\n  bramble lab up"
)]
pub struct Arguments {
    /// Print machine-readable JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub place: Place,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Which nodes.
#[derive(Args, Clone)]
pub struct Where {
    /// A set of nodes: w1, w[1-3], w*, role:worker, all, !w2.
    #[arg(long, short)]
    pub nodes: Option<String>,
    /// All nodes of this role.
    #[arg(long, short)]
    pub role: Option<String>,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Write a commented starting repository.
    #[command(after_help = "Example:\n  bramble init home")]
    Init {
        /// Folder to make.
        folder: PathBuf,
    },
    /// Check the repository and print what is wrong, where, and what to do.
    #[command(after_help = "Examples:\n  bramble check\n  bramble -C examples/first-light check --json")]
    Check,
    /// Show what would happen, in which order, why and with what risk.
    #[command(
        after_help = "Examples:\n  bramble plan                 # with this folder\n  bramble plan 3f2a91c0        # with a snapshot or commit that the head has\n  bramble plan --exit-code     # 0 where nothing would change, 5 where something would"
    )]
    Plan {
        /// First digits of a snapshot or commit that the head has. Default: the folder, where there is one.
        revision: Option<String>,
        /// End with 5 where something would change. What only has its time is no change: a backup, the next look at git, a
        /// machine that is forgotten.
        #[arg(long)]
        exit_code: bool,
    },
    /// Have the head keep this repository true: check it, show what would change, ask.
    #[command(
        after_help = "Examples:\n  bramble apply\n  bramble apply --yes --json   # for scripts\n  bramble apply 3f2a91c0       # a snapshot or commit that the head has"
    )]
    Apply {
        /// First digits of a snapshot or commit that the head has. Default: the folder.
        revision: Option<String>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// List what the head was to keep true: which revision, by whom, since when.
    #[command(after_help = "Example:\n  bramble history")]
    History,
    /// Make an earlier snapshot current again.
    #[command(after_help = "Examples:\n  bramble rollback             # the one before\n  bramble rollback 3f2a91c0")]
    Rollback {
        /// First digits of a snapshot or commit. Default: the one before.
        revision: Option<String>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Look at the git repository now, and follow it from now on.
    #[command(after_help = "Example:\n  git push && bramble sync")]
    Sync,
    /// The git repository that the head follows.
    #[command(subcommand)]
    Source(SourceVerb),
    /// Try again now what failed.
    #[command(after_help = "Examples:\n  bramble retry w1\n  bramble retry whoami\n  bramble retry all")]
    Retry {
        /// A node, a workload, or all.
        what: String,
    },
    /// Say what the head cannot know of an engine.
    #[command(subcommand)]
    Engine(EngineVerb),
    /// The CA that nodes, the head and people know each other by.
    #[command(subcommand)]
    Ca(CaVerb),
    /// Print the JSON Schema of bramble.toml, for editors.
    #[command(after_help = "Example:\n  bramble schema > bramble.schema.json")]
    Schema,
    /// Build and keep boot sets.
    #[command(subcommand)]
    Image(ImageVerb),
    /// Run the head: boot services, API, reconciliation.
    #[command(after_help = "Examples:\n  sudo bramble serve\n  sudo bramble -C /srv/home serve")]
    Serve {
        /// Control socket of the lab whose machines are the nodes.
        #[arg(long, hide = true)]
        lab: Option<PathBuf>,
    },
    /// Switch on what is off, and follow every node until it is ready.
    #[command(after_help = "Examples:\n  bramble up\n  bramble up --limit 900")]
    Up {
        /// Seconds to wait for all nodes.
        #[arg(long, default_value_t = 1800)]
        limit: u64,
        /// Apply the folder without asking, where the head keeps another one true.
        #[arg(long, short)]
        yes: bool,
    },
    /// Show nodes, workloads, machines seen, and what is waited for.
    #[command(after_help = "Examples:\n  bramble status\n  bramble status --json | jq '.nodes[].phase'")]
    Status,
    /// Show one node, or let it in.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Have an unknown machine say what it is, and write its part of bramble.toml.
    #[command(
        after_help = "Examples:\n  bramble status                            # lists machines that asked to boot\n  bramble adopt 52:54:00:12:34:56\n  bramble adopt 52:54:00:12:34:56 --name w3 --role worker --write\n\nThe machine boots once over the network, changes nothing on its disks, and switches itself off."
    )]
    Adopt {
        /// The network card that it boots from.
        mac: Mac,
        /// Default: the next name of its role.
        #[arg(long)]
        name: Option<Name>,
        /// Default: the role of most nodes.
        #[arg(long)]
        role: Option<Name>,
        /// Add it to bramble.toml, instead of printing it.
        #[arg(long)]
        write: bool,
        /// Ask it again, though it has said what it is.
        #[arg(long)]
        again: bool,
        /// Seconds to wait for it.
        #[arg(long, default_value_t = 1500)]
        limit: u64,
    },
    /// Name the cause of a machine that does not come up, and what to do.
    #[command(after_help = "Examples:\n  bramble why w1\n  bramble why 52:54:00:00:00:02")]
    Why {
        /// Name or MAC address.
        machine: String,
    },
    /// Print what to put into a router's own DHCP offer, for firmware that never merges two offers.
    #[command(
        name = "router-recipe",
        after_help = "Examples:\n  bramble router-recipe dnsmasq\n  bramble -C home router-recipe openwrt --head 192.168.1.10\n\nWith it, set `dhcp = \"router\"` in bramble.toml."
    )]
    RouterRecipe {
        /// dnsmasq, kea, mikrotik, openwrt, pihole or unifi
        #[arg(value_parser = router)]
        router: Router,
        /// Address of the head. Default: that of `network.interface` on this machine.
        #[arg(long)]
        head: Option<std::net::Ipv4Addr>,
    },
    /// Run a command on nodes, side by side.
    #[command(
        after_help = "Examples:\n  bramble exec -n all -- uptime\n  bramble exec -n 'w[1-3],!w2' -- df -h /var\n  bramble exec -r worker -- docker ps -q\n  bramble exec -n w1 -i -- sh < script.sh\n\nSets of nodes: w1 · w[1-3,7] · w* · role:worker · all · !w2, with commas between.\nOf one node, output and exit code are the command's own; of several, 0 where all succeeded, and else 1."
    )]
    Exec {
        #[command(flatten)]
        at: Where,
        /// Send the standard input along.
        #[arg(long, short)]
        input: bool,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell on a node.
    #[command(after_help = "Example:\n  bramble shell w1")]
    Shell { node: Name },
    /// How `ssh` knows the nodes, where `cluster.ssh_keys` lets people in.
    #[command(subcommand)]
    Ssh(SshVerb),
    /// Show the journals of nodes.
    #[command(
        after_help = "Examples:\n  bramble logs -n w1\n  bramble logs -f -r manager docker.service\n  bramble logs -n all --lines 5 bramble-agent.service"
    )]
    Logs {
        #[command(flatten)]
        at: Where,
        /// Go on as more is written.
        #[arg(long, short)]
        follow: bool,
        /// How many of the latest lines.
        #[arg(long, default_value_t = 100)]
        lines: u32,
        /// A unit of systemd. Default: everything.
        unit: Option<String>,
    },
    /// Copy a file or folder to nodes, or from them.
    #[command(
        after_help = "Examples:\n  bramble cp site.conf w1:/etc/site.conf\n  bramble cp certs/ 'role:worker:/etc/ssl/'\n  bramble cp w1:/var/log/boot.log .\n  bramble cp all:/etc/hostname names/   # a folder for each node"
    )]
    Cp {
        #[arg(value_hint = ValueHint::AnyPath)]
        from: String,
        to: String,
    },
    /// Show how busy the nodes are.
    #[command(after_help = "Examples:\n  bramble top\n  bramble top -r worker --once")]
    Top {
        /// Nodes of this role only.
        #[arg(long, short)]
        role: Option<String>,
        /// Once, and end.
        #[arg(long)]
        once: bool,
    },
    /// Reboot nodes, from the inside.
    #[command(after_help = "Example:\n  bramble reboot 'role:worker'")]
    Reboot {
        /// A set of nodes, as of `bramble exec`.
        nodes: String,
    },
    /// Switch nodes off, from the inside.
    #[command(after_help = "Example:\n  bramble halt w3")]
    Halt {
        /// A set of nodes, as of `bramble exec`.
        nodes: String,
    },
    /// Run the cluster in virtual machines on this computer.
    #[command(subcommand)]
    Lab(LabVerb),
    /// Switch a node on or off.
    #[command(after_help = "Examples:\n  bramble power on w1\n  bramble power cycle w1")]
    Power { action: Switch, node: Name },
    /// Log in at a head elsewhere; verbs then work as on its own machine.
    #[command(
        after_help = "Examples:\n  bramble login head.home.arpa\n  bramble login 192.168.1.10 --user ann --ca 9f86d0…\n  bramble login 192.168.1.10 --token < token\n\nBRAMBLE_HEAD names the one that is meant: where there are several, where the folder has a head of its own, and with -C."
    )]
    Login {
        /// HOST, HOST:PORT or https://HOST:PORT
        #[arg(value_hint = ValueHint::Url)]
        head: String,
        #[arg(long)]
        user: Option<String>,
        /// Read a token of `bramble token add` instead of a password.
        #[arg(long)]
        token: bool,
        /// SHA-256 of the head's CA, as `bramble status` shows it on the head.
        #[arg(long)]
        ca: Option<String>,
    },
    /// Log out.
    #[command(after_help = "Example:\n  bramble logout")]
    Logout {
        /// Which head, where there are several.
        #[arg(value_hint = ValueHint::Url)]
        head: Option<String>,
    },
    /// People who may log in with a password.
    #[command(subcommand)]
    User(UserVerb),
    /// Tokens for programs.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Sessions: who is logged in.
    #[command(subcommand)]
    Session(SessionVerb),
    /// Show who changed what, what was refused, from where, and how it went.
    #[command(
        after_help = "Examples:\n  bramble audit --last 20\n  bramble audit --follow\n  bramble audit --verify --copy /mnt/nas/bramble-audit.log\n\nWhat was refused is counted: tries of one kind from one place are one line for an hour. `[audit]` in bramble.toml has\nthe head copy each entry to a file or to syslog."
    )]
    Audit {
        /// How many of the latest: so many changes, and so many of what was refused.
        #[arg(long, default_value_t = 100)]
        last: usize,
        /// Go on as more come.
        #[arg(long, short)]
        follow: bool,
        /// Follow the chain of hashes, and say where something is missing or was changed.
        #[arg(long, conflicts_with_all = ["last", "follow"])]
        verify: bool,
        /// Compare a copy with it, that `[audit] file` made.
        #[arg(long, requires = "verify", value_name = "FILE", value_hint = ValueHint::FilePath)]
        copy: Option<PathBuf>,
    },
    /// Back up the head's store and keys, while it runs.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  bramble backup\n  bramble backup -o /media/usb/home.bramble-backup\n  bramble backup keygen -o /media/usb/backup.key\n\nThe file holds the cluster's keys. It is encrypted to the recipients of `[backup]` in bramble.toml, which has the head do\nthis by itself; without recipients it is made on the head's own machine only, and has the keys as they lie there: sealed,\nand without the seal. Boot sets are not in it: `bramble image build` makes them again."
    )]
    Backup {
        /// Default: CLUSTER-SECONDS.bramble-backup
        #[arg(long, short)]
        output: Option<PathBuf>,
        #[command(subcommand)]
        verb: Option<BackupVerb>,
    },
    /// Put a backup into place on a new machine; nodes go on without being let in again.
    #[command(
        after_help = "Example:\n  git clone … home && cd home\n  bramble restore /media/usb/home.bramble-backup --identity /media/usb/backup.key\n  bramble image build\n  sudo bramble serve\n\nThe new machine takes the old one's address: that is where the nodes look for their head. The backup's CA is compared\nwith `cluster.ca` of the repository; where that says nothing, its fingerprint is shown, and you are asked."
    )]
    Restore {
        backup: PathBuf,
        /// File with the private half of a recipient's key, of a backup that is encrypted.
        #[arg(long, value_name = "KEYFILE", value_hint = ValueHint::FilePath)]
        identity: Option<PathBuf>,
        /// The head's seal, as `bramble head save-seal` wrote it: of a backup in the clear, which does not have it.
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        seal: Option<PathBuf>,
        /// Take the backup's CA for the cluster's, without being asked.
        #[arg(long)]
        yes: bool,
    },
    /// Look after the head's own secrets.
    #[command(subcommand)]
    Head(HeadVerb),
    /// Run the agent of a node (started by the image).
    #[command(hide = true)]
    Agent,
    /// Write this architecture's stage 1 to the standard output, for a build on another architecture.
    #[command(hide = true)]
    Stage1,
    /// Look after what the head keeps.
    #[command(subcommand)]
    Store(StoreVerb),
}

#[derive(Subcommand)]
pub enum BackupVerb {
    /// Make a key for backups: the private half in a file, the public half as the line for bramble.toml.
    #[command(
        after_help = "Example:\n  bramble backup keygen -o /media/usb/backup.key\n\nKeep the file elsewhere than on the head: without it nobody reads a backup, and with it anyone. `age-keygen` makes the\nsame."
    )]
    Keygen {
        /// Default: backup.key
        #[arg(long, short, value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
pub enum SshVerb {
    /// Print the line by which `ssh` knows every node, also one that makes another key at each boot.
    #[command(
        name = "known-hosts",
        after_help = "Example:\n  bramble ssh known-hosts >> ~/.ssh/known_hosts\n\nIt names the CA that signs the keys of the nodes' SSH servers, and the names that they have. Print it again after\nnodes were added, unless you reach them by NAME.DOMAIN.\n\nAnother machine in a node's place is one that `ssh` does not know by it, and asks about. In ~/.ssh/config\n  Host *.DOMAIN\n    StrictHostKeyChecking yes\nmakes `ssh` refuse it without a question."
    )]
    KnownHosts,
}

#[derive(Subcommand)]
pub enum HeadVerb {
    /// Renew the key that seals the head's secrets; of a copy of the old one nothing opens any more.
    #[command(
        after_help = "Example:\n  bramble head rotate-seal\n\nWhere a copy of the folder `keys` may be in other hands, they have what it opened then: this keeps from them what is\nwritten from now on. The head may run meanwhile."
    )]
    RotateSeal,
    /// Write the head's secrets in the clear again, for a release of before seals; the head must not run.
    #[command(
        after_help = "Example:\n  bramble head unseal\n\nA release that knows no seal takes sealed keys for damaged ones. The next start of this release seals them anew."
    )]
    Unseal,
    /// Write the key that seals the head's secrets into a file that opens on any machine.
    #[command(
        after_help = "Example:\n  bramble head save-seal /media/usb/home.seal\n  bramble restore home.bramble-backup --seal /media/usb/home.seal\n\nBackups in the clear do not have it; those that are encrypted do. Where the head has a TPM of its own, the seal is\nsealed to that from then on: a copy of the folder `keys` opens on no other machine."
    )]
    SaveSeal {
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum StoreVerb {
    /// List records that cannot be read, and set them aside.
    #[command(
        after_help = "Examples:\n  bramble store repair          # what cannot be read, and why\n  bramble store repair --yes    # sets it aside\n\nWhat is set aside is whole, in `.bramble/set-aside/`. A node whose admission goes is let in again as one that was\nnever here; a user is made again with `bramble user set`."
    )]
    Repair {
        /// Set them aside.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Switch {
    On,
    Off,
    Cycle,
}

#[derive(Subcommand)]
pub enum SourceVerb {
    /// Begin a head without a repository of its own with the address of one.
    #[command(
        after_help = "Examples:\n  bramble source set ssh://git@git.home.arpa/ann/home.git && sudo bramble serve\n  bramble source set https://git.home.arpa/ann/home.git --token-file /etc/bramble/git-token\n  bramble source set /srv/home.git --signer \"$(cat ~/.ssh/id_ed25519.pub)\"\n\nA `[source]` that the repository says itself counts in place of all this."
    )]
    Set {
        #[arg(value_hint = ValueHint::Url)]
        url: String,
        #[arg(long, default_value = "main")]
        branch: String,
        /// Folder of bramble.toml inside the repository. Default: its root.
        #[arg(long, default_value = "")]
        path: String,
        /// File with a token for a private repository over HTTPS, or with NAME:TOKEN; the head reads it at each fetch.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Public SSH or PGP key: only commits that one of them signed count. Can be given again for another one.
        #[arg(long = "signer", value_name = "KEY", allow_hyphen_values = true)]
        signers: Vec<String>,
    },
    /// Print the public key with which the head reads a private repository over SSH.
    #[command(after_help = "Example:\n  bramble source key   # add it as a deploy key, read only")]
    Key,
    /// Stay with the present snapshot, whatever is pushed.
    #[command(after_help = "Example:\n  bramble source hold")]
    Hold,
    /// Forget the SSH host key of the repository's server: the next fetch pins the one that it finds.
    #[command(after_help = "Example:\n  bramble source forget-host   # the server was installed anew, and you know it")]
    ForgetHost,
}

/// What is driven on nodes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineWord {
    Swarm,
}

#[derive(Subcommand)]
pub enum EngineVerb {
    /// Begin a new cluster of the engine, whatever these managers may hold.
    #[command(
        after_help = "Example:\n  bramble engine start swarm --new --without m2,m3   # they burnt; shows what is given up, and asks"
    )]
    Start {
        engine: EngineWord,
        /// Begin a new one, and give the old one up.
        #[arg(long, required = true)]
        new: bool,
        /// Managers that are not waited for.
        #[arg(long, value_delimiter = ',')]
        without: Vec<Name>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Have nodes leave a cluster of the engine that is not this one's, data and all.
    #[command(name = "give-up", after_help = "Example:\n  bramble engine give-up swarm 0m3p6jkl2v9zq1xw8r7tys4ab")]
    GiveUp {
        engine: EngineWord,
        /// Its id, as `bramble status` names it.
        cluster: ClusterId,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Take this for the CA of the cluster's engine from now on: after `docker swarm ca --rotate`, which nobody else tells.
    #[command(
        after_help = "Example:\n  bramble engine trust swarm 4f0c…   # as `bramble status` has it, and on a manager:\n                                     # sha256sum /var/lib/docker/swarm/certificates/swarm-root-ca.crt"
    )]
    Trust {
        engine: EngineWord,
        /// The SHA-256 of its certificate, 64 hex digits.
        ca: Digest,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub enum CaVerb {
    /// Show which CAs are trusted, and what a rotation waits for.
    #[command(after_help = "Example:\n  bramble ca show")]
    Show,
    /// Have a new CA take the place of the present one: both are trusted for a week, and nodes move over by themselves.
    #[command(
        after_help = "Examples:\n  bramble ca rotate            # and then `bramble image build`\n  bramble ca show              # which nodes have moved, and what waits\n  bramble ca rotate --finish   # now, and not after a week"
    )]
    Rotate {
        /// End the rotation that is under way: the old CA is trusted no more.
        #[arg(long)]
        finish: bool,
        /// Do not ask; with --finish, whatever is lost.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub enum ImageVerb {
    /// Build the boot set of what the head keeps true, and give it to the nodes; what has not changed is reused.
    #[command(
        after_help = "Examples:\n  bramble image build\n  bramble image build --refresh   # newer Debian packages\n\nBuilt is the current snapshot, and where there is none yet, the folder. Nodes get it at their next boot."
    )]
    Build {
        /// Ask Debian for newer packages though the recipe is the same.
        #[arg(long)]
        refresh: bool,
        /// Build the folder as it is, applied or not.
        #[arg(long)]
        folder: bool,
    },
    /// Give nodes another boot set of the shelf, from their next boot on.
    #[command(after_help = "Example:\n  bramble image ls\n  bramble image use 3f2a   # an earlier one")]
    Use {
        /// First digits of its digest.
        set: String,
    },
    /// List boot sets, the newest first.
    #[command(after_help = "Example:\n  bramble image ls")]
    Ls,
    /// Show what is in a boot set.
    #[command(after_help = "Example:\n  bramble image inspect 3f2a")]
    Inspect {
        /// First digits of its digest. Default: the current one.
        set: Option<String>,
    },
    /// Remove old boot sets and what stopped builds left behind.
    #[command(after_help = "Example:\n  bramble image gc --keep 3")]
    Gc {
        /// How many boot sets to keep beside the current one.
        #[arg(long, default_value_t = 2)]
        keep: usize,
    },
    /// Sign a boot set: one that waits for its signature, or one whose time is up or that was forbidden and is good after all.
    #[command(
        after_help = "Examples:\n  bramble image sign 3f2a                       # with the head's own key\n  bramble image sign 3f2a --key /media/stick/image.key\n\nWith a key that lies off the head, it can be run on another computer, after `bramble login`. It shows what is signed, and asks."
    )]
    Sign {
        /// First digits of its digest.
        set: String,
        /// A secret key of minisign that lies off the head.
        #[arg(long)]
        key: Option<PathBuf>,
        /// Days until no node begins with it any more; 0 for never. Default: `image.expires_days` of the repository.
        #[arg(long)]
        days: Option<u32>,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Forbid a boot set and all that was signed before it, for good: no node boots one any more.
    #[command(
        after_help = "Example:\n  bramble image build        # or: bramble image use, of a later one\n  bramble image forbid 3f2a\n\nThe head gives none of them any more. A node with a data partition remembers it, too. An older set that is good is allowed again by `bramble image sign`."
    )]
    Forbid {
        /// First digits of its digest.
        set: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// The key that signs boot sets: show it, change it, or keep it off the head.
    #[command(subcommand)]
    Key(ImageKeyVerb),
    /// Pack a static program as an OCI archive, for `image.containers`.
    #[command(
        after_help = "Example:\n  bramble image pack target/release/whoami --tag whoami:1 -o containers/whoami.tar"
    )]
    Pack {
        program: PathBuf,
        /// Name and tag of the image.
        #[arg(long)]
        tag: String,
        /// The archive to write.
        #[arg(long, short)]
        output: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum ImageKeyVerb {
    /// Show which key signs, which one will, and which boot sets trust it.
    #[command(after_help = "Example:\n  bramble image key show")]
    Show,
    /// Make a key pair that does not lie on the head; its secret half is encrypted with a password.
    #[command(
        after_help = "Example:\n  bramble image key make /media/stick/image.key\n  bramble image key rotate --to /media/stick/image.pub"
    )]
    Make {
        /// Of the secret half; the public one is put beside it, with the ending `.pub`.
        file: PathBuf,
    },
    /// Change the key that signs, in two steps: what is built in between trusts both.
    #[command(
        after_help = "Example:\n  bramble image key rotate            # to a new key on the head, or: --to FILE.pub\n  bramble image build                 # nodes get a set that trusts both\n  bramble image key rotate --finish\n\nWith a key off the head, sets that are built wait for `bramble image sign SET --key FILE`."
    )]
    Rotate {
        /// Public half of a key that lies off the head. Default: a new key on the head.
        #[arg(long, conflicts_with_all = ["finish", "abandon"])]
        to: Option<PathBuf>,
        /// The next key signs from now on, and the former one is removed.
        #[arg(long, conflicts_with = "abandon")]
        finish: bool,
        /// The key of before stays, and the next one is removed.
        #[arg(long)]
        abandon: bool,
        /// Also where nodes are given a set that does not trust the next key.
        #[arg(long, short, requires = "finish")]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub enum UserVerb {
    /// List users.
    #[command(after_help = "Example:\n  bramble user ls")]
    Ls,
    /// Make a user, or change one.
    #[command(
        after_help = "Examples:\n  bramble user set ann --role operator   # asks for a password\n  bramble user set ann --password        # a new one"
    )]
    Set {
        name: String,
        /// viewer (may look) or operator (may change). Default for a new user: viewer.
        #[arg(long)]
        role: Option<Role>,
        /// Ask for a new password.
        #[arg(long)]
        password: bool,
    },
    /// Remove a user, and log the user out everywhere.
    #[command(after_help = "Example:\n  bramble user rm ann")]
    Rm { name: String },
}

#[derive(Subcommand)]
pub enum TokenVerb {
    /// List tokens.
    #[command(after_help = "Example:\n  bramble token ls")]
    Ls,
    /// Make a token; it is shown once.
    #[command(after_help = "Example:\n  bramble token add ci --role viewer --days 90")]
    Add {
        name: String,
        /// viewer or operator
        #[arg(long, default_value = "viewer")]
        role: Role,
        /// Days that it is good for. Default: until it is removed.
        #[arg(long)]
        days: Option<u32>,
    },
    /// Remove a token.
    #[command(after_help = "Example:\n  bramble token rm ci")]
    Rm { name: String },
}

#[derive(Subcommand)]
pub enum SessionVerb {
    /// List sessions: one's own, and an operator's everyone's.
    #[command(after_help = "Examples:\n  bramble session ls\n  bramble session ls --user ann")]
    Ls {
        /// This user's only.
        #[arg(long)]
        user: Option<String>,
    },
    /// End a session, and at once whatever runs in its name.
    #[command(after_help = "Example:\n  bramble session rm 9f86d081884c")]
    Rm {
        /// First digits of it, as `bramble session ls` shows them.
        session: String,
    },
}

#[derive(Subcommand)]
pub enum NodeVerb {
    /// List nodes.
    #[command(after_help = "Example:\n  bramble node ls")]
    Ls,
    /// Show one node and its timeline.
    #[command(after_help = "Example:\n  bramble node show w1")]
    Show { node: Name },
    /// Say that a node is about to be switched on by hand: its boot within half an hour is let in.
    #[command(after_help = "Example:\n  bramble node expect w1   # then press its button")]
    Expect { node: Name },
    /// Give a node its `[boot.NAME]` profile again: it installs itself at its next boot.
    #[command(after_help = "Example:\n  bramble node reinstall nas")]
    Reinstall { node: Name },
    /// End a node's certificate and its connection: it is let in again as one that was never here.
    #[command(after_help = "Example:\n  bramble node revoke w1   # it was stolen, or has another board now")]
    Revoke { node: Name },
    /// Let in the machine that stands before you, by what its console shows. Without a node: list who waits.
    #[command(
        after_help = "Examples:\n  bramble node approve              # who waits, and from where\n  bramble node approve w1 123456    # the six digits on its console\n  bramble node approve --press w1   # it has no screen: power-cycle it, and the machine that boots then is let in"
    )]
    Approve {
        node: Option<Name>,
        /// Six digits, as the node's console shows them; of an older image, or to take back a wrong number, its key (32).
        #[arg(requires = "node")]
        shown: Option<Shown>,
        /// You power-cycle its board now: the machine that boots from its place within 30 min is let in, 5 min after it came.
        #[arg(long, requires = "node", conflicts_with = "shown")]
        press: bool,
    },
}

#[derive(Subcommand)]
pub enum LabVerb {
    /// Boot the repository's nodes as virtual machines and keep them up until Ctrl-C.
    #[command(
        after_help = "Examples:\n  bramble -C examples/first-light lab up\n  bramble lab up --check   # prove it works, then end"
    )]
    Up {
        /// Ask the workload of `lab.check` until every replica has answered; print times; end.
        #[arg(long)]
        check: bool,
        /// Start the head and no machine.
        #[arg(long)]
        off: bool,
        /// Seconds to wait for all nodes.
        #[arg(long, default_value_t = 900)]
        limit: u64,
    },
    /// End the lab that runs for a repository.
    #[command(after_help = "Example:\n  bramble lab down")]
    Down,
    /// List the lab's machines.
    #[command(after_help = "Example:\n  bramble lab ls")]
    Ls,
    /// Print what a machine's serial console has shown.
    #[command(after_help = "Example:\n  bramble lab console m1 --follow")]
    Console {
        node: Name,
        /// Go on as it prints more.
        #[arg(long, short)]
        follow: bool,
    },
    /// Press a machine's switch, behind the head's back: `off` cuts the power.
    #[command(after_help = "Example:\n  bramble lab power off w1")]
    Power { action: Switch, node: Name },
    /// The lab's inside.
    #[command(hide = true)]
    Inside {
        /// NAME=FD
        #[arg(long, value_parser = forward)]
        forward: Vec<(String, RawFd)>,
    },
}

fn router(text: &str) -> Result<Router, String> {
    let known: Vec<&str> = Router::ALL.iter().map(|(name, _)| *name).collect();
    let found = Router::ALL.iter().find(|(name, _)| *name == text);
    found.map(|(_, router)| *router).ok_or_else(|| format!("expected one of {}", known.join(", ")))
}

fn forward(text: &str) -> Result<(String, RawFd), String> {
    let (name, descriptor) = text.split_once('=').ok_or("expected NAME=FD")?;
    Ok((name.to_owned(), descriptor.parse().map_err(|_| "expected a file descriptor")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_signer_may_be_the_text_of_a_pgp_key() {
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----";
        let words = ["bramble", "source", "set", "/srv/home.git", "--signer", key];
        let Verb::Source(SourceVerb::Set { signers, .. }) = Arguments::parse_from(words).verb else {
            panic!("another verb")
        };
        assert_eq!(signers, [key]);
    }

    #[test]
    fn every_verb_has_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
                check(sub);
                if !sub.has_subcommands() && sub.get_name() != "schema" {
                    assert!(sub.get_after_help().is_some(), "`{}` has no example", sub.get_name());
                }
            }
        }
        check(&Arguments::command());
    }
}
