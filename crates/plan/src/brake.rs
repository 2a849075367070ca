//! What a new snapshot changes, in words; and the brake: what a snapshot that came by itself may not do before a
//! person has said so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bramble_model::engine::{DockerSettings, EngineKind, EnginePart};
use bramble_model::firewall::Source;
use bramble_model::names::Name;
use bramble_model::repository::{Admission, Cluster, Dhcp, Node, Profile, Recipient};

/// Both sides of a change.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub from: &'a Cluster,
    pub to: &'a Cluster,
    /// Workloads of `from` that hold data: a volume, a folder of the machine.
    pub holding: &'a BTreeSet<Name>,
    /// Volumes that workloads of `from` whose files do not check had when those last did; `None` where that cannot be
    /// read.
    pub volumes: &'a BTreeMap<Name, Option<BTreeSet<String>>>,
    /// Nodes that snapshots have [taken away](taken_away) within the last 24 hours; `None` where that cannot be read.
    pub removed_lately: Option<&'a BTreeSet<Name>>,
    /// The new revision has the current one among its ancestors, or nobody can tell that it has not.
    pub descends: bool,
    /// Paths inside the repository whose content differs.
    pub files: &'a BTreeSet<String>,
}

fn gone<'a>(from: &'a Cluster, to: &Cluster) -> Vec<&'a Name> {
    from.nodes.keys().filter(|name| !to.nodes.contains_key(*name)).collect()
}

/// Nodes that stay, before and after.
fn both<'a>(from: &'a Cluster, to: &'a Cluster) -> impl Iterator<Item = (&'a Name, &'a Node, &'a Node)> {
    from.nodes.iter().filter_map(|(name, old)| Some((name, old, to.nodes.get(name)?)))
}

/// Nodes that stay and have a MAC address that they had not: another machine can take their place.
fn other_machines<'a>(from: &'a Cluster, to: &'a Cluster) -> Vec<&'a Name> {
    both(from, to)
        .filter(|(_, old, new)| new.macs.iter().any(|mac| !old.macs.contains(mac)))
        .map(|(name, _, _)| name)
        .collect()
}

/// Nodes that stay and lose their part in an engine.
fn out_of_work<'a>(from: &'a Cluster, to: &'a Cluster) -> Vec<&'a Name> {
    let has_none = |node: &Node, kind| node.part(kind) == EnginePart::None;
    let loses =
        |old: &Node, new: &Node| EngineKind::ALL.into_iter().any(|kind| !has_none(old, kind) && has_none(new, kind));
    both(from, to).filter(|(_, old, new)| loses(old, new)).map(|(name, _, _)| name).collect()
}

/// Nodes whose machines may have lost their places: their names went, other machines can have them, or they do something
/// else from now on.
pub fn taken_away(from: &Cluster, to: &Cluster) -> BTreeSet<Name> {
    let foreign = both(from, to).filter(|(_, old, new)| new.boot.is_some() && new.boot != old.boot);
    let stay = other_machines(from, to).into_iter().chain(out_of_work(from, to));
    gone(from, to).into_iter().chain(stay).chain(foreign.map(|(name, _, _)| name)).cloned().collect()
}

fn named(names: &[&Name]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Change<'_> {
    /// The sentences of machines that lose their places, where those are too many: more than a third of all within 24
    /// hours, or a manager that another machine takes the place of.
    fn machines(&self) -> Vec<String> {
        let Change { from, to, .. } = self;
        let (gone, others, idle) = (gone(from, to), other_machines(from, to), out_of_work(from, to));
        if gone.is_empty() && others.is_empty() && idle.is_empty() {
            return Vec::new();
        }
        let now = taken_away(from, to);
        let (too_many, after) = match self.removed_lately {
            None => (true, ", and how many went in the last 24 hours cannot be read".to_owned()),
            Some(lately) => {
                let before = lately.difference(&now).count();
                let all = from.nodes.keys().chain(lately).collect::<BTreeSet<_>>().len();
                let after = if before == 0 { String::new() } else { format!(", after {before} in the last 24 hours") };
                ((now.len() + before) * 3 > all, after)
            }
        };
        let is_manager =
            |name: &&Name| [from, to].iter().any(|side| side.nodes.get(*name).is_some_and(Node::is_manager));
        let mut all = Vec::new();
        if too_many && !gone.is_empty() {
            all.push(format!("it lets {} of {} nodes go ({}){after}", gone.len(), from.nodes.len(), named(&gone)));
        }
        if !others.is_empty() && (too_many || others.iter().any(is_manager)) {
            let after = if too_many { after.as_str() } else { "" };
            let others = named(&others);
            all.push(format!("it gives {others} other MAC addresses{after}: another machine can take the place"));
        }
        if too_many && !idle.is_empty() {
            let of = from.nodes.len();
            let idle_names = named(&idle);
            all.push(format!("it takes {} of {of} nodes out of an engine ({idle_names}){after}", idle.len()));
        }
        all
    }

    /// The sentences of what confines containers, and who comes to SSH, where that is less than before, or they are more.
    fn confinement(&self) -> Vec<String> {
        let Change { from, to, .. } = self;
        let mut all = Vec::new();
        // As images have it where nothing is said.
        let confined = |docker: DockerSettings| docker.no_new_privileges.unwrap_or(true);
        let remapped = |docker: DockerSettings| docker.userns_remap.unwrap_or(false);
        let loses = |has: &dyn Fn(DockerSettings) -> bool| -> Vec<&Name> {
            let lose = |old: &Node, new: &Node| old.docker.is_some_and(has) && new.docker.is_some_and(|new| !has(new));
            both(from, to).filter(|(_, old, new)| lose(old, new)).map(|(name, _, _)| name).collect()
        };
        let (free, root) = (loses(&confined), loses(&remapped));
        if !free.is_empty() {
            all.push(format!("it lets programs in containers of {} gain rights (`no_new_privileges`)", named(&free)));
        }
        if !root.is_empty() {
            all.push(format!("it makes root of a container root of its node on {} (`userns_remap`)", named(&root)));
        }
        if from.encrypted_networks && !to.encrypted_networks {
            all.push("it encrypts networks of workloads no more (`engine.encrypted_networks`)".into());
        }
        let (old, new) = (&from.firewall, &to.firewall);
        let is_new = |source: &&Source| !old.ssh.iter().any(|old| old.covers(**source));
        let wider: Vec<String> = new.ssh.iter().filter(is_new).map(ToString::to_string).collect();
        // Where it is off, everyone came before, or that it goes is said.
        if old.enabled && new.enabled && !wider.is_empty() {
            all.push(format!("it lets others come to SSH on all nodes: {} (`firewall.ssh`)", wider.join(", ")));
        }
        all
    }

    /// Foreign systems that differ, by what the repository says of them or by a file of theirs; new ones, too.
    fn other_systems(&self) -> Vec<Name> {
        let (old, new) = (self.from.boot_keys(), self.to.boot_keys());
        let is_other = |name: &Name, profile: &Profile| {
            old.get(name) != Some(profile) || self.files.iter().any(|file| profile.has(Path::new(file)))
        };
        new.into_iter().filter(|(name, profile)| is_other(name, profile)).map(|(name, _)| name).collect()
    }

    /// Nodes that boot a foreign system which they did not boot before: an installer writes over disks.
    fn installed(&self) -> Vec<&Name> {
        let other = self.other_systems();
        let boots_other = |name: &Name, node: &Node| {
            let had = self.from.nodes.get(name).and_then(|node| node.boot.as_ref());
            node.boot.as_ref().is_some_and(|boot| had != Some(boot) || other.contains(boot))
        };
        self.to.nodes.iter().filter(|(name, node)| boots_other(name, node)).map(|(name, _)| name).collect()
    }

    /// How the repository differs, in short sentences, the weightiest first.
    pub fn sentences(&self) -> Vec<String> {
        let Change { from, to, .. } = self;
        let mut all = Vec::new();
        all.extend(gone(from, to).iter().map(|name| format!("node {name} leaves")));
        for (name, node) in &to.nodes {
            match from.nodes.get(name) {
                None => all.push(format!("node {name} is new")),
                Some(old) if old.role != node.role => {
                    all.push(format!("node {name} changes from {} to {}", old.role, node.role));
                }
                Some(old) if old != node => all.push(format!("node {name} changes")),
                Some(_) => {}
            }
        }
        for name in from.workloads.keys().filter(|name| !to.workloads.contains_key(*name)) {
            all.push(format!("workload {name} leaves"));
        }
        for name in to.workloads.keys().filter(|name| !from.workloads.contains_key(*name)) {
            all.push(format!("workload {name} is new"));
        }
        let sections: [(&str, bool); 11] = [
            ("cluster.name", from.name != to.name),
            (
                "cluster",
                from.domain != to.domain || from.ssh_keys != to.ssh_keys || from.time_servers != to.time_servers,
            ),
            ("cluster.admission", from.admission != to.admission),
            ("network", from.network != to.network),
            ("access", from.access != to.access),
            ("source", from.source != to.source),
            ("backup", from.backup != to.backup),
            ("image", from.image_keys() != to.image_keys()),
            ("engine", from.encrypted_networks != to.encrypted_networks),
            ("firewall", from.firewall != to.firewall),
            ("lab", from.lab != to.lab),
        ];
        all.extend(sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| format!("`{name}` changes")));
        let gone = from.boots.keys().filter(|name| !to.boots.contains_key(*name)).cloned();
        all.extend(self.other_systems().into_iter().chain(gone).map(|name| format!("`boot.{name}` changes")));
        all
    }

    /// Why it waits for a person, where it came by itself. Empty where it does not.
    pub fn brake(&self) -> Vec<String> {
        let Change { from, to, .. } = self;
        let mut all = Vec::new();
        let managers: Vec<String> = from
            .nodes
            .iter()
            .filter(|(_, node)| node.is_manager())
            .filter(|(name, _)| to.nodes.get(*name).is_none_or(|node| !node.is_manager()))
            .map(|(name, _)| name.to_string())
            .collect();
        if !managers.is_empty() {
            all.push(format!("it makes {} no manager any more", managers.join(", ")));
        }
        all.extend(self.machines());
        let installed = self.installed();
        if !installed.is_empty() {
            all.push(format!("it boots another system on {}, which can write over disks", named(&installed)));
        }
        let data: Vec<String> =
            self.holding.iter().filter(|name| !to.workloads.contains_key(*name)).map(ToString::to_string).collect();
        if !data.is_empty() {
            all.push(format!("it removes {}, which hold data", data.join(", ")));
        }
        for (name, old) in &from.workloads {
            // One whose file does not check stays as it is.
            let Some(new) = to.workloads.get(name).filter(|new| new.problem.is_none()) else { continue };
            let had = self.volumes.get(name).map_or(Some(&old.volumes), Option::as_ref);
            let Some(had) = had else {
                let reason = "what volumes it had before its file was damaged cannot be read";
                all.push(format!("it may take volumes out of workload {name}: {reason}"));
                continue;
            };
            let gone: Vec<&str> = had.difference(&new.volumes).map(String::as_str).collect();
            if !gone.is_empty() {
                all.push(format!("it takes volumes out of workload {name}: {}", gone.join(", ")));
            }
        }
        let mode = |dhcp: &Dhcp| match dhcp {
            Dhcp::Proxy => "proxy",
            Dhcp::Router => "router",
            Dhcp::Full(_) => "full",
        };
        let admission = |admission: Admission| match admission {
            Admission::Expected => "expected",
            Admission::Approve => "approve",
            Admission::Open => "open",
        };
        if from.name != to.name {
            all.push(format!("it renames the cluster from {} to {}", from.name, to.name));
        }
        if mode(&from.network.dhcp) != mode(&to.network.dhcp) {
            all.push(format!("it changes DHCP from {} to {}", mode(&from.network.dhcp), mode(&to.network.dhcp)));
        }
        if from.admission != to.admission {
            all.push(format!("it changes admission from {} to {}", admission(from.admission), admission(to.admission)));
        }
        if from.ssh_keys != to.ssh_keys {
            all.push("it changes who is root on all nodes (`cluster.ssh_keys`)".into());
        }
        if from.firewall.enabled && !to.firewall.enabled {
            all.push("it lets everything in at all nodes (`firewall.enabled = false`)".into());
        }
        all.extend(self.confinement());
        if from.domain != to.domain {
            all.push(format!(
                "it changes the name under which the head is reached (`cluster.domain = \"{}\"`)",
                to.domain
            ));
        }
        if from.network.interfaces != to.network.interfaces {
            all.push("it changes the wire that the head serves (`network.interface`)".into());
        }
        if from.backup.as_ref().map(|backup| &backup.folder) != to.backup.as_ref().map(|backup| &backup.folder) {
            all.push("it changes where backups go, and with them the cluster's keys (`backup.folder`)".into());
        }
        let readers = |cluster: &Cluster| -> Vec<Recipient> {
            cluster.backup.as_ref().map(|backup| backup.recipients.clone()).unwrap_or_default()
        };
        let before = readers(from);
        if readers(to).iter().any(|recipient| !before.contains(recipient)) {
            all.push("it lets others read backups, and with them the cluster's keys (`backup.recipients`)".into());
        }
        if from.access != to.access {
            all.push("it changes who may look at the cluster and change it (`[access]`)".into());
        }
        if from.source != to.source {
            all.push("it changes where the repository comes from (`[source]`)".into());
        }
        if !self.descends {
            let reason =
                "it does not descend from the current revision: it is an earlier one, or the branch was rewritten";
            all.push(reason.into());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use bramble_model::repository::Workload;

    use super::*;

    fn cluster(more: &str, nodes: &[(&str, &str)]) -> Cluster {
        at(0, "", more, nodes)
    }

    /// Nodes whose MAC addresses count up from `first`.
    fn at(first: usize, keys: &str, more: &str, nodes: &[(&str, &str)]) -> Cluster {
        let mut text = format!(
            "[cluster]\nname = \"c\"\n{keys}[network]\ninterface = \"eth0\"\n[roles.manager]\nengine = \"manager\"\n[roles.worker]\nengine = \"worker\"\n",
        );
        text += more;
        for (at, (name, role)) in (first..).zip(nodes) {
            text += &format!("[nodes.{name}]\nmac = \"52:54:00:00:00:{at:02x}\"\nrole = \"{role}\"\n");
        }
        let place = Path::new("/nowhere");
        Cluster::parse(place, &place.join("bramble.toml"), &text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    const SIX: [(&str, &str); 6] =
        [("m1", "manager"), ("w1", "worker"), ("w2", "worker"), ("w3", "worker"), ("w4", "worker"), ("w5", "worker")];

    fn names(names: &[&str]) -> BTreeSet<Name> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    /// A change that nothing came before, of a repository without data, in its line.
    fn change<'a>(from: &'a Cluster, to: &'a Cluster) -> Change<'a> {
        static NO_NAMES: BTreeSet<Name> = BTreeSet::new();
        static NO_FILES: BTreeSet<String> = BTreeSet::new();
        static NO_VOLUMES: BTreeMap<Name, Option<BTreeSet<String>>> = BTreeMap::new();
        let (holding, removed_lately) = (&NO_NAMES, Some(&NO_NAMES));
        Change { from, to, holding, volumes: &NO_VOLUMES, removed_lately, descends: true, files: &NO_FILES }
    }

    fn brake(from: &Cluster, to: &Cluster) -> Vec<String> {
        change(from, to).brake()
    }

    #[test]
    fn a_few_workers_may_stop_working_and_many_may_not() {
        let idle = "[roles.idle]\nengine = \"none\"\n";
        let idles = |name: &str, count: usize| (1..=count).any(|number| name == format!("w{number}"));
        let roles = |count| SIX.map(|(name, role)| (name, if idles(name, count) { "idle" } else { role }));
        let from = cluster(idle, &SIX);
        assert_eq!(brake(&from, &cluster(idle, &roles(2))), Vec::<String>::new(), "a third is not more than a third");
        let sentence = "it takes 3 of 6 nodes out of an engine (w1, w2, w3)";
        assert_eq!(brake(&from, &cluster(idle, &roles(3))), [sentence]);
    }

    #[test]
    fn another_system_waits_for_a_person_whoever_boots_it() {
        let system = |cmdline: &str| {
            format!(
                "[boot.other]\nkernel = \"https://host/linux\"\ncmdline = \"{cmdline}\"\n\
                 [boot.idle]\nkernel = \"https://host/idle\"\n"
            )
        };
        let booting = |cmdline: &str, nodes: &[(&str, &str)], on: &[&str]| {
            let mut cluster = cluster(&system(cmdline), nodes);
            for (_, node) in cluster.nodes.iter_mut().filter(|(name, _)| on.iter().any(|on| name.as_str() == *on)) {
                node.boot = Some("other".parse().expect("a name"));
            }
            cluster
        };
        let w1 = booting("quiet", &SIX, &["w1"]);
        let sentence = |name: &str| vec![format!("it boots another system on {name}, which can write over disks")];
        assert_eq!(brake(&cluster(&system("quiet"), &SIX), &w1), sentence("w1"), "a node that stays");
        assert_eq!(
            brake(&booting("quiet", &SIX[..5], &[]), &booting("quiet", &SIX, &["w5"])),
            sentence("w5"),
            "a new one"
        );
        let erased = booting("wipe=all", &SIX, &["w1"]);
        assert_eq!(brake(&w1, &erased), sentence("w1"), "another command line");
        assert_eq!(change(&w1, &erased).sentences(), ["`boot.other` changes"]);
        assert_eq!(brake(&w1, &w1), Vec::<String>::new());
        assert_eq!(brake(&w1, &cluster(&system("quiet"), &SIX)), Vec::<String>::new(), "bramble's own again");
        let mut filed = w1.clone();
        let profile = filed.boots.values_mut().next_back().expect("it has two");
        profile.templates = Some(filed.root.join("seed"));
        let files = BTreeSet::from(["seed/user-data".to_owned()]);
        assert_eq!(brake(&filed, &filed), Vec::<String>::new());
        assert_eq!(Change { files: &files, ..change(&filed, &filed) }.brake(), sentence("w1"), "a file of the system");
        let files = BTreeSet::from(["seeds/user-data".to_owned()]);
        assert_eq!(Change { files: &files, ..change(&filed, &filed) }.brake(), Vec::<String>::new());
    }

    #[test]
    fn a_few_workers_may_leave_and_many_may_not() {
        let from = cluster("", &SIX);
        let to = cluster("", &SIX[..4]);
        let lately = |named: &[&str]| Change { removed_lately: Some(&names(named)), ..change(&from, &to) }.brake();
        let after = ["it lets 2 of 6 nodes go (w4, w5), after 1 in the last 24 hours"];
        assert_eq!(lately(&[]), Vec::<String>::new(), "a third is not more than a third");
        assert_eq!(lately(&["w6"]), after);
        assert_eq!(lately(&["w3"]), after, "that it came back does not undo it");
        assert_eq!(lately(&["w4"]), Vec::<String>::new(), "one that goes twice is one");
        assert_eq!(
            Change { removed_lately: None, ..change(&from, &to) }.brake(),
            ["it lets 2 of 6 nodes go (w4, w5), and how many went in the last 24 hours cannot be read"]
        );
        assert_eq!(change(&from, &to).sentences(), ["node w4 leaves", "node w5 leaves"]);
    }

    #[test]
    fn a_workload_that_holds_data_is_removed_by_a_person() {
        let runs = |workloads: &[&str]| {
            let mut cluster = cluster("", &SIX);
            let workload = |name: &&str| {
                let path = Path::new("/nowhere").join(format!("{name}.yaml"));
                (
                    name.parse().expect("a name"),
                    Workload {
                        path,
                        problem: None,
                        services: BTreeSet::new(),
                        holds_data: false,
                        volumes: BTreeSet::new(),
                        published: BTreeSet::new(),
                    },
                )
            };
            cluster.workloads = workloads.iter().map(workload).collect();
            cluster
        };
        let (both, db, none) = (runs(&["db", "web"]), runs(&["db"]), runs(&[]));
        let holding = names(&["db"]);
        let brake = |from, to| Change { holding: &holding, ..change(from, to) }.brake();
        assert_eq!(brake(&both, &db), Vec::<String>::new(), "one that holds none");
        assert_eq!(brake(&both, &none), ["it removes db, which hold data"]);
        assert_eq!(change(&both, &db).sentences(), ["workload web leaves"]);
    }

    #[test]
    fn volumes_are_taken_out_of_a_workloads_file_by_a_person() {
        let folder = tempfile::tempdir().expect("a folder");
        let of = |services: &str| {
            let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[workloads.shop]\npath = \"shop.yaml\"\n\
                [roles.m]\nengine = \"manager\"\n[nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"m\"\n";
            std::fs::write(folder.path().join("bramble.toml"), text).expect("written");
            std::fs::write(folder.path().join("shop.yaml"), format!("services: {services}\n")).expect("written");
            Cluster::of_folder(folder.path()).unwrap_or_else(|problems| panic!("{problems}"))
        };
        let web = "web: { image: a, volumes: [{ type: tmpfs, target: /tmp }] }";
        let db = "db: { image: b, volumes: ['data:/data', { type: bind, source: /srv/log, target: /log }, /own] }";
        let before = of(&format!("{{ {web}, {db} }}"));
        let taken = |services: &str| brake(&before, &of(services));
        assert_eq!(
            taken(&format!("{{ {web} }}")),
            ["it takes volumes out of workload shop: /own of db, /srv/log of db, data of db"],
            "with their service"
        );
        assert_eq!(
            taken("{ db: { image: b, volumes: ['/srv/log:/log', '/own', 'other:/data'] } }"),
            ["it takes volumes out of workload shop: data of db"]
        );
        let elsewhere =
            "{ db: { image: c, volumes: ['data:/var/data:ro', '/srv/log:/var/log', '/own', 'more:/more'] } }";
        for holds in [elsewhere, "[]"] {
            assert_eq!(taken(holds), Vec::<String>::new(), "{holds}");
        }
        let (damaged, empty) = (of("[]"), of("{ db: { image: b } }"));
        let after = |volumes: Option<&[&str]>| {
            let volumes = volumes.map(|all| all.iter().map(ToString::to_string).collect());
            let volumes = BTreeMap::from([("shop".parse().expect("a name"), volumes)]);
            Change { volumes: &volumes, ..change(&damaged, &empty) }.brake()
        };
        assert_eq!(after(Some(&[])), Vec::<String>::new());
        assert_eq!(after(Some(&["data of db"])), ["it takes volumes out of workload shop: data of db"]);
        let unread =
            "it may take volumes out of workload shop: what volumes it had before its file was damaged cannot be read";
        assert_eq!(after(None), [unread]);
    }

    #[test]
    fn other_machines_and_other_keys_wait() {
        let from = cluster("", &SIX);
        let brake_after = |lately: &BTreeSet<Name>, to: &Cluster| {
            Change { removed_lately: Some(lately), ..change(&from, to) }.brake()
        };
        let brake = |to: &Cluster| change(&from, to).brake();
        let others = |changed: &[usize]| {
            let mut to = from.clone();
            for (at, node) in to.nodes.values_mut().enumerate().filter(|(at, _)| changed.contains(at)) {
                node.macs = vec![format!("52:54:00:00:01:{at:02x}").parse().expect("a MAC")];
            }
            to
        };
        let with = |changed: &[usize]| brake(&others(changed));
        assert_eq!(with(&[1, 2]), Vec::<String>::new(), "a third of them, and no manager");
        assert_eq!(taken_away(&from, &others(&[1, 2])), names(&["w1", "w2"]));
        assert_eq!(
            brake_after(&names(&["w1", "w2"]), &others(&[3])),
            ["it gives w3 other MAC addresses, after 2 in the last 24 hours: another machine can take the place"]
        );
        assert_eq!(with(&[1, 2, 3]), ["it gives w1, w2, w3 other MAC addresses: another machine can take the place"]);
        assert_eq!(with(&[0]), ["it gives m1 other MAC addresses: another machine can take the place"]);
        let keys = at(0, "ssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAnn ann\"]\n", "", &SIX);
        assert_eq!(brake(&keys), ["it changes who is root on all nodes (`cluster.ssh_keys`)"]);
    }

    #[test]
    fn a_firewall_is_taken_away_by_a_person_and_what_it_opens_is_said() {
        let from = cluster("", &SIX);
        let off = cluster("[firewall]\nenabled = false\n", &SIX);
        assert_eq!(brake(&from, &off), ["it lets everything in at all nodes (`firewall.enabled = false`)"]);
        let open = cluster("[firewall.open.web]\nports = [\"80/tcp\"]\n", &SIX);
        assert_eq!(brake(&from, &open), Vec::<String>::new());
        assert_eq!(change(&from, &open).sentences(), ["`firewall` changes"]);
    }

    #[test]
    fn what_confines_containers_and_ssh_is_made_less_by_a_person_and_more_by_anyone() {
        let from = |ssh: &str| cluster(&format!("[firewall]\nssh = [{ssh}]\n"), &SIX);
        let wide = "it lets others come to SSH on all nodes";
        for (before, after, wider) in [
            ("\"10.0.0.0/8\"", "\"10.77.0.0/24\", \"10.1.2.3\"", None),
            ("\"10.0.0.0/8\"", "\"10.0.0.0/7\", \"10.1.2.3\"", Some("10.0.0.0/7")),
            ("\"nodes\"", "\"anywhere\", \"fd00::/8\"", Some("anywhere, fd00::/8")),
            ("\"anywhere\"", "\"nodes\"", None),
        ] {
            let wanted: Vec<String> = wider.map(|who| format!("{wide}: {who} (`firewall.ssh`)")).into_iter().collect();
            assert_eq!(brake(&from(before), &from(after)), wanted, "{before} {after}");
        }
        let off = cluster("[firewall]\nenabled = false\nssh = [\"nodes\"]\n", &SIX);
        assert_eq!(brake(&off, &from("\"anywhere\"")), Vec::<String>::new(), "everyone came before");
        let engine = |keys: &str| cluster(&format!("[engine]\n{keys}"), &SIX[..2]);
        let more = engine("userns_remap = true\nencrypted_networks = true\n");
        let less = engine("no_new_privileges = false\n");
        assert_eq!(brake(&less, &more), Vec::<String>::new());
        assert_eq!(
            brake(&more, &less),
            [
                "it lets programs in containers of m1, w1 gain rights (`no_new_privileges`)",
                "it makes root of a container root of its node on m1, w1 (`userns_remap`)",
                "it encrypts networks of workloads no more (`engine.encrypted_networks`)",
            ]
        );
    }

    /// Lines that have the head make backups in this folder.
    fn backup(folder: &str) -> String {
        let key = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        format!("[backup]\nfolder = \"{folder}\"\nrecipients = [\"{key}\"]\n")
    }

    #[test]
    fn who_may_read_backups_waits_where_somebody_is_added_and_not_where_somebody_goes() {
        let one = cluster(&backup("/b"), &SIX);
        let mut two = one.clone();
        let other = "age1pyqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq8r66x";
        two.backup.as_mut().expect("declared").recipients.push(other.parse().expect("a key"));
        let reasons = brake(&one, &two);
        assert!(reasons.len() == 1 && reasons[0].contains("lets others read backups"), "{reasons:?}");
        assert_eq!(brake(&two, &one), Vec::<String>::new());
    }

    #[test]
    fn what_gives_the_cluster_away_waits() {
        let from = cluster("", &SIX);
        let mut renamed = from.clone();
        renamed.name = "other".parse().expect("a name");
        let mut rewired = from.clone();
        rewired.network.interfaces = vec!["eth1".into()];
        rewired.network.dhcp = Dhcp::Router;
        insta::assert_snapshot!(
            [
                brake(&from, &at(1, "", "", &SIX[1..])),
                brake(&from, &cluster("", &[("m1", "worker"), SIX[1], SIX[2], SIX[3], SIX[4], SIX[5]])),
                brake(&from, &cluster("[access]\npublic = true\n", &SIX)),
                brake(&from, &cluster("[source]\ngit = \"https://elsewhere/home\"\n", &SIX)),
                brake(&from, &cluster(&backup("/tmp/for-all"), &SIX)),
                brake(&from, &at(0, "admission = \"open\"\n", "", &SIX)),
                brake(&from, &renamed),
                brake(&from, &rewired),
                brake(&from, &at(0, "domain = \"elsewhere.example\"\n", "", &SIX)),
                Change { removed_lately: None, descends: false, ..change(&from, &from) }.brake(),
            ]
            .map(|reasons| format!("{}\n", reasons.join("; ")))
            .concat()
        );
    }
}
