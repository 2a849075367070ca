//! The command line: verbs, flags, help and exit codes.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use bramble_model::api::Role;
use bramble_model::names::{Mac, Name};
use bramble_model::repository::Problems;
use bramble_netboot::recipe::Router;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// From a box of powered-off boards to a running cluster, from one git repository.
#[derive(Parser)]
#[command(
    name = "bramble",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 done · 1 failed · 2 wrong usage · 3 the repository has errors · 4 no head answers · 130 interrupted\n\n\
                  Start with:\n  bramble init home && cd home\n  bramble check\n  bramble lab up"
)]
pub struct Arguments {
    /// Print machine-readable JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The cluster repository and its state.
#[derive(Args, Clone)]
pub struct Place {
    /// Folder of the cluster repository.
    #[arg(default_value = ".")]
    pub repository: PathBuf,
    /// Folder for keys, boot sets and the head's store. Default: `.bramble` in the repository.
    #[arg(long)]
    pub state: Option<PathBuf>,
}

/// As [`Place`], for verbs whose first word is something else.
#[derive(Args, Clone)]
pub struct FlagPlace {
    /// Folder of the cluster repository.
    #[arg(long, short = 'C', default_value = ".", value_name = "DIR")]
    pub repository: PathBuf,
    /// Folder for keys, boot sets and the head's store. Default: `.bramble` in the repository.
    #[arg(long)]
    pub state: Option<PathBuf>,
}

impl From<FlagPlace> for Place {
    fn from(place: FlagPlace) -> Self {
        Place { repository: place.repository, state: place.state }
    }
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
    #[command(after_help = "Examples:\n  bramble check\n  bramble check examples/first-light --json")]
    Check(Place),
    /// Show what would change, and why.
    #[command(after_help = "Example:\n  bramble plan")]
    Plan(Place),
    /// Print the JSON Schema of bramble.toml, for editors.
    #[command(after_help = "Example:\n  bramble schema > bramble.schema.json")]
    Schema,
    /// Build and keep boot sets.
    #[command(subcommand)]
    Image(ImageVerb),
    /// Run the head: boot services, API, reconciliation.
    #[command(after_help = "Example:\n  sudo bramble serve /srv/home")]
    Serve {
        #[command(flatten)]
        place: Place,
        /// Control socket of the lab whose machines are the nodes.
        #[arg(long, hide = true)]
        lab: Option<PathBuf>,
    },
    /// Switch on what is off, and follow every node until it is ready.
    #[command(after_help = "Examples:\n  bramble up\n  bramble up --limit 900")]
    Up {
        #[command(flatten)]
        place: Place,
        /// Seconds to wait for all nodes.
        #[arg(long, default_value_t = 1800)]
        limit: u64,
    },
    /// Show nodes, workloads, machines seen, and what is waited for.
    #[command(after_help = "Examples:\n  bramble status\n  bramble status --json | jq '.nodes[].phase'")]
    Status(Place),
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
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Name the cause of a machine that does not come up, and what to do.
    #[command(after_help = "Examples:\n  bramble why w1\n  bramble why 52:54:00:00:00:02")]
    Why {
        /// Name or MAC address.
        machine: String,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Print what to put into a router's own DHCP offer, for firmware that never merges two offers.
    #[command(
        name = "router-recipe",
        after_help = "Examples:\n  bramble router-recipe dnsmasq\n  bramble router-recipe openwrt -C home --head 192.168.1.10\n\nWith it, set `dhcp = \"router\"` in bramble.toml."
    )]
    RouterRecipe {
        /// dnsmasq, kea, mikrotik, openwrt, pihole or unifi
        #[arg(value_parser = router)]
        router: Router,
        /// Address of the head. Default: that of `network.interface` on this machine.
        #[arg(long)]
        head: Option<std::net::Ipv4Addr>,
        #[command(flatten)]
        place: FlagPlace,
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
        #[command(flatten)]
        place: FlagPlace,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Open a shell on a node.
    #[command(after_help = "Example:\n  bramble shell w1")]
    Shell {
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
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
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Copy a file or folder to nodes, or from them.
    #[command(
        after_help = "Examples:\n  bramble cp site.conf w1:/etc/site.conf\n  bramble cp certs/ 'role:worker:/etc/ssl/'\n  bramble cp w1:/var/log/boot.log .\n  bramble cp all:/etc/hostname names/   # a folder for each node"
    )]
    Cp {
        from: String,
        to: String,
        #[command(flatten)]
        place: FlagPlace,
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
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Reboot nodes, from the inside.
    #[command(after_help = "Example:\n  bramble reboot 'role:worker'")]
    Reboot {
        /// A set of nodes, as of `bramble exec`.
        nodes: String,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Switch nodes off, from the inside.
    #[command(after_help = "Example:\n  bramble halt w3")]
    Halt {
        /// A set of nodes, as of `bramble exec`.
        nodes: String,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Run the cluster in virtual machines on this computer.
    #[command(subcommand)]
    Lab(LabVerb),
    /// Switch a node on or off.
    #[command(after_help = "Examples:\n  bramble power on w1\n  bramble power cycle w1")]
    Power {
        action: Switch,
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Log in at a head elsewhere; verbs then work as on its own machine.
    #[command(
        after_help = "Examples:\n  bramble login head.home.arpa\n  bramble login 192.168.1.10 --user ann --ca 9f86d0…\n  bramble login 192.168.1.10 --token < token\n\nWith several heads, BRAMBLE_HEAD names the one that is meant."
    )]
    Login {
        /// HOST, HOST:PORT or https://HOST:PORT
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
        head: Option<String>,
    },
    /// People who may log in with a password.
    #[command(subcommand)]
    User(UserVerb),
    /// Tokens for programs.
    #[command(subcommand)]
    Token(TokenVerb),
    /// Show who changed what, from where, and how it went.
    #[command(after_help = "Example:\n  bramble audit --last 20")]
    Audit {
        /// How many of the latest.
        #[arg(long, default_value_t = 100)]
        last: usize,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Back up the head's store and keys, while it runs.
    #[command(
        after_help = "Examples:\n  bramble backup\n  bramble backup -o /media/usb/home.bramble-backup\n\nThe file holds the cluster's keys: keep it as you keep those. Boot sets are not in it: `bramble image build` makes\nthem again. `[backup]` in bramble.toml has the head do this by itself."
    )]
    Backup {
        /// Default: CLUSTER-SECONDS.bramble-backup
        #[arg(long, short)]
        output: Option<PathBuf>,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Put a backup into place on a new machine; nodes go on without being let in again.
    #[command(
        after_help = "Example:\n  git clone … home && cd home\n  bramble restore /media/usb/home.bramble-backup\n  bramble image build\n  sudo bramble serve\n\nThe new machine takes the old one's address: that is where the nodes look for their head."
    )]
    Restore {
        backup: PathBuf,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Run the agent of a node (started by the image).
    #[command(hide = true)]
    Agent,
    /// Write this architecture's stage 1 to the standard output, for a build on another architecture.
    #[command(hide = true)]
    Stage1,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Switch {
    On,
    Off,
    Cycle,
}

#[derive(Subcommand)]
pub enum ImageVerb {
    /// Build the boot set of a repository; what has not changed is reused.
    #[command(
        after_help = "Examples:\n  bramble image build\n  bramble image build --refresh   # newer Debian packages"
    )]
    Build {
        #[command(flatten)]
        place: Place,
        /// Ask Debian for newer packages though the recipe is the same.
        #[arg(long)]
        refresh: bool,
    },
    /// List boot sets, the newest first.
    #[command(after_help = "Example:\n  bramble image ls")]
    Ls(Place),
    /// Show what is in a boot set.
    #[command(after_help = "Example:\n  bramble image inspect 3f2a")]
    Inspect {
        /// First digits of its digest. Default: the current one.
        set: Option<String>,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Remove old boot sets and what stopped builds left behind.
    #[command(after_help = "Example:\n  bramble image gc --keep 3")]
    Gc {
        #[command(flatten)]
        place: Place,
        /// How many boot sets to keep beside the current one.
        #[arg(long, default_value_t = 2)]
        keep: usize,
    },
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
pub enum UserVerb {
    /// List users.
    #[command(after_help = "Example:\n  bramble user ls")]
    Ls(Place),
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
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Remove a user, and log the user out everywhere.
    #[command(after_help = "Example:\n  bramble user rm ann")]
    Rm {
        name: String,
        #[command(flatten)]
        place: FlagPlace,
    },
}

#[derive(Subcommand)]
pub enum TokenVerb {
    /// List tokens.
    #[command(after_help = "Example:\n  bramble token ls")]
    Ls(Place),
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
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Remove a token.
    #[command(after_help = "Example:\n  bramble token rm ci")]
    Rm {
        name: String,
        #[command(flatten)]
        place: FlagPlace,
    },
}

#[derive(Subcommand)]
pub enum NodeVerb {
    /// List nodes.
    #[command(after_help = "Example:\n  bramble node ls")]
    Ls(Place),
    /// Show one node and its timeline.
    #[command(after_help = "Example:\n  bramble node show w1")]
    Show {
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Give a node its `[boot.NAME]` profile again: it installs itself at its next boot.
    #[command(after_help = "Example:\n  bramble node reinstall nas")]
    Reinstall {
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// End a node's certificate and its connection: it is let in again as one that was never here.
    #[command(after_help = "Example:\n  bramble node revoke w1   # it was stolen, or has another board now")]
    Revoke {
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Let in the key that a node shows on its console.
    #[command(after_help = "Example:\n  bramble node approve w1 9f86d081884c7d659a2feaa0c55ad015")]
    Approve {
        node: Name,
        /// Fingerprint, as the node's console shows it.
        fingerprint: String,
        #[command(flatten)]
        place: FlagPlace,
    },
}

#[derive(Subcommand)]
pub enum LabVerb {
    /// Boot the repository's nodes as virtual machines and keep them up until Ctrl-C.
    #[command(
        after_help = "Examples:\n  bramble lab up examples/first-light\n  bramble lab up --check   # prove it works, then end"
    )]
    Up {
        #[command(flatten)]
        place: Place,
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
    Down(Place),
    /// List the lab's machines.
    #[command(after_help = "Example:\n  bramble lab ls")]
    Ls(Place),
    /// Print what a machine's serial console has shown.
    #[command(after_help = "Example:\n  bramble lab console m1 --follow")]
    Console {
        node: Name,
        /// Go on as it prints more.
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// Press a machine's switch, behind the head's back: `off` cuts the power.
    #[command(after_help = "Example:\n  bramble lab power off w1")]
    Power {
        action: Switch,
        node: Name,
        #[command(flatten)]
        place: FlagPlace,
    },
    /// The lab's inside.
    #[command(hide = true)]
    Inside {
        #[command(flatten)]
        place: Place,
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

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Repository,
    NoHead,
    Interrupted,
    /// As what ran on nodes did.
    Node(u8),
}

impl Exit {
    /// The exit code that tells this error.
    pub fn of(error: &anyhow::Error) -> Exit {
        if error.is::<Problems>() {
            Exit::Repository
        } else if error.is::<crate::client::NoHead>() {
            Exit::NoHead
        } else if error.is::<crate::verbs::Interrupted>() {
            Exit::Interrupted
        } else {
            Exit::Failed
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Repository => 3,
            Exit::NoHead => 4,
            Exit::Interrupted => 130,
            Exit::Node(code) => code,
        })
    }
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
