//! The status: all that the head knows of the cluster at one moment, for the page, the API and the command line.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramble_image::BootSet;
use bramble_model::api::{Explanation, KnownBy, NodeStatus, Stale, Status, WaitingKey, WorkloadStatus};
use bramble_model::boot_set::Architecture;
use bramble_model::engine::{EngineKind, EnginePart};
use bramble_model::names::{Digest, Name};
use bramble_model::repository::Node;
use bramble_model::section::{self, Section};
use bramble_model::timeline::{Millis, What};
use bramble_netboot::away::Counts;
use bramble_plan::admission::{By, Record, waiting};
use bramble_plan::explain::{Evidence, explain};
use bramble_plan::lead;
use bramble_plan::swarm::Workload;
use bramble_store::{Store, View};
use bramble_system::now;

use crate::access::audit::copy::Copies;
use crate::admissions::{Admissions, WaitingKeys};
use crate::boot_sets::BootSets;
use crate::ca::Authority;
use crate::descriptors::Descriptors;
use crate::desired::Desired;
use crate::floods;
use crate::loops::Sections;
use crate::neighbours::too_little_room;
use crate::rotation::Rotating;
use crate::snapshots::Snapshots;
use crate::store;
use crate::strangers::Strangers;
use crate::swarm::{Sight, Swarm};
use crate::timeline::{Timeline, Track};
use crate::unreadable::Waiting;
use crate::wires::Wires;

/// What loops say of nodes, of each the first thing: found once, and not for each node anew.
#[derive(Default)]
struct OfNodes<'a> {
    waits: BTreeMap<&'a Name, &'a section::Waiting>,
    failed: BTreeMap<&'a Name, &'a section::Failure>,
}

impl<'a> OfNodes<'a> {
    fn of(loops: &'a [Section]) -> Self {
        let mut told = OfNodes::default();
        for section in loops {
            for (node, wait) in section.waits.iter().filter_map(|wait| Some((wait.subject.as_node()?, wait))) {
                told.waits.entry(node).or_insert(wait);
            }
            for (node, failure) in section.failed.iter().filter_map(|one| Some((one.subject.as_node()?, one))) {
                told.failed.entry(node).or_insert(failure);
            }
        }
        told
    }
}

/// What is wrong with an engine.
struct Trouble {
    /// As a whole.
    whole: Option<String>,
    /// With single managers of it.
    managers: BTreeMap<Name, String>,
}

impl Trouble {
    /// What concerns this node, if it has a part in the engine.
    fn of(&self, node: &Name) -> Option<&str> {
        self.managers.get(node).or(self.whole.as_ref()).map(String::as_str)
    }
}

/// The part of the head that only reads the others.
pub(crate) struct Overview {
    pub(crate) store: Store,
    pub(crate) admissions: View<Admissions>,
    pub(crate) waiting_keys: View<WaitingKeys>,
    pub(crate) boot_sets: Arc<BootSets>,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) desired: Arc<Desired>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) strangers: Arc<Strangers>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) turned_away: Arc<Counts>,
    pub(crate) sections: Arc<Sections>,
    pub(crate) swarm: Arc<Swarm>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) rotating: Arc<Rotating>,
    pub(crate) descriptors: Arc<Descriptors>,
}

/// The keys that wait at a node, as they are listed.
fn listed(waiting: &waiting::Waiting, now: Millis) -> Vec<WaitingKey> {
    let listed = waiting.keys(now).map(|(key, is_spent)| WaitingKey {
        fingerprint: key.fingerprint.clone(),
        address: key.address,
        since: key.since,
        last: key.last,
        shows_digits: key.shows_digits,
        is_spent,
    });
    listed.collect()
}

impl Overview {
    /// Why a node is where it is.
    fn why(
        &self,
        name: &Name,
        node: &Node,
        track: &mut Track,
        told: &OfNodes<'_>,
        engine: Option<&str>,
        has_set: bool,
    ) -> Explanation {
        explain(&Evidence {
            now: now(),
            has_set,
            dhcp: &self.wires.network().dhcp,
            macs: &node.macs,
            phase: track.phase,
            since: track.since,
            percent: track.percent,
            failure: track.failure.as_ref().map(|said| (said.reason.as_str(), said.kind.as_ref())),
            connected: track.connected,
            health: track.health.as_ref(),
            waiting: told.waits.get(name).copied(),
            engine,
            failed: told.failed.get(name).copied(),
            foreign: node.boot.is_some(),
            events: track.recent.make_contiguous(),
            last: track.last.as_ref(),
        })
    }

    /// The whole of it. The store is read for it, beside what else is answered.
    pub(crate) async fn status(self: &Arc<Self>) -> Status {
        let overview = Arc::clone(self);
        store::beside(move || overview.look()).await
    }

    fn look(&self) -> Status {
        let (set, unknown) = given(&self.boot_sets);
        // What cannot be read is not none.
        let has_set = set.is_some() || !unknown.is_empty();
        let loops = self.sections.all();
        let told = OfNodes::of(&loops);
        let sight = self.swarm.sight();
        let trouble = |kind| match kind {
            EngineKind::Swarm => Trouble {
                whole: self.swarm.problem(&sight),
                managers: sight.mute().map(|(name, reason)| (name.clone(), reason)).collect(),
            },
        };
        let engines = EngineKind::ALL.map(|kind| (kind, trouble(kind)));
        let cluster = self.snapshots.cluster();
        let records = self.admissions.all();
        let (waiting, at) = (self.waiting_keys.all(), now());
        let status = |name: &Name, node: &Node, track: &mut Track| {
            let own = engines.iter().filter(|(kind, _)| node.part(*kind) != EnginePart::None);
            let engine = own.into_iter().find_map(|(_, trouble)| trouble.of(name));
            let why = self.why(name, node, track, &told, engine, has_set);
            let record = records.as_ref().ok().and_then(|records| records.readable.get(name));
            NodeStatus {
                boot: node.boot.clone(),
                why,
                name: name.clone(),
                macs: node.macs.clone(),
                role: node.role.clone(),
                phase: track.phase,
                since: track.since,
                percent: track.percent,
                last: track.last.as_ref().map(What::sentence),
                failure: track.failure.as_ref().map(|said| said.reason.clone()),
                pending: track.pending.as_ref().map(|asking| asking.key.clone()),
                waiting: waiting
                    .as_ref()
                    .ok()
                    .and_then(|all| all.readable.get(name))
                    .map_or_else(Vec::new, |waiting| listed(waiting, at)),
                connected: track.connected,
                known_by: record.and_then(known_by),
                set: record.and_then(|record| set_of(record, track.connected)),
                facts: track.facts.clone(),
                health: track.health.clone(),
                times: track.times.clone(),
            }
        };
        let known = |(name, node): (&Name, _)| self.timeline.study(name, |track| status(name, node, track));
        let nodes: Vec<NodeStatus> = cluster.nodes.iter().map(known).collect();
        let snapshot = self.snapshots.current();
        let of_workload = |name| {
            let wanted = snapshot.as_ref().and_then(|snapshot| snapshot.workload(name));
            workload(name, wanted, &sight)
        };
        let workloads = cluster.workloads.keys().map(of_workload);
        let mut problems: Vec<String> =
            [self.store.blocking().trouble(), self.timeline.clock_problem()].into_iter().flatten().collect();
        problems.extend(records.as_ref().err().map(|error| bramble_system::sentence(error)));
        problems.extend(self.wires.problems());
        problems.extend(too_little_room(cluster.nodes.values().map(|node| node.macs.len()).sum()));
        problems.extend(self.rotating.problems());
        problems.extend(self.copies.problems());
        problems.extend(floods::problems(&self.turned_away, now() / 1000));
        problems.extend(self.descriptors.shares().problem());
        problems.extend(self.snapshots.trouble());
        problems.extend(self.snapshots.lost());
        let refusing = nodes.iter().filter_map(|node| Some((&node.name, node.health.as_ref()?.refuses?)));
        problems.extend(lead::problems(refusing));
        problems.extend(self.waiting.list().iter().map(ToString::to_string));
        for problem in unknown {
            // One whose record waits for a person is told already.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        for (_, trouble) in &engines {
            problems.extend(trouble.whole.iter().chain(trouble.managers.values()).cloned());
        }
        for section in &loops {
            if let Some(unknown) = &section.unknown {
                problems.push(format!("{}: nothing is planned: {}", section.name, unknown.reason));
            }
        }
        Status {
            cluster: cluster.name.clone(),
            ca: self.authority.fingerprint().to_owned(),
            at: now(),
            set: set.map(|set| set.digest),
            head_resident: resident(),
            nodes,
            workloads: workloads.collect(),
            seen: self.strangers.all(),
            problems,
            desired: self.desired.status(),
            follows_git: snapshot.as_ref().is_some_and(|snapshot| self.snapshots.may_follow(snapshot)),
            loops,
        }
    }
}

/// A workload, as the snapshot wants it and as the engine was seen last. What is stale says so, and nothing else.
fn workload(name: &Name, wanted: Option<&Workload>, sight: &Sight) -> WorkloadStatus {
    let (listed, seen_at) = match &sight.listing {
        Some((listing, at)) => (&listing.services[..], Some(*at)),
        None => (&[][..], None),
    };
    let own = listed.iter().filter(|service| service.workload.as_deref() == Some(name.as_str()));
    let services: Vec<_> = own.cloned().collect();
    WorkloadStatus {
        name: name.clone(),
        current: sight.stale.is_none() && wanted.is_some_and(|wanted| wanted.is_deployed(name, &services)),
        problem: match wanted {
            Some(Workload::Sick { problem }) => Some(problem.clone()),
            Some(Workload::Ready { .. }) | None => None,
        },
        services,
        seen_at,
        stale: sight.stale.as_ref().map(|(reason, since)| Stale { reason: reason.clone(), since: *since }),
    }
}

/// The boot set that a node runs, or was given last.
fn set_of(record: &Record, is_connected: bool) -> Option<Digest> {
    let running = record.admitted.as_ref().filter(|_| is_connected).and_then(|admitted| admitted.set);
    running.or_else(|| record.boots().filter_map(|(_, set)| set).last())
}

/// What a node is known by since it was let in.
fn known_by(record: &Record) -> Option<KnownBy> {
    Some(match (&record.kept, &record.admitted) {
        (Some(kept), _) => match kept.by {
            By::Tpm { .. } => KnownBy::Tpm,
            By::Disk { .. } => KnownBy::Disk,
            By::Variable => KnownBy::Variable,
        },
        (None, Some(_)) => KnownBy::Wire,
        (None, None) => return None,
    })
}

/// The first architecture's boot set that nodes are given, and why it is not known of others what they are given.
fn given(sets: &BootSets) -> (Option<BootSet>, Vec<String>) {
    let mut unknown = Vec::new();
    let mut first = None;
    for architecture in Architecture::ALL {
        match sets.given(architecture) {
            Ok(set) => first = first.or(set),
            Err(error) => unknown.push(bramble_system::sentence(&error)),
        }
    }
    (first, unknown)
}

/// Resident bytes of this process (proc(5)).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bramble_image::Shelf;
    use bramble_model::agent::swarm::{Observed, Service};
    use bramble_model::names::{Digest, Generation};

    use super::*;
    use crate::boot_sets::tests::tear;
    use crate::boots::own::tests::shelve;

    /// Fault 15 of the ground: with no manager to ask, a workload was "3 of 3, as in the repository", minutes old.
    #[test]
    fn a_workload_that_was_seen_before_is_as_in_the_repository_no_more() {
        let name: Name = "web".parse().expect("a name");
        let generation = Generation::of(&Digest([1; 32]));
        let services = BTreeSet::from(["server".to_owned()]);
        let wanted = Workload::Ready { generation: generation.clone(), file: "f".into(), services };
        let service = Service {
            workload: Some("web".into()),
            generation: Some(generation.into()),
            name: "web_server".into(),
            wanted: 3,
            running: 3,
            ports: Vec::new(),
            replicas: Vec::new(),
        };
        let cluster = "c1".parse().expect("an id");
        let listing = Observed { cluster, members: Vec::new(), services: vec![service] };
        let mut sight = Sight { listing: Some((listing, 1_000)), ..Sight::default() };
        let seen = workload(&name, Some(&wanted), &sight);
        assert_eq!((seen.current, seen.state(61_000).as_str()), (true, "as in the repository"));
        sight.stale = Some(("no manager answers".into(), 1_000));
        let stale = workload(&name, Some(&wanted), &sight);
        assert_eq!((stale.current, stale.seen_at), (false, Some(1_000)));
        assert_eq!(stale.state(61_000), "unknown for 60 s: no manager answers");
        let sick = workload(&name, Some(&Workload::Sick { problem: "line 3".into() }), &Sight::default());
        assert_eq!(sick.state(0), "not deployed yet; its file has an error: line 3");
    }

    #[test]
    fn what_is_given_and_cannot_be_read_is_told_and_is_not_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("head.redb"), 1).expect("opens");
        let sets = BootSets::open(store.clone(), Shelf::open(folder.path()).expect("opens"));
        assert_eq!(given(&sets).1, Vec::<String>::new());
        let arm64 = shelve(folder.path(), Architecture::Arm64, "a kernel");
        sets.give(Architecture::Arm64, arm64).expect("given");
        tear(&store, Architecture::Amd64);
        let (set, unknown) = given(&sets);
        assert_eq!(set.map(|set| set.digest), Some(arm64));
        assert!(unknown.len() == 1 && unknown[0].contains("given to nodes of amd64 cannot be read"), "{unknown:?}");
    }
}
