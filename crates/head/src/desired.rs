//! Changing what is kept true: how a snapshot differs from the current one, what a person has to allow, and what
//! follows at once from another one. What has to be kept true is kept so by loops.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bramble_model::desired;
use bramble_model::names::{Digest, Name};
use bramble_model::snapshot::Revision;
use bramble_plan::brake::Change;
use bramble_system::now;

use crate::agents::Agents;
use crate::dhcp::Dhcp;
use crate::snapshots::record::DAY;
use crate::snapshots::{Applied, Current, Follow, Refused, Snapshots};
use crate::timeline::Timeline;
use crate::wires::Wires;

/// The part of the head through which another snapshot becomes current. It knows who holds something of the snapshot.
pub(crate) struct Desired {
    snapshots: Arc<Snapshots>,
    timeline: Arc<Timeline>,
    agents: Arc<Agents>,
    dhcp: Arc<Dhcp>,
    wires: Arc<Wires>,
    /// Where commits are that were fetched.
    fetched: PathBuf,
}

impl Desired {
    pub(crate) fn new(
        snapshots: Arc<Snapshots>,
        timeline: Arc<Timeline>,
        agents: Arc<Agents>,
        dhcp: Arc<Dhcp>,
        wires: Arc<Wires>,
        fetched: PathBuf,
    ) -> Self {
        Desired { snapshots, timeline, agents, dhcp, wires, fetched }
    }

    /// How a snapshot differs from the current one, and what a person has to allow where it came by itself.
    pub(crate) fn weigh(&self, next: &Current, descends: bool) -> (Vec<String>, Vec<String>) {
        let Some(current) = self.snapshots.current() else {
            return (vec!["the first snapshot".into()], Vec::new());
        };
        let holding: BTreeSet<Name> = current.holding_data();
        let removed = self.snapshots.removed_since(now().saturating_sub(DAY));
        let files = current.changed_files(next);
        let volumes = self.snapshots.volumes_before(&current);
        let change = Change {
            from: &current.cluster,
            to: &next.cluster,
            holding: &holding,
            volumes: &volumes,
            removed_lately: removed.as_ref(),
            descends,
            files: &files,
        };
        let mut sentences = change.sentences();
        sentences.extend(current.told(&files, next));
        if sentences.is_empty() {
            sentences.push(said_of_nothing(current.digest == next.digest).into());
        }
        (sentences, change.brake())
    }

    /// As [`Desired::weigh`], of a snapshot that a person names.
    pub(crate) fn weigh_named(&self, next: &Current) -> (Vec<String>, Vec<String>) {
        self.weigh(next, self.descends(next))
    }

    /// Whether a commit descends from the current revision, or nobody can tell that it does not: a folder is no commit,
    /// and one that was never fetched may be of any line. Asks git, beside whoever fetches.
    pub(crate) fn descends(&self, next: &Current) -> bool {
        let commit = |revision: &Revision| revision.commit.as_ref()?.parse().ok();
        let old = self.snapshots.current().and_then(|current| commit(&current.revision));
        let (Some(old), Some(new), false) = (old, commit(&next.revision), next.revision.dirty) else { return true };
        match bramble_source::descends(&self.fetched, &old, &new) {
            Ok(answer) => answer.unwrap_or(true),
            Err(problem) => {
                tracing::warn!(error = bramble_system::sentence(&problem), "two commits cannot be compared");
                false
            }
        }
    }

    /// Makes a snapshot current in somebody's name.
    pub(crate) fn apply(
        &self,
        next: Current,
        expects: Option<Option<Digest>>,
        by: &str,
        follow: Follow,
    ) -> Result<Arc<Current>, Refused> {
        let (changed, _) = self.weigh(&next, true);
        self.apply_weighed(next, changed, expects, by, follow)
    }

    /// As [`Desired::apply`], where it is known what is `changed`.
    pub(crate) fn apply_weighed(
        &self,
        next: Current,
        changed: Vec<String>,
        expects: Option<Option<Digest>>,
        by: &str,
        follow: Follow,
    ) -> Result<Arc<Current>, Refused> {
        let applied = Applied {
            digest: next.digest,
            revision: next.revision.clone(),
            at: now(),
            by: by.to_owned(),
            changed,
            holds: follow.reason(),
            removed: BTreeSet::new(),
        };
        let text = match next.revision.short() {
            Some(revision) => format!("snapshot {} ({revision}) is current, by {by}", next.digest.short()),
            None => format!("snapshot {} is current, by {by}", next.digest.short()),
        };
        let before = self.snapshots.current();
        let current = self.snapshots.make_current(next, expects, applied, follow)?;
        self.timeline.note(&text);
        let known: BTreeSet<(&Name, &str)> = before.iter().flat_map(|before| before.sick()).collect();
        for (name, problem) in current.sick().filter(|sick| !known.contains(sick)) {
            self.timeline.note(&format!("workload {name} is not deployed as this says: {problem}"));
        }
        self.follow(&current);
        Ok(current)
    }

    /// Tells the parts that hold something of the snapshot that there is a new one.
    pub(crate) fn follow(&self, current: &Current) {
        for name in self.timeline.keep_only(current.cluster.nodes.keys()) {
            self.timeline.note_of(&name, "is new in the repository");
        }
        if current.cluster.network != *self.wires.network() {
            self.timeline.note("`[network]` has changed: it takes effect when the head is started again");
        }
        self.dhcp.follow(&current.cluster);
        self.agents.follow(&current.cluster);
    }

    /// What the status says of desired state.
    pub(crate) fn status(&self) -> Option<desired::Desired> {
        let current = self.snapshots.current()?;
        let pointer = self.snapshots.pointer().ok().flatten()?;
        let (at, by) = (pointer.at, pointer.by);
        let held = pointer.held.filter(|_| self.snapshots.may_follow(&current)).map(Into::into);
        Some(desired::Desired { snapshot: current.digest, revision: current.revision.clone(), at, by, held })
    }
}

/// What is said of a snapshot that differs in nothing that has a sentence: every file but bramble.toml has one.
fn said_of_nothing(is_same: bool) -> &'static str {
    if is_same { "no file changes" } else { "bramble.toml changes in nothing that the head uses" }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use bramble_model::snapshot::{Entry, Snapshot};
    use bramble_source::{Credentials, Limits, Settings, Source};
    use bramble_system::Cancel;

    use super::*;
    use crate::agents::tests::parts_of;

    const TOML: &str = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\ndhcp = \"router\"\n";
    const MANAGER: &str = "[roles.m]\nengine = \"manager\"\n[nodes.m1]\nmac = \"52:54:00:00:00:01\"\nrole = \"m\"\n";

    fn git(folder: &Path, words: &[&str]) -> String {
        let named = ["-c", "user.name=Ann", "-c", "user.email=ann@home.arpa"];
        let output = Command::new("git").args(named).args(words).current_dir(folder).output();
        let output = output.expect("git runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Only the brake of the branch said it, and a person who gave the command went on without a word.
    #[test]
    fn of_a_commit_that_a_person_names_it_is_said_that_it_does_not_descend() {
        let folder = tempfile::tempdir().expect("a folder");
        let (pushed, fetched) = (folder.path().join("pushed"), folder.path().join(".bramble/source"));
        std::fs::create_dir(&pushed).expect("made");
        git(&pushed, &["init", "-q", "-b", "main"]);
        std::fs::write(pushed.join("bramble.toml"), TOML).expect("written");
        git(&pushed, &["add", "-A"]);
        let settings = Settings {
            git: pushed.display().to_string().parse().expect("an address"),
            branch: "main".parse().expect("a branch"),
            path: "".parse().expect("a folder"),
            signers: Vec::new(),
            credentials: Credentials::None,
        };
        let commit = |words: &[&str]| {
            git(&pushed, &[&["commit", "-q", "--allow-empty", "-m", "a change"], words].concat());
            git(&pushed, &["rev-parse", "HEAD"])
        };
        let (agents, timeline, snapshots) = parts_of(folder.path(), TOML, bramble_link::session::Limits::USUAL);
        let source = Source::open(&fetched).expect("opens");
        let fetch = || source.fetch(&settings, Limits::default(), &Cancel::default()).map(drop).expect("fetched");
        let first = commit(&[]);
        fetch();
        let second = commit(&[]);
        fetch();
        let other = commit(&["--amend", "-m", "another change"]);
        fetch();
        let current = snapshots.current().expect("there");
        let network = &current.cluster.network;
        let wires = Arc::new(Wires::open(network));
        let none = bramble_store::Store::open(&folder.path().join("none"), 1).expect("opens");
        let dhcp = Arc::new(Dhcp::open("home.arpa", &wires, &none).expect("opens"));
        let desired = Desired::new(Arc::clone(&snapshots), timeline, agents, dhcp, wires, fetched);
        let of = |commit: &str, dirty| {
            let revision = Revision { commit: Some(commit.to_owned()), dirty, ..Revision::default() };
            Current::of(current.digest, current.snapshot.clone(), revision, (*current.cluster).clone())
        };
        let brake = |next: &Current| desired.weigh_named(next).1;
        let none: [String; 0] = [];
        assert_eq!(brake(&of(&other, false)), none, "what is current is of no commit");
        snapshots.revise(of(&second, false)).expect("written");
        assert_eq!(brake(&of(&second, false)), none);
        for next in [&other, &first] {
            let told = brake(&of(next, false));
            assert!(told.len() == 1 && told[0].contains("does not descend"), "{told:?}");
        }
        assert_eq!(brake(&of(&other, true)), none, "a folder is no commit");
        assert_eq!(brake(&of(&"1".repeat(40), false)), none, "one that git does not have may be of anywhere");
        snapshots.revise(of(&first, false)).expect("written");
        assert_eq!(brake(&of(&second, false)), none);
    }

    /// A file that does not check said nothing of volumes: after such a commit, one that takes them out went unasked.
    #[test]
    fn volumes_are_missed_though_a_commit_in_between_did_not_check() {
        let folder = tempfile::tempdir().expect("a folder");
        let shop = |services: &str| std::fs::write(folder.path().join("shop.yaml"), services).expect("written");
        shop("services: { db: { image: a, volumes: ['data:/data'] } }\n");
        let text = format!("{TOML}[workloads.shop]\npath = \"shop.yaml\"\n{MANAGER}");
        let (agents, timeline, snapshots) = parts_of(folder.path(), &text, bramble_link::session::Limits::USUAL);
        let wires = Arc::new(Wires::open(&snapshots.cluster().network));
        let none = bramble_store::Store::open(&folder.path().join("none"), 1).expect("opens");
        let dhcp = Arc::new(Dhcp::open("home.arpa", &wires, &none).expect("opens"));
        let desired =
            Desired::new(Arc::clone(&snapshots), timeline, agents, dhcp, wires, folder.path().join("fetched"));
        let next = || snapshots.first(folder.path(), Revision::default()).expect("it checks").0;
        let taken = || desired.weigh(&next(), true).1;
        let none: [String; 0] = [];
        for torn in ["services: [\n", "services: {\n"] {
            shop(torn);
            assert_eq!(taken(), none, "what does not check stays as it is");
            desired.apply(next(), None, "git", Follow::Came).expect("current");
        }
        shop("services: { db: { image: a } }\n");
        assert_eq!(taken(), ["it takes volumes out of workload shop: data of db"]);
        shop("services: { db: { image: b, volumes: ['data:/data'] } }\n");
        assert_eq!(taken(), none);
        desired.apply(next(), None, "git", Follow::Came).expect("current");
        assert_eq!(taken(), none);
    }

    #[test]
    fn a_file_that_only_one_snapshot_has_is_added_or_removed() {
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";
        let place = std::path::Path::new("/nowhere");
        let cluster = bramble_model::repository::Cluster::parse(place, place, text).expect("valid");
        let of = |files: &[(&str, u8)]| {
            let file = |digest: u8| Entry::File { digest: Digest([digest; 32]), size: 1, executable: false };
            let entries = files.iter().map(|(path, digest)| ((*path).to_owned(), file(*digest))).collect();
            let snapshot = Snapshot { entries };
            Current::of(snapshot.digest(), snapshot, Revision::default(), cluster.clone())
        };
        let (from, to) = (of(&[("gone", 1), ("same", 2), ("other", 3)]), of(&[("same", 2), ("other", 4), ("new", 5)]));
        assert_eq!(from.told(&from.changed_files(&to), &to), ["removes gone", "adds new", "other changes"]);
    }
}
