//! Connections that are accepted: each ends alone. And how many are held, in all and from one address: what one machine
//! opens and leaves must not keep out the others.

mod room;

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_system::{locked, now};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use room::{Entered, Id, Room};

/// Connections that a listener holds.
pub(crate) struct Gate(Mutex<Room<CancellationToken>>);

/// A connection that was let in. Dropped, it is counted no more.
pub(crate) struct Pass {
    gate: Arc<Gate>,
    id: Id,
    goes: CancellationToken,
}

/// A connection says something, until this is dropped.
pub(crate) struct Speaks(Arc<Pass>);

/// A connection that is served, also where that goes on after its request: a WebSocket. Whoever has one of these keeps it
/// counted.
#[derive(Clone)]
pub(crate) struct Held(Arc<Speaks>);

/// How long a connection is held: until another one needs its room.
pub(crate) struct Stay(CancellationToken);

impl Gate {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Gate(Mutex::new(Room::new(most, most_of_one))))
    }

    /// As many as that may be held from now on, of one address and in all; those that are too many and say nothing go.
    pub(crate) fn resize(&self, most: usize, most_of_one: usize) {
        let gone = locked(&self.0).resize(most, most_of_one);
        gone.iter().for_each(CancellationToken::cancel);
    }

    /// Lets a connection in; another one goes for it where there are too many. `None` where none has to.
    pub(crate) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Arc<Pass>> {
        let goes = CancellationToken::new();
        let Entered { id, goes: other } = locked(&self.0).enter(from, goes.clone(), now())?;
        if let Some(other) = other {
            other.cancel();
        }
        Some(Arc::new(Pass { gate: Arc::clone(self), id, goes }))
    }
}

impl Pass {
    /// It has said what it wants, and is served until what is given is dropped; `None` where it has gone for another one.
    pub(crate) fn speaks(self: &Arc<Self>) -> Option<Speaks> {
        locked(&self.gate.0).speaks(self.id).then(|| Speaks(Arc::clone(self)))
    }

    pub(crate) fn stay(&self) -> Stay {
        Stay(self.goes.clone())
    }
}

impl Held {
    pub(crate) fn new(speaks: Speaks) -> Self {
        Held(Arc::new(speaks))
    }

    /// Does what the connection is for, unless it has to go for another one meanwhile.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.0.0.stay().during(work).await
    }
}

impl Stay {
    /// Does the connection's work, unless it has to go for another one meanwhile.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            // Whoever has said something by now is served.
            biased;
            done = work => Some(done),
            () = self.0.cancelled() => None,
        }
    }
}

impl Drop for Speaks {
    fn drop(&mut self) {
        let Pass { gate, id, .. } = &*self.0;
        locked(&gate.0).is_silent(*id, now());
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        locked(&self.gate.0).leave(self.id);
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

    #[tokio::test]
    async fn a_gate_that_gets_narrower_lets_go_of_the_silent_and_of_nobody_who_is_served() {
        let gate = Gate::new(4, 4);
        let from = |number| IpAddr::from([10, 0, 0, number]);
        let passes: Vec<_> = (1..=4).map(|number| gate.enter(from(number)).expect("room")).collect();
        let served = passes[0].speaks().expect("it is here");
        gate.resize(1, 1);
        for pass in &passes[1..] {
            assert_eq!(pass.stay().during(std::future::pending::<()>()).await, None);
            assert!(pass.speaks().is_none());
        }
        assert!(!passes[0].goes.is_cancelled());
        assert!(gate.enter(from(5)).is_none(), "there is no room, and nobody has to go");
        gate.resize(2, 1);
        let other = gate.enter(from(5)).expect("there is room again");
        assert!(!other.goes.is_cancelled() && !passes[0].goes.is_cancelled());
        drop(served);
    }

    #[tokio::test]
    async fn of_whoever_holds_the_most_the_oldest_silent_one_goes_and_who_is_served_stays() {
        let gate = Gate::new(3, 2);
        let enter = |last: u8| gate.enter([10, 0, 0, last].into());
        let (first, second, other) = (enter(1).expect("room"), enter(1).expect("room"), enter(2).expect("room"));
        let speaks = first.speaks().expect("it is held");
        let third = enter(3).expect("the second one goes");
        assert_eq!(second.stay().during(std::future::pending::<()>()).await, None);
        assert!(second.speaks().is_none(), "what it says now is not done");
        assert_eq!(first.stay().during(std::future::ready(7)).await, Some(7));
        assert!(enter(4).is_none(), "each has one, and may be in the middle of a handshake");
        drop((speaks, first, second, third, other));
        let _more = enter(5).expect("room");
    }
}
