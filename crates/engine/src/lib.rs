//! Engines: what runs the workloads, driven from the node's own local socket, and what each needs in an image.
//!
//! All that is one engine's is in a folder of its own; `docs/engines.md` says what another one takes.

pub mod parts;
pub mod swarm;

use std::future::Future;
use std::path::{Path, PathBuf};

use bramble_model::agent::{Answer, Expects};
use bramble_model::engine::{EngineKind, EngineState};

/// What an engine did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    Program { doing: String, source: bramble_system::CommandError },
    #[error("{doing}")]
    File { doing: String, source: std::io::Error },
    #[error("the workload is malformed: {0}")]
    Workload(String),
    #[error("the container {archive} does not load")]
    Container { archive: PathBuf, source: Box<Error> },
    #[error(transparent)]
    Swarm(#[from] swarm::Error),
}

/// An engine, driven beside its own daemon on one node. A driver keeps no state: it asks the daemon what is, and each
/// action can be repeated.
pub trait Engine: Send + Sync + Sized + 'static {
    const KIND: EngineKind;
    /// The program that has to be up, as people know it.
    const DAEMON: &'static str;
    /// The questions of this engine alone.
    type Work: Send;

    /// A driver for the node's daemon, once that answers.
    fn connect() -> impl Future<Output = Option<Self>> + Send;

    /// Brings what lies in the image's folder of containers into the engine. Doing it again changes nothing.
    ///
    /// # Errors
    /// The first that does not load.
    fn prepare(&self, containers: &Path) -> impl Future<Output = Result<(), Error>> + Send;

    /// The node's place in the engine, as its own daemon sees it: asked often, so asked cheaply.
    fn state(&self) -> impl Future<Output = EngineState> + Send;

    /// What a plan saw, as it is now; `None` where it is not there any more.
    ///
    /// # Errors
    /// When the engine cannot say.
    fn sees(&self, expects: &Expects) -> impl Future<Output = Result<Option<Expects>, Error>> + Send;

    /// Does what the head asks.
    fn work(&self, work: Self::Work) -> impl Future<Output = Answer> + Send;
}
