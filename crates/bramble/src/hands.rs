//! A conversation with the head about processes on nodes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bramble_model::hands::{Data, End, Errand, Request, ToProcess, Told, WINDOW};
use bramble_model::names::Name;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{Client, problem};
use crate::heads::Stream;

/// An errand that is being done.
pub struct Hands {
    socket: WebSocketStream<Box<dyn Stream>>,
    /// The nodes that the set names.
    pub nodes: Vec<Name>,
    /// Nodes that have not ended.
    left: usize,
    /// Bytes of input that there is room for.
    room: u64,
}

impl Hands {
    /// Asks the head for an errand on these nodes.
    pub async fn begin(client: &Client, nodes: &str, errand: Errand) -> Result<Self> {
        let stream = client.connect().await?;
        let mut request = "ws://head/v1/hands".into_client_request()?;
        if let Some(credentials) = client.credentials() {
            request.headers_mut().insert("authorization", credentials.parse()?);
        }
        let mut socket = match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => socket,
            Err(Error::Http(answer)) => {
                return Err(problem(answer.status(), answer.body().as_deref().unwrap_or_default()));
            }
            Err(error) => return Err(error).context("the head does not answer"),
        };
        let request = serde_json::to_string(&Request { nodes: nodes.to_owned(), errand })?;
        socket.send(Message::text(request)).await.context("the connection to the head was lost")?;
        let mut hands = Hands { socket, nodes: Vec::new(), left: 0, room: WINDOW };
        match hands.receive().await? {
            Some(Told::Nodes { nodes }) => {
                hands.left = nodes.len();
                hands.nodes = nodes;
                Ok(hands)
            }
            Some(Told::Refused { error }) => bail!("{error}"),
            _ => bail!("the head's answer is malformed: is it of another version?"),
        }
    }

    async fn receive(&mut self) -> Result<Option<Told>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map(Some).context("the head's answer is malformed");
                }
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the connection to the head was lost"),
            }
        }
    }

    /// The next thing that is told; `None` when all nodes have ended.
    pub async fn next(&mut self) -> Result<Option<Told>> {
        if self.left == 0 {
            return Ok(None);
        }
        let told = self.receive().await?;
        match &told {
            Some(Told::Ended { .. }) => self.left -= 1,
            Some(Told::Room { bytes }) => self.room += bytes,
            None => bail!("the connection to the head was lost before {} nodes had ended", self.left),
            _ => {}
        }
        Ok(told)
    }

    /// Bytes of input that may be sent now.
    pub fn room(&self) -> usize {
        usize::try_from(self.room).unwrap_or(usize::MAX)
    }

    /// Sends input, no more than there is room for.
    pub async fn input(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.room = self.room.saturating_sub(bytes.len() as u64);
        self.tell(&ToProcess::Input { data: Data(bytes) }).await
    }

    pub async fn tell(&mut self, order: &ToProcess) -> Result<()> {
        let text = serde_json::to_string(order)?;
        self.socket.send(Message::text(text)).await.context("the connection to the head was lost")
    }
}

/// The exit code of the whole: that of the one node, or 0 where all succeeded, and else 1.
pub fn exit_code(ends: &BTreeMap<Name, End>) -> u8 {
    match ends.values().collect::<Vec<_>>()[..] {
        [end] => u8::try_from(end.code()).unwrap_or(255),
        _ => u8::from(ends.values().any(|end| end.code() != 0)),
    }
}

/// How a node ended, where it did not do what it was told.
pub fn trouble(end: &End) -> Option<String> {
    match end {
        End::Exited { code: 0 } => None,
        End::Exited { code } => Some(format!("exit code {code}")),
        End::Killed { signal } => Some(format!("killed by signal {signal}")),
        End::Failed { reason } => Some(reason.to_string()),
    }
}
