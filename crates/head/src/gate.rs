//! Connections that are accepted: each ends alone. And how many are held, in all and from one address: what one machine
//! opens and leaves must not keep out the others.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_system::locked;
use tokio::task::JoinSet;

/// Connections that a listener holds.
pub(crate) struct Gate {
    held: Mutex<Held>,
    most: usize,
    most_of_one: usize,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection that was let in. Dropped, it is counted no more.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    from: IpAddr,
}

impl Gate {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Gate { held: Mutex::default(), most, most_of_one })
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        locked(&self.held)
    }

    /// Lets a connection in; `None` where there are too many.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Pass> {
        let mut held = self.held();
        let own = held.by_address.get(&from).copied().unwrap_or(0);
        if held.all >= self.most || own >= self.most_of_one {
            return None;
        }
        held.all += 1;
        held.by_address.insert(from, own + 1);
        Some(Pass { gate: Arc::clone(self), from })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut held = self.gate.held();
        held.all -= 1;
        if let Some(own) = held.by_address.get_mut(&self.from) {
            *own -= 1;
            if *own == 0 {
                held.by_address.remove(&self.from);
            }
        }
    }
}

/// Accepts for ever, and has each connection handled beside the others; a panic of one is logged.
pub(crate) async fn accept<S, A, W>(
    accepting: impl Fn() -> A,
    handle: impl Fn(S) -> Option<W>,
) -> std::convert::Infallible
where
    A: Future<Output = io::Result<S>>,
    W: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                // It ends that connection, and no other: whoever asked may ask again.
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection ended by an error of bramble's own");
                }
                continue;
            }
            accepted = accepting() => accepted,
        };
        match accepted {
            Ok(stream) => {
                if let Some(work) = handle(stream) {
                    connections.spawn(work);
                }
            }
            // Out of file descriptors, say: the next one may work.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all() {
        let gate = Gate::new(3, 2);
        let at = |last| IpAddr::from([10, 0, 0, last]);
        let first = gate.enter(at(1)).expect("room");
        let _second = gate.enter(at(1)).expect("room");
        assert!(gate.enter(at(1)).is_none(), "two of one address");
        let _third = gate.enter(at(2)).expect("room for another");
        assert!(gate.enter(at(3)).is_none(), "three in all");
        drop(first);
        assert!(gate.enter(at(1)).is_some());
    }
}
