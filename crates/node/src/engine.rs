//! The engine's driver beside the agent: waits for the daemon, loads what came with the image,
//! and keeps looking.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bramble_engine::swarm::Swarm;
use bramble_model::agent::{Answer, EngineState, Work};
use bramble_model::repository::EnginePart;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

const CONTAINERS: &str = "/usr/share/bramble/containers";
/// How often the daemon is looked at while it changes, and when it rests.
const SOON: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(5);

/// A handle on the driver.
#[derive(Clone)]
pub(crate) struct Engine {
    /// Set once its daemon has started.
    swarm: Arc<OnceLock<Swarm>>,
    state: watch::Sender<EngineState>,
    look: Arc<Notify>,
}

impl Engine {
    /// Does what is asked, and looks at what that has changed before it answers: whoever hears the
    /// answer must not plan with what was before.
    pub(crate) async fn work(&self, work: Work) -> Answer {
        let Some(swarm) = self.swarm.get() else {
            return Answer::Failed { error: "dockerd has not started yet".into() };
        };
        let observing = matches!(work, Work::Observe | Work::JoinTokens);
        let answer = swarm.work(work).await;
        if !observing {
            self.tell(swarm.state().await);
            self.look.notify_one();
        }
        answer
    }

    fn tell(&self, new: EngineState) {
        self.state.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }
}

/// Starts the driver. It tells `state`, and begins when `part` says that the node has one.
pub(crate) fn start(state: watch::Sender<EngineState>, part: watch::Receiver<Option<EnginePart>>) -> Engine {
    let engine = Engine { swarm: Arc::new(OnceLock::new()), state, look: Arc::new(Notify::new()) };
    tokio::spawn(run(engine.clone(), part));
    engine
}

async fn run(engine: Engine, mut part: watch::Receiver<Option<EnginePart>>) {
    let tell = |new: EngineState| engine.tell(new);
    let starting = |waiting_for: &str| EngineState::Starting { waiting_for: waiting_for.to_owned() };
    // Docker starts with the machine; what the image brought can be loaded before the head speaks.
    tell(starting("dockerd to start"));
    let swarm = loop {
        match Swarm::connect().await {
            Some(swarm) => break engine.swarm.get_or_init(|| swarm),
            None => sleep(Duration::from_millis(250)).await,
        }
    };
    for archive in containers() {
        while let Err(error) = swarm.load(&archive).await {
            let error = bramble_system::sentence(&error);
            tracing::error!(archive = %archive.display(), error, "cannot load a container");
            tell(starting(&format!("the container {} to load: {error}", archive.display())));
            sleep(REST).await;
        }
    }
    loop {
        let wanted = *part.borrow_and_update();
        let now = match wanted {
            None => starting("the head to say what this node does"),
            Some(EnginePart::None) => EngineState::None,
            Some(EnginePart::Manager | EnginePart::Worker) => swarm.state().await,
        };
        let resting = matches!(now, EngineState::None | EngineState::Member { reachable: true, .. });
        tell(now);
        tokio::select! {
            changed = part.changed() => if changed.is_err() { return },
            // Woken, or the time is over: either way it looks again.
            _ = timeout(if resting { REST } else { SOON }, engine.look.notified()) => {}
        }
    }
}

/// OCI archives that came with the image, by name.
fn containers() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(CONTAINERS) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
