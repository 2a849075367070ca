//! The wiring: the only place that knows every part of the head, and what each is handed.
//!
//! ```text
//! store, shelf ─▶ snapshots ─▶ authority, timeline ─▶ nodes, strangers ─▶ boots, agents ─▶ desired ─▶ loops
//!                                                                 └─▶ access, power, backups ─┴─▶ overview
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRef;
use bramble_image::Shelf;
use bramble_model::repository::{Cluster, Source};
use bramble_model::snapshot::Revision;
use bramble_netboot::away::Counts;
use bramble_plan::swarm::Memory;
use bramble_store::{Record, Store, View};
use bramble_system::now;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::access::people::{Tokens, Users};
use crate::admissions::Admissions;
use crate::adoptions::Adoptions;
use crate::agents::Agents;
use crate::backup::Backups;
use crate::beginning::Beginning;
use crate::boot_sets::BootSets;
use crate::boots::own::loaders;
use crate::boots::{Around, Boots};
use crate::ca::{self, Authority, Home};
use crate::descriptors::Descriptors;
use crate::desired::Desired;
use crate::dhcp::{self, Dhcp};
use crate::error::Error;
use crate::host_ca::HostAuthority;
use crate::loops::Sections;
use crate::loops::all::{Loops, Subjects};
use crate::loops::source::{self, Following};
use crate::neighbours::Neighbours;
use crate::nodes::Nodes;
use crate::overview::Overview;
use crate::power::Power;
use crate::rotation::Rotating;
use crate::snapshots::{Current, Held, Snapshots};
use crate::store::STORE;
use crate::strangers::Strangers;
use crate::swarm::Swarm;
use crate::timeline::{self, Events, Timeline};
use crate::unreadable::Waiting;
use crate::wires::Wires;
use crate::{backup, closed, membership, store};

/// What a head needs to start.
pub struct Settings {
    /// The repository's folder, from which the first snapshot is read where the head has none. Secrets and backups
    /// that the repository names beside itself are looked for here, too.
    pub home: PathBuf,
    /// Which commit the folder is at, as far as git knows.
    pub revision: Revision,
    /// Apply the folder at the start, even where there is a snapshot: for labs.
    pub apply: bool,
    /// Where the store, the CA and the control socket are.
    pub state: PathBuf,
    pub shelf: Shelf,
    /// The lab's control socket, where the nodes are virtual machines.
    pub lab: Option<PathBuf>,
}

/// Makes the struct of the parts, and each of them out of it.
macro_rules! parts {
    ($($name:ident: $part:ty,)*) => {
        /// The parts of a running head. Whatever answers a request is handed those that it names, and no others.
        #[derive(Clone)]
        pub(crate) struct Parts {
            $(pub(crate) $name: $part,)*
        }

        $(impl FromRef<Parts> for $part {
            fn from_ref(parts: &Parts) -> Self {
                parts.$name.clone()
            }
        })*
    };
}

parts! {
    store: Store,
    timeline: Arc<Timeline>,
    authority: Arc<Authority>,
    hosts: Arc<HostAuthority>,
    wires: Arc<Wires>,
    dhcp: Arc<Dhcp>,
    snapshots: Arc<Snapshots>,
    strangers: Arc<Strangers>,
    adoptions: Arc<Adoptions>,
    boots: Arc<Boots>,
    boot_sets: Arc<BootSets>,
    agents: Arc<Agents>,
    swarm: Arc<Swarm>,
    desired: Arc<Desired>,
    following: Arc<Following>,
    sections: Arc<Sections>,
    loops: Arc<Loops>,
    access: Arc<Access>,
    power: Arc<Power>,
    backups: Arc<Backups>,
    rotating: Arc<Rotating>,
    waiting: Arc<Waiting>,
    turned_away: Arc<Counts>,
    overview: Arc<Overview>,
    descriptors: Arc<Descriptors>,
}

impl Parts {
    /// Opens every part, and hands each what it needs. Gives the snapshot to begin with, too.
    ///
    /// # Errors
    /// When a part cannot be opened.
    pub(crate) async fn open(settings: Settings, stop: &CancellationToken) -> Result<(Self, Arc<Current>), Error> {
        let Settings { home, revision, apply, state, shelf, lab } = settings;
        bramble_system::files::make_folder(&state).map_err(Error::file("cannot make the folder", &state))?;
        if backup::go_on(&state).map_err(|error| Error::Restoring(Box::new(error)))? {
            tracing::warn!("a restore that was cut off is finished");
        }
        closed::close(&state);
        let store = store::open(&state)?;
        let keys = state.join("keys");
        if !ca::is_there(&keys)? {
            has_had_no_keys(&store, &state)?;
        }
        let snapshots = Arc::new(Snapshots::open(&state, &home, shelf.clone(), store.clone())?);
        source::sweep(&state);
        let following = Arc::new(Following::new(&state, store.clone()));
        let folder = Folder { home: &home, revision };
        let first = match snapshots.current() {
            Some(current) if !apply => alone(current).await?,
            Some(current) => match first_snapshot(&state, folder, &snapshots, &following, stop).await {
                // Boots go on with what there is.
                Err(error) if error.is_not_lasting() => {
                    tracing::error!(error = bramble_system::sentence(&error), "the folder is not applied");
                    alone(current).await?
                }
                first => first?,
            },
            None => {
                let first = first_snapshot(&state, folder, &snapshots, &following, stop).await;
                first.map_err(|error| match snapshots.lost() {
                    Some(reason) => Error::Lost { reason, source: Box::new(error) },
                    None => error,
                })?
            }
        };
        keep_the_folder(&snapshots, apply, &home, &first);
        let cluster = Arc::clone(&first.cluster);
        let descriptors = Arc::new(Descriptors::open(cluster.nodes.len()));
        let wires = Arc::new(Wires::open(&cluster.network));
        wires.problems().iter().for_each(|problem| tracing::error!(problem, "a wire is not served"));
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), format!("head.{}", cluster.domain)];
        names.extend(wires.interfaces().iter().map(|interface| interface.address.to_string()));
        let hosts = Arc::new(HostAuthority::open(&keys));
        let authority = Arc::new(Authority::open_for(&keys, home_of(&cluster, &wires), names)?);
        if ca::first_store(&keys)? {
            first_of_its_ca(&store, &keys)?;
        }
        ca::keep_life(&keys, store.blocking().life()?);
        let last_event = timeline::last_number(&store)?;
        let (waiting, set_aside) = Waiting::find(&store)?;
        let waiting = Arc::new(waiting);
        let timeline = Arc::new(Timeline::open(store.clone(), &cluster, last_event)?);
        set_aside.iter().for_each(|note| timeline.note(note));
        let dhcp = Arc::new(Dhcp::open(&cluster.domain, &wires, &store)?);
        let strangers = Arc::new(Strangers::open(store.clone(), Arc::clone(&timeline))?);
        let adoptions = Arc::new(Adoptions::open(store.clone())?);
        let nodes = Nodes::new(Arc::clone(&snapshots), Arc::clone(&adoptions));
        let neighbours = Arc::<Neighbours>::default();
        let agents = Arc::new(Agents::open(
            nodes.clone(),
            Arc::clone(&neighbours),
            Arc::clone(&timeline),
            store.clone(),
            Arc::clone(&authority),
            Arc::clone(&hosts),
        )?);
        let swarm = Arc::new(Swarm::open(store.clone()));
        let boot_sets = Arc::new(BootSets::open(store.clone(), shelf.clone()));
        let around = Around {
            wires: Arc::clone(&wires),
            nodes: nodes.clone(),
            neighbours,
            strangers: Arc::clone(&strangers),
            adoptions: Arc::clone(&adoptions),
            timeline: Arc::clone(&timeline),
            boot_sets: Arc::clone(&boot_sets),
        };
        let boots = Arc::new(Boots::open(around, shelf.clone(), &store, loaders()?)?);
        let desired = Arc::new(Desired::new(
            Arc::clone(&snapshots),
            Arc::clone(&timeline),
            Arc::clone(&agents),
            Arc::clone(&dhcp),
            Arc::clone(&wires),
            source::folder(&state),
        ));
        let access = Arc::new(Access::open(store.clone(), Arc::clone(&snapshots), cluster.network.https_port)?);
        let power = Arc::new(Power::new(lab, Arc::clone(&wires), nodes, store.clone(), Arc::clone(&timeline)));
        let rotating = Arc::new(Rotating {
            state: state.clone(),
            authority: Arc::clone(&authority),
            agents: Arc::clone(&agents),
            boot_sets: Arc::clone(&boot_sets),
            snapshots: Arc::clone(&snapshots),
            store: store.clone(),
            timeline: Arc::clone(&timeline),
        });
        let backups = Arc::new(Backups::new(
            state,
            store.clone(),
            Arc::clone(&snapshots),
            Arc::clone(&timeline),
            Arc::clone(&authority),
        ));
        let sections = Arc::<Sections>::default();
        let loops = Arc::new(Loops::of(Subjects {
            store: store.clone(),
            boot_sets: Arc::clone(&boot_sets),
            timeline: Arc::clone(&timeline),
            snapshots: Arc::clone(&snapshots),
            following: Arc::clone(&following),
            desired: Arc::clone(&desired),
            agents: Arc::clone(&agents),
            swarm: Arc::clone(&swarm),
            strangers: Arc::clone(&strangers),
            adoptions: Arc::clone(&adoptions),
            backups: Arc::clone(&backups),
            rotating: Arc::clone(&rotating),
            sections: Arc::clone(&sections),
        }));
        let turned_away = Arc::<Counts>::default();
        let overview = Arc::new(Overview {
            store: store.clone(),
            admissions: View::new(store.clone()),
            waiting_keys: View::new(store.clone()),
            boot_sets: Arc::clone(&boot_sets),
            timeline: Arc::clone(&timeline),
            authority: Arc::clone(&authority),
            snapshots: Arc::clone(&snapshots),
            desired: Arc::clone(&desired),
            wires: Arc::clone(&wires),
            strangers: Arc::clone(&strangers),
            waiting: Arc::clone(&waiting),
            turned_away: Arc::clone(&turned_away),
            sections: Arc::clone(&sections),
            swarm: Arc::clone(&swarm),
            copies: Arc::clone(&access.copies),
            rotating: Arc::clone(&rotating),
            descriptors: Arc::clone(&descriptors),
        });
        let parts = Parts {
            store,
            timeline,
            authority,
            hosts,
            wires,
            dhcp,
            snapshots,
            strangers,
            adoptions,
            boots,
            boot_sets,
            agents,
            swarm,
            desired,
            following,
            sections,
            loops,
            access,
            power,
            backups,
            rotating,
            waiting,
            turned_away,
            overview,
            descriptors,
        };
        Ok((parts, first))
    }
}

/// Whose CA it is, where one is made.
pub(crate) fn home_of(cluster: &Cluster, wires: &Wires) -> Home {
    let addresses = wires.interfaces().iter().map(|interface| interface.address.into()).collect();
    Home { domain: cluster.domain.clone(), addresses }
}

/// With a CA that has had no store before this one, there has never been a Swarm.
fn first_of_its_ca(store: &Store, keys: &Path) -> Result<(), Error> {
    let begun = membership::change_swarm(store, |record| {
        if record.memory == Memory::Lost {
            record.memory = Memory::Never;
        }
    });
    match begun {
        Ok(()) => ca::has_store(keys),
        // The next start says it.
        Err(error) if error.is_not_lasting() => {
            tracing::error!(error = bramble_system::sentence(&error), "no Swarm can be begun");
            Ok(())
        }
        // There was a word of one: once it is repaired nobody may say that there has never been any.
        Err(error) if error.is_unreadable() => {
            tracing::error!(error = bramble_system::sentence(&error), "no Swarm can be begun");
            ca::has_store(keys)
        }
        Err(error) => Err(error),
    }
}

/// Whether a head has kept what only one with a CA makes. A store is made before that: by `source set` and `image use`.
fn knows_a_ca(store: &Store) -> Result<bool, Error> {
    for table in [Admissions::TABLE, Users::TABLE, Tokens::TABLE, Events::TABLE] {
        if !store.blocking().last(table, 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a CA may be made for the head of this store, which has none.
///
/// # Errors
/// [`Error::NoKeys`] where that head has had one.
pub(crate) fn has_had_no_keys(store: &Store, state: &Path) -> Result<(), Error> {
    if knows_a_ca(store)? {
        return Err(Error::NoKeys { store: state.join(STORE), ca: ca::certificate(&state.join("keys")) });
    }
    Ok(())
}

/// How often a repository is tried again that a new head cannot fetch.
const FETCH: Duration = Duration::from_secs(10);

/// Whether a head can serve what this snapshot says of its network: one that it cannot begin with is not kept, or the
/// head would go on with it when it has been corrected.
async fn serves(next: &Current) -> Result<(), Error> {
    dhcp::is_alone(&Wires::whole(&next.cluster.network)?).await
}

/// A snapshot that the head has served before: a wire of it that is missing comes later, and another DHCP server beside
/// it is none of its own.
async fn alone(current: Arc<Current>) -> Result<Arc<Current>, Error> {
    dhcp::is_alone(&Wires::open(&current.cluster.network)).await?;
    Ok(current)
}

/// A lab tries its folder, and not what git has, until a person follows git there.
fn keep_the_folder(snapshots: &Snapshots, is_lab: bool, home: &Path, first: &Current) {
    if !is_lab || !Cluster::is_in(home) || !snapshots.may_follow(first) {
        return;
    }
    let reason = "the lab applies the folder that it is given".to_owned();
    let held = Held { since: now(), by: "the lab".into(), reason };
    if let Err(error) = snapshots.hold(Some(&held)) {
        // Where this cannot be written, no snapshot can become current either.
        tracing::error!(error = bramble_system::sentence(&error), "following git cannot be held");
    }
}

/// The repository's folder beside the head.
struct Folder<'a> {
    home: &'a Path,
    revision: Revision,
}

/// The first snapshot: of the head's own folder where that has a repository, else of the git repository with which
/// the head was begun, tried until it is there.
async fn first_snapshot(
    state: &Path,
    Folder { home, revision }: Folder<'_>,
    snapshots: &Arc<Snapshots>,
    following: &Arc<Following>,
    stop: &CancellationToken,
) -> Result<Arc<Current>, Error> {
    let source = if Cluster::is_in(home) { None } else { snapshots.begun_with()? };
    let Some(source) = &source else {
        let (next, applied) = snapshots.first(home, revision)?;
        serves(&next).await?;
        return snapshots.begin(next, applied);
    };
    let beginning = Beginning::serve(state, following, source);
    let fetched = fetched(source, snapshots, following, stop, &beginning).await;
    beginning.end().await;
    fetched
}

/// What the repository says, tried until it can be had.
async fn fetched(
    source: &Source,
    snapshots: &Arc<Snapshots>,
    following: &Arc<Following>,
    stop: &CancellationToken,
    beginning: &Beginning,
) -> Result<Arc<Current>, Error> {
    loop {
        let (having, asking, source) = (Arc::clone(snapshots), Arc::clone(following), source.clone());
        let mut fetching = tokio::task::spawn_blocking(move || source::first_of(&asking, &having, &source));
        let fetched = tokio::select! {
            fetched = &mut fetching => fetched,
            () = stop.cancelled() => {
                following.end();
                fetching.await
            }
        };
        let begun = match fetched.map_err(|error| Error::Part(error.to_string()))? {
            Ok((next, applied)) => serves(&next).await.and_then(|()| snapshots.begin(next, applied)),
            Err(error) => Err(error),
        };
        match begun {
            Ok(current) => return Ok(current),
            Err(_) if stop.is_cancelled() => {
                return Err(Error::Snapshot("the head was ended before it had one".into()));
            }
            Err(error) => {
                let why = bramble_system::sentence(&error);
                tracing::error!(error = why, "the repository cannot be fetched yet");
                let why = snapshots.lost().map_or_else(|| why.clone(), |lost| format!("{why}. {lost}"));
                beginning.waits(why);
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(FETCH) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let home = tempfile::tempdir().expect("a folder");
        let text = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n";
        std::fs::write(home.path().join("bramble.toml"), text).expect("written");
        Cluster::of_folder(home.path()).expect("a repository")
    }

    #[tokio::test]
    async fn no_new_ca_is_made_for_a_store_that_knows_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join(".bramble");
        std::fs::create_dir(&state).expect("a folder");
        let store = store::open(&state).expect("made");
        let source = bramble_model::repository::Source {
            git: "/srv/home.git".into(),
            branch: "main".into(),
            every: 30,
            path: String::new(),
            signers: Vec::new(),
            token_file: None,
        };
        crate::snapshots::record::begin_with(&store, &source).expect("written");
        assert!(!knows_a_ca(&store).expect("read"), "`source set` comes before the first start");
        let write = bramble_store::Write::Put { table: Users::TABLE, key: "ann".into(), bytes: b"1 {}".to_vec() };
        store.blocking().commit(&[], &[write]).expect("written");
        drop(store);
        let built = crate::authority(&state, &cluster()).map(drop);
        assert!(matches!(built, Err(Error::NoKeys { .. })), "who builds images beside it makes none either");
        let shelf = Shelf::open(state.join("image")).expect("a shelf");
        let home = folder.path().to_owned();
        let settings =
            Settings { home, revision: Revision::default(), apply: false, state: state.clone(), shelf, lab: None };
        let Err(error) = Parts::open(settings, &CancellationToken::new()).await else { panic!("it started") };
        assert!(matches!(error, Error::NoKeys { .. }), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("bramble restore")), "{error}");
        assert!(!state.join("keys").exists(), "nothing was made");
    }

    #[test]
    fn a_torn_record_of_the_swarm_ends_no_start_and_is_no_word_that_there_was_never_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, keys) = (folder.path(), folder.path().join("keys"));
        drop(Authority::open(&keys).expect("made"));
        assert!(ca::first_store(&keys).expect("looked"));
        {
            let store = store::open(state).expect("made");
            let (table, key) = (membership::Engines::TABLE, membership::SWARM.into());
            let torn = bramble_store::Write::Put { table, key, bytes: b"1 {torn".to_vec() };
            store.blocking().commit(&[], &[torn]).expect("written");
            first_of_its_ca(&store, &keys).expect("the head starts");
            assert!(!ca::first_store(&keys).expect("looked"));
        }
        assert_eq!(crate::unreadable::repair_of(state).expect("repaired").records, 1);
        let store = store::open(state).expect("opens");
        assert_eq!(membership::swarm(&store).expect("read").memory, Memory::Lost, "one may live");
    }

    #[tokio::test]
    async fn a_repository_to_begin_with_that_cannot_be_read_is_not_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, home) = (folder.path().join(".bramble"), folder.path().join("home"));
        for folder in [&state, &home] {
            std::fs::create_dir(folder).expect("a folder");
        }
        {
            let store = store::open(&state).expect("made");
            let (table, key) = (crate::snapshots::record::BegunWith::TABLE, "source".into());
            let torn = bramble_store::Write::Put { table, key, bytes: b"1 {torn".to_vec() };
            store.blocking().commit(&[], &[torn]).expect("written");
        }
        let shelf = Shelf::open(state.join("image")).expect("a shelf");
        let settings = Settings { home, revision: Revision::default(), apply: false, state, shelf, lab: None };
        let Err(error) = Parts::open(settings, &CancellationToken::new()).await else { panic!("it started") };
        let told = bramble_system::sentence(&error);
        assert!(told.contains("the repository of source cannot be read") && told.contains("store repair"), "{told}");
    }

    /// A line of HTTP's answer, and its body, of a head on its control socket.
    async fn asked(state: &Path, path: &str) -> std::io::Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::UnixStream::connect(state.join("head.sock")).await?;
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: head\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[test]
    fn a_lab_keeps_the_folder_that_it_was_given_whatever_git_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path();
        let toml = "[cluster]\nname = \"c\"\n[network]\ninterface = \"lo\"\n[source]\ngit = \"/srv/home.git\"\n";
        let (_, snapshots, first) = crate::snapshots::tests::begun(home, toml);
        let held = || snapshots.pointer().expect("read").expect("there").held;
        keep_the_folder(&snapshots, false, home, &first);
        assert_eq!(held(), None, "a head follows what its folder names");
        keep_the_folder(&snapshots, true, home, &first);
        let held = held().expect("it is held");
        assert_eq!(
            (held.by.as_str(), held.reason.as_str()),
            ("the lab", "the lab applies the folder that it is given")
        );
    }

    #[tokio::test]
    async fn a_head_whose_repository_does_not_come_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join(".bramble");
        std::fs::create_dir(&state).expect("a folder");
        let away = folder.path().join("away.git");
        let source = Source {
            git: away.display().to_string(),
            branch: "main".into(),
            every: 30,
            path: String::new(),
            signers: Vec::new(),
            token_file: None,
        };
        crate::begin_with(&state, &source).expect("begun");
        let (home, shelf) = (folder.path().join("home"), Shelf::open(state.join("image")).expect("a shelf"));
        std::fs::create_dir(&home).expect("a folder");
        let settings =
            Settings { home, revision: Revision::default(), apply: false, state: state.clone(), shelf, lab: None };
        let stop = CancellationToken::new();
        let opening = tokio::spawn({
            let stop = stop.clone();
            async move { Parts::open(settings, &stop).await.map(drop) }
        });
        let answer = loop {
            match asked(&state, "/v1/status").await {
                Ok(answer) if answer.contains("away.git") => break answer,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("has no snapshot of a repository yet"), "{answer}");
        let key = asked(&state, "/v1/source/key").await.expect("it answers");
        assert!(key.starts_with("HTTP/1.1 200 ") && key.contains("ssh-ed25519 "), "{key}");
        stop.cancel();
        let ended = opening.await.expect("no panic");
        assert!(ended.is_err_and(|error| error.to_string().contains("was ended")));
        assert!(!state.join("head.sock").exists(), "the next head makes its own");
    }
}
