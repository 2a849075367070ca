//! Engine drivers: what runs the workloads, driven from the node's own local socket.

pub mod swarm;

/// What an engine did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("Docker: {doing}")]
    Docker { doing: &'static str, source: bollard::errors::Error },
    #[error("{doing}")]
    Program { doing: String, source: bramble_system::CommandError },
    #[error("{doing}")]
    File { doing: String, source: std::io::Error },
    #[error("the workload is malformed: {0}")]
    Workload(String),
    #[error("Docker answers without {0}")]
    Incomplete(&'static str),
}
