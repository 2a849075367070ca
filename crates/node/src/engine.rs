//! The engines' drivers beside the agent: each waits for its daemon, loads what came with the image, and keeps looking.
//!
//! ```text
//! head ─▶ Engines::work ─▶ the driver of that engine ─▶ its own socket
//!              guard: whose lead, and does the node see what the plan saw
//! each driver ─▶ one state of all engines ─▶ health
//! ```

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bramble_engine::Engine;
use bramble_engine::parts::parts;
use bramble_engine::swarm::Swarm;
use bramble_model::agent::{Answer, Under, Work};
use bramble_model::engine::{ByEngine, EngineKind, EnginePart, EngineState};
use bramble_model::said::Title;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{sleep, timeout};

use crate::docker;
use crate::guard::{self, Guard};

const CONTAINERS: &str = "/usr/share/bramble/containers";
/// How often the daemon is looked at while it changes, and when it rests.
const SOON: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(5);

/// What the node's role does in each engine; `None` until the head has said it.
pub(crate) type Declared = Option<ByEngine<EnginePart>>;

/// The node's place in each engine that it has a part in.
pub(crate) type States = ByEngine<EngineState>;

/// Where the engines of this program keep what grows.
pub(crate) fn folders() -> impl Iterator<Item = &'static str> {
    EngineKind::ALL.into_iter().flat_map(|kind| parts(kind).data).map(|(_, place)| *place)
}

/// Units that engines of this program begin with, by name.
pub(crate) fn units() -> impl Iterator<Item = &'static str> {
    EngineKind::ALL.into_iter().flat_map(|kind| parts(kind).enabled).map(|(_, unit)| *unit)
}

/// The drivers of this node's engines.
#[derive(Clone)]
pub(crate) struct Engines {
    guard: Arc<Guard>,
    swarm: Driver<Swarm>,
}

impl Engines {
    /// Starts every driver. Each tells its part of `states`, and begins when `declared` says what the node does.
    pub(crate) fn start(states: &watch::Sender<States>, declared: &watch::Receiver<Declared>, guard: Guard) -> Self {
        let guard = Arc::new(guard);
        let swarm = Driver::start(states.clone(), declared.clone(), Arc::clone(&guard));
        Engines { guard, swarm }
    }

    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Does what is asked of one of them.
    pub(crate) async fn work(&self, work: Work, under: Option<Under>) -> Answer {
        let looks = work.only_looks();
        match work {
            Work::Swarm(work) => self.swarm.work(work, looks, under).await,
            Work::Unknown => Answer::CannotDo,
        }
    }
}

#[cfg(test)]
impl Engines {
    /// With this Swarm's daemon, or one that has not started, and nobody who looks for another.
    pub(crate) fn of(swarm: Option<Swarm>, states: watch::Sender<States>, guard: Guard) -> Self {
        let guard = Arc::new(guard);
        let engine = swarm.map_or_else(OnceLock::new, OnceLock::from);
        let (look, turn) = (Arc::new(Notify::new()), Arc::default());
        let swarm = Driver { engine: Arc::new(engine), states, look, guard: Arc::clone(&guard), turn };
        Engines { guard, swarm }
    }
}

/// A handle on the driver of one engine.
struct Driver<E> {
    /// Set once its daemon has started.
    engine: Arc<OnceLock<E>>,
    states: watch::Sender<States>,
    look: Arc<Notify>,
    guard: Arc<Guard>,
    turn: Arc<Mutex<()>>,
}

impl<E> Clone for Driver<E> {
    fn clone(&self) -> Self {
        Driver {
            engine: Arc::clone(&self.engine),
            states: self.states.clone(),
            look: Arc::clone(&self.look),
            guard: Arc::clone(&self.guard),
            turn: Arc::clone(&self.turn),
        }
    }
}

fn starting(waiting_for: impl Into<Title>) -> EngineState {
    EngineState::Starting { waiting_for: waiting_for.into() }
}

impl<E: Engine> Driver<E> {
    fn start(states: watch::Sender<States>, declared: watch::Receiver<Declared>, guard: Arc<Guard>) -> Self {
        let driver = Driver {
            engine: Arc::new(OnceLock::new()),
            states,
            look: Arc::new(Notify::new()),
            guard,
            turn: Arc::default(),
        };
        tokio::spawn(driver.clone().keep(declared));
        driver
    }

    /// Does what is asked, and looks at what that has changed before it answers: whoever hears the
    /// answer must not plan with what was before.
    async fn work(&self, work: E::Work, looks: bool, under: Option<Under>) -> Answer {
        let Some(engine) = self.engine.get() else {
            return Answer::Failed { error: format!("{} has not started yet", E::DAEMON).into() };
        };
        if looks {
            return engine.work(work).await;
        }
        // One change at a time: what is looked at before one is not what another has just changed.
        let _turn = self.turn.lock().await;
        if let Some(under) = &under
            && let Err(why) = self.may(engine, under).await
        {
            return Answer::Refused { why: why.into() };
        }
        let answer = engine.work(work).await;
        self.tell(engine.state().await);
        self.look.notify_one();
        match answer {
            // A head of version 1 knows no refusal.
            Answer::Refused { why } if under.is_none() => Answer::Failed { error: why },
            answer => answer,
        }
    }

    async fn may(&self, engine: &E, under: &Under) -> Result<(), String> {
        self.guard.obey(under)?;
        let Some(expects) = &under.expects else { return Ok(()) };
        let now = engine.sees(expects).await;
        let now =
            now.map_err(|error| format!("what the plan saw cannot be seen: {}", bramble_system::sentence(&error)))?;
        guard::sees(expects, now.as_ref())
    }

    fn tell(&self, new: EngineState) {
        self.states.send_if_modified(|states| {
            let changed = states.of(E::KIND).unwrap_or(&EngineState::None) != &new;
            match new {
                EngineState::None => states.remove(E::KIND),
                new => states.set(E::KIND, new),
            }
            changed
        });
    }

    /// Runs, and again where it ended by an error of bramble's own: that is said, and is no silence.
    async fn keep(self, declared: watch::Receiver<Declared>) {
        loop {
            match tokio::spawn(self.clone().run(declared.clone())).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "an engine's driver ended by an error of bramble's own");
                    self.tell(starting("its driver, which ended by an error of bramble's own"));
                    sleep(REST).await;
                }
            }
        }
    }

    /// Gives the engine what came with the image, and tries until it has it.
    async fn prepare(&self, engine: &E) {
        while let Err(error) = engine.prepare(Path::new(CONTAINERS)).await {
            let error = bramble_system::sentence(&error);
            tracing::error!(error, "what came with the image is not in the engine yet");
            self.tell(starting(format!("what came with the image: {error}")));
            sleep(REST).await;
        }
    }

    async fn run(self, mut declared: watch::Receiver<Declared>) {
        // The daemon starts with the machine; what the image brought can be loaded before the head speaks.
        self.tell(starting(format!("{} to start", E::DAEMON)));
        let engine = loop {
            match E::connect().await {
                Some(engine) => break self.engine.get_or_init(|| engine),
                None => sleep(Duration::from_millis(250)).await,
            }
        };
        let mut prepared = None;
        loop {
            // What is declared was applied before, and Docker started again for it.
            let part = declared.borrow_and_update().as_ref().map(|parts| parts.of(E::KIND).copied());
            let starts = docker::STARTS.load(Ordering::SeqCst);
            if prepared != Some(starts) {
                self.prepare(engine).await;
                prepared = Some(starts);
            }
            let now = match part {
                None => starting("the head to say what this node does"),
                Some(None | Some(EnginePart::None)) => EngineState::None,
                Some(Some(EnginePart::Manager | EnginePart::Worker)) => engine.state().await,
            };
            let resting = matches!(now, EngineState::None | EngineState::Member { reachable: true, .. });
            self.tell(now);
            tokio::select! {
                changed = declared.changed() => if changed.is_err() { return },
                // Woken, or the time is over: either way it looks again.
                _ = timeout(if resting { REST } else { SOON }, self.look.notified()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use bramble_engine::Error;
    use bramble_model::agent::Expects;
    use bramble_model::agent::swarm::Label;
    use rcgen::{KeyPair, PublicKeyData};

    use super::*;
    use crate::guard::tests::{signed, under};
    use crate::trust::Trust;

    static STARTS: AtomicU32 = AtomicU32::new(0);
    static PREPARED: AtomicU32 = AtomicU32::new(0);

    /// An engine that counts what came with the image.
    struct Loading;

    impl Engine for Loading {
        const KIND: EngineKind = EngineKind::Swarm;
        const DAEMON: &'static str = "loadingd";
        type Work = ();

        async fn connect() -> Option<Self> {
            Some(Loading)
        }

        async fn prepare(&self, _: &Path) -> Result<(), Error> {
            PREPARED.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }

        async fn state(&self) -> EngineState {
            EngineState::Alone
        }

        async fn sees(&self, _: &Expects) -> Result<Option<Expects>, Error> {
            Ok(None)
        }

        async fn work(&self, (): ()) -> Answer {
            Answer::Done
        }
    }

    #[tokio::test]
    async fn a_docker_that_was_started_again_in_another_folder_gets_what_came_with_the_image_again() {
        let (states, mut seen) = watch::channel(States::default());
        let worker: ByEngine<EnginePart> = [(EngineKind::Swarm, EnginePart::Worker)].into_iter().collect();
        let (parts, declared) = watch::channel(None);
        let folder = tempfile::tempdir().expect("a folder");
        let guard = Arc::new(Guard::at(&folder.path().join("lead.json"), Trust::in_keys(&[])));
        let _driver: Driver<Loading> = Driver::start(states, declared, guard);
        let waits = |states: &States| {
            let state = states.of(EngineKind::Swarm);
            matches!(state, Some(EngineState::Starting { waiting_for }) if waiting_for.starts_with("the head"))
        };
        seen.wait_for(waits).await.expect("the driver is there");
        let before = PREPARED.load(Ordering::SeqCst);
        docker::STARTS.fetch_add(1, Ordering::SeqCst);
        parts.send_replace(Some(worker));
        seen.wait_for(|states| states.of(EngineKind::Swarm) == Some(&EngineState::Alone)).await.expect("it is there");
        assert!(before > 0 && PREPARED.load(Ordering::SeqCst) > before);
    }

    /// An engine whose first start ends the driver.
    struct Fragile;

    impl Engine for Fragile {
        const KIND: EngineKind = EngineKind::Swarm;
        const DAEMON: &'static str = "fragiled";
        type Work = ();

        async fn connect() -> Option<Self> {
            assert!(STARTS.fetch_add(1, Ordering::SeqCst) > 0, "the first start ends the driver, on purpose");
            Some(Fragile)
        }

        async fn prepare(&self, _: &Path) -> Result<(), Error> {
            Ok(())
        }

        async fn state(&self) -> EngineState {
            EngineState::Alone
        }

        async fn sees(&self, _: &Expects) -> Result<Option<Expects>, Error> {
            Ok(None)
        }

        async fn work(&self, (): ()) -> Answer {
            Answer::Done
        }
    }

    fn label(text: &str) -> Label {
        Label::from(text.to_owned())
    }

    /// An engine that is in its place, and counts what it does.
    struct Counting(Arc<AtomicU32>);

    impl Engine for Counting {
        const KIND: EngineKind = EngineKind::Swarm;
        const DAEMON: &'static str = "countingd";
        type Work = ();

        async fn connect() -> Option<Self> {
            None
        }

        async fn prepare(&self, _: &Path) -> Result<(), Error> {
            Ok(())
        }

        async fn state(&self) -> EngineState {
            EngineState::Alone
        }

        async fn sees(&self, expects: &Expects) -> Result<Option<Expects>, Error> {
            Ok(Some(match expects {
                Expects::Generation { workload, .. } => {
                    let (workload, generation) = (workload.clone(), Some(label("b")));
                    Expects::Generation { workload, generation, several: Some(false) }
                }
                _ => Expects::Engine { state: self.state().await },
            }))
        }

        async fn work(&self, (): ()) -> Answer {
            self.0.fetch_add(1, Ordering::SeqCst);
            Answer::Done
        }
    }

    #[tokio::test]
    async fn a_driver_does_nothing_for_an_older_lead_or_for_what_it_does_not_see() {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = KeyPair::generate().expect("a key");
        let guard = Arc::new(Guard::at(&folder.path().join("lead.json"), Trust::in_keys(&[ca.der_bytes()])));
        let done = Arc::new(AtomicU32::new(0));
        let driver = Driver {
            engine: Arc::new(OnceLock::from(Counting(Arc::clone(&done)))),
            states: watch::channel(States::default()).0,
            look: Arc::default(),
            guard: Arc::clone(&guard),
            turn: Arc::default(),
        };
        let expects = |expects| Under { expects: Some(expects), ..under(100, 5) };
        let generation = |generation: &str| {
            let (workload, generation) = ("web".parse().expect("a name"), Some(label(generation)));
            expects(Expects::Generation { workload, generation, several: Some(false) })
        };
        let starting = || expects(Expects::Engine { state: starting("a time") });
        let alone = || expects(Expects::Engine { state: EngineState::Alone });
        guard.learn(Some(&signed(&ca, 100))).expect("signed");
        for (under, word) in [
            (under(100, 5), None),
            (under(100, 4), Some("lead 4")),
            (under(99, 9), Some("life 99")),
            (starting(), Some("its place in the engine")),
            (alone(), None),
            (generation("a"), Some("the workload")),
            (generation("b"), None),
        ] {
            let before = done.load(Ordering::SeqCst);
            let answer = driver.work((), false, Some(under)).await;
            let effects = done.load(Ordering::SeqCst) - before;
            match (answer, word) {
                (Answer::Done, None) => assert_eq!(effects, 1),
                (Answer::Refused { why }, Some(word)) => assert!(why.contains(word) && effects == 0, "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Fault 13 of the ground: a driver that ended said nothing, and the node stayed as it was last seen.
    #[tokio::test]
    async fn a_driver_that_ends_says_so_and_begins_again() {
        let (states, mut seen) = watch::channel(States::default());
        let declared: ByEngine<EnginePart> = [(EngineKind::Swarm, EnginePart::Worker)].into_iter().collect();
        let (_parts, declared) = watch::channel(Some(declared));
        let folder = tempfile::tempdir().expect("a folder");
        let guard = Arc::new(Guard::at(&folder.path().join("lead.json"), Trust::in_keys(&[])));
        let driver: Driver<Fragile> = Driver::start(states, declared, guard);
        let waits = |states: &States| {
            let state = states.of(EngineKind::Swarm);
            matches!(state, Some(EngineState::Starting { waiting_for }) if waiting_for.starts_with("its driver"))
        };
        seen.wait_for(waits).await.expect("the driver is there");
        seen.wait_for(|states| states.of(EngineKind::Swarm) == Some(&EngineState::Alone)).await.expect("it is there");
        assert_eq!(driver.work((), false, None).await, Answer::Done);
    }
}
